//! Checks of `data.streaming` against the settings that need to know all of the training data.

use super::choice::{IntervalStrategy, LrSchedulerType, Sampling, TaskKind};
use super::class_weights::ClassWeights;
use super::problems::Problems;
use super::sections::{Config, DataConfig, Unfreeze};

/// Notes settings that a stream cannot have, and those that it needs.
pub(super) fn validate(config: &Config, problems: &mut Problems) {
    let Config { task, data, train, .. } = config;
    if !data.streaming {
        const BUFFER: &str = "data.shuffle_buffer_size";
        if data.shuffle_buffer_size != DataConfig::default().shuffle_buffer_size && problems.none_with(&[BUFFER]) {
            problems
                .with(BUFFER, "has no effect without data.streaming = true: all of the data is shuffled; remove it");
        }
        return;
    }
    let in_epochs = match &train.unfreeze {
        Some(Unfreeze::EveryEpoch(_)) => true,
        Some(Unfreeze::Stages(stages)) => stages.iter().any(|stage| stage.at_epoch.is_some()),
        Some(Unfreeze::EverySteps(_)) | None => false,
    };
    let by_epoch = |strategy| strategy == IntervalStrategy::Epoch;
    let unlabelled = task.kind.has_labels() && task.labels.is_none();
    let allows_none = task.answers.as_ref().and_then(|answers| answers.version_2_with_negative);
    let unknown_answers = task.kind == TaskKind::QuestionAnswering && allows_none.is_none();
    let length = "with data.streaming the number of steps of an epoch is not known";
    let whole = "needs all of the training data, and data.streaming reads it piece by piece";
    let inferred = "with data.streaming it cannot be inferred from the data";
    let side_by_side = "files side by side cannot be streamed: convert them to records with source and target";
    let checks = [
        ("train.max_steps", train.max_steps.is_none(), format!("{length}: set the number of steps")),
        ("task.labels", unlabelled, format!("{inferred}: name the labels")),
        ("task.version_2_with_negative", unknown_answers, format!("{inferred}: set it to true or false")),
        ("data.eval_split", data.eval_split.is_some(), format!("{whole}: set data.eval to files of their own")),
        (
            "data.sources",
            !data.sources.is_empty(),
            "are mixed by the number of their examples, which data.streaming does not know: remove one of the two"
                .into(),
        ),
        ("data.sampling", data.sampling == Sampling::ClassBalanced, format!("class_balanced {whole}: remove it")),
        (
            "task.class_weights",
            task.class_weights == Some(ClassWeights::Balanced),
            format!("\"balanced\" {whole}: give the weights as a table"),
        ),
        ("data.train_target", data.train_target.is_some(), side_by_side.to_owned()),
        ("task.next_sentence", task.next_sentence == Some(true), format!("{whole}: remove one of the two")),
        ("augment", config.augment.is_on(), format!("{whole}: remove the section, or data.streaming")),
        ("train.eval_strategy", by_epoch(train.eval_strategy), format!("{length}: set train.eval_steps")),
        ("train.save_strategy", by_epoch(train.save_strategy), format!("{length}: set train.save_steps")),
        (
            "train.lr_scheduler_type",
            train.lr_scheduler_type == LrSchedulerType::Exponential,
            format!("exponential decays in each epoch, and {length}: use another schedule"),
        ),
        ("train.unfreeze", in_epochs, format!("{length}: give a number of steps, or stages with at_step")),
    ];
    for (key, is_wrong, why) in checks {
        if is_wrong && problems.none_with(&[key, "task.kind"]) {
            problems.with(key, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, DataConfig};

    const LABELS: &str = "task.labels=[\"a\", \"b\"]";

    fn read(words: &[&str]) -> Result<Config, String> {
        let text = "output_dir = 'o'\nmodel.path = 'm'\ntask.kind = 'sequence-classification'\ndata.train = 't'\n";
        let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
        Config::parse(text, "run.toml", &words).map_err(|e| e.to_string())
    }

    #[test]
    fn a_stream_refuses_what_needs_all_of_the_data() {
        let stream = ["streaming=true", "max_steps=5", LABELS];
        let config = read(&stream).unwrap();
        assert_eq!((config.data.streaming, config.data.shuffle_buffer_size), (true, 1000));
        assert!(read(&["streaming=true", LABELS]).unwrap_err().contains("train.max_steps: with data.streaming"));
        assert!(read(&["streaming=true", "max_steps=5"]).unwrap_err().contains("task.labels: with data.streaming"));
        for (word, says) in [
            ("eval_split=0.1", "data.eval_split: needs all of the training data"),
            ("sampling=class_balanced", "data.sampling: class_balanced needs all"),
            ("class_weights=balanced", "task.class_weights: \"balanced\" needs all"),
            ("augment.swap=0.1", "augment: needs all"),
            ("save_strategy=epoch", "train.save_strategy: with data.streaming the number of steps"),
            ("eval_strategy=epoch", "train.eval_strategy: with data.streaming"),
            ("lr_scheduler_type=exponential", "train.lr_scheduler_type: exponential decays in each epoch"),
            ("unfreeze=epoch", "train.unfreeze: with data.streaming"),
        ] {
            let message = read(&[&stream[..], &[word]].concat()).unwrap_err();
            assert!(message.contains(says), "{word}: {message}");
        }
        for (kind, word, says) in [
            ("question-answering", "doc_stride=64", "task.version_2_with_negative: with data.streaming"),
            ("masked-lm", "next_sentence=true", "task.next_sentence: needs all"),
            ("seq2seq", "train_target=x", "data.train_target: files side by side"),
        ] {
            let message = read(&["streaming=true", "max_steps=5", &format!("task.kind={kind}"), word]).unwrap_err();
            assert!(message.contains(says), "{kind}: {message}");
        }
        for kind in ["causal-lm", "masked-lm", "chat", "seq2seq", "multiple-choice", "regression"] {
            read(&["streaming=true", "max_steps=5", &format!("task.kind={kind}")]).unwrap();
        }
        let weights = "class_weights={ a = 2.0 }";
        read(&[&stream[..], &[weights, "unfreeze=3", "weight_column=w", "eval=e", "eval_steps=2"]].concat()).unwrap();
    }

    #[test]
    fn a_buffer_needs_a_stream() {
        let message = read(&["shuffle_buffer_size=5"]).unwrap_err();
        assert!(message.contains("data.shuffle_buffer_size: has no effect without data.streaming"), "{message}");
        assert_eq!(DataConfig::default().shuffle_buffer_size, 1000);
    }
}
