//! Configurations other than `super::full`: of other tasks, and of settings that contradict those.

use super::{refused, with};
use crate::config::{Config, EvalSplit};

/// Configurations with the settings that no other has.
pub fn all() -> [Config; 16] {
    let generation = [
        "do_sample=true",
        "early_stopping=true",
        "length_penalty=0.5",
        "max_new_tokens=9",
        "min_new_tokens=2",
        "num_beams=3",
        "repetition_penalty=1.5",
        "no_repeat_ngram_size=3",
        "temperature=0.7",
        "top_k=5",
        "top_p=0.9",
    ];
    let lora = [
        "lora.r=4",
        "lora.lora_alpha=16",
        "lora.lora_dropout=0.1",
        r#"lora.target_modules=["q_proj", "layers.1.*"]"#,
        "lora.use_rslora=true",
        "lora.use_dora=true",
        r#"lora.modules_to_save=["embed_tokens"]"#,
        "lora.base_model_name_or_path=base",
    ];
    let augment = [
        "augment.replace=0.1",
        "augment.insert=0.2",
        "augment.swap=0.3",
        "augment.delete=0.4",
        "augment.mask=1",
        "augment.synonyms=s.txt",
        "sampling=class_balanced",
        "weight_column=w",
    ];
    [
        with(&lora).unwrap(),
        with(&augment).unwrap(),
        with(&["kind=multiple-choice", "context_column=c"]).unwrap(),
        with(&["kind=question-answering", "version_2_with_negative=true", "doc_stride=64"]).unwrap(),
        with(&[&["kind=seq2seq", "predict_with_generate=true"][..], &generation].concat()).unwrap(),
        with(&["kind=masked-lm", "next_sentence=true", "mlm_probability=0.3", "whole_word_mask=true"]).unwrap(),
        with(&["kind=causal-lm", "packing=false", "format=text", "documents=lines"]).unwrap(),
        with(&["kind=chat", "split_turns=true"]).unwrap(),
        with(&["kind=embedding", "negative_column=n", "scale=50", "pooling=cls", "normalize=true"]).unwrap(),
        with(&["kind=embedding", "loss=cosine_similarity", "max_score=5"]).unwrap(),
        with(&["model.train=['head']", "unfreeze=epoch", "profile=2..3"]).unwrap(),
        with(&["class_weights=balanced", "eval_split=2/5"]).unwrap(),
        with(&["distill.teacher=t", "distill.temperature=3", "distill.alpha=0.7"]).unwrap(),
        with(&["model.layers=[0, 2, 4]"]).unwrap(),
        with(&["streaming=true", "shuffle_buffer_size=50", "max_steps=9", r#"task.labels=["a", "b"]"#]).unwrap(),
        with(&[
            "class_weights={ a = 2, 'b c' = 0.5 }",
            "eval=e",
            "eval_steps=5",
            "early_stopping_patience=2",
            "max_time=90m",
        ])
        .unwrap(),
    ]
}

/// Columns of other tasks are refused, those of the task are not.
#[test]
fn columns_belong_to_tasks() {
    refused(
        &["words_column=w"],
        "data.words_column: sequence-classification does not use this, only token-classification",
    );
    refused(&["kind=causal-lm", "split_turns=true"], "task.split_turns: causal-lm does not use this, only chat");
    refused(
        &["kind=token-classification", "text_column=t"],
        "data.text_column: token-classification does not use this",
    );
    refused(&["kind=seq2seq", "header=true"], "data.header: seq2seq does not use this");
    refused(&["kind=chat", "label_column=l"], "data.label_column: chat does not use this");
    refused(&["kind=causal-lm", "prompt_column=p"], "data.prompt_column: causal-lm does not use this, only chat");
    refused(&[r#"data.columns=["id", "text"]"#], "lacks \"label\", which is data.label_column");
    let embedding = ["kind=embedding", r#"data.columns=["text", "text_pair"]"#];
    with(&embedding).unwrap();
    refused(&[embedding[0], embedding[1], "loss=cosine_similarity"], "lacks \"label\", which is data.label_column");
    refused(
        &[embedding[0], "loss=cosine_similarity", "negative_column=n"],
        "data.negative_column: pairs with scores have no negatives",
    );
    refused(&["kind=regression", "pooling=cls"], "task.pooling: regression does not use this, only embedding");
    with(&["kind=causal-lm", r#"data.columns=["id", "text"]"#]).unwrap();
    for own in [
        ["kind=token-classification", "words_column=w", "tags_column=t"],
        ["kind=multiple-choice", "choices_column=c", "label_column=l"],
        ["kind=chat", "messages_column=m", "prompt_column=p"],
        ["kind=causal-lm", "text_column=t", "header=true"],
        ["kind=regression", "text_pair_column=p", "label_column=l"],
        ["kind=embedding", "text_pair_column=p", "label_column=l"],
    ] {
        with(&own).unwrap();
    }
}

/// Augmentation, sampling and weights are for some tasks.
#[test]
fn variations_belong_to_tasks() {
    refused(&["swap=1.5"], "augment.swap: found the number 1.5, expected a number in [0, 1]");
    for kind in ["causal-lm", "masked-lm", "question-answering", "multiple-choice", "seq2seq", "chat", "embedding"] {
        let expected = format!("augment.delete: {kind} does not use this, only sequence-classification, multi-label");
        refused(&[&format!("kind={kind}"), "delete=0.1"], &expected);
        refused(&[&format!("kind={kind}"), "weight_column=w"], "data.weight_column");
    }
    let tagging = "kind=token-classification";
    refused(&[tagging, "insert=0.1"], "augment.insert: an inserted word has no tag in token-classification: remove it");
    refused(&[tagging, "replace=0.1"], "augment.replace: a random word does not have the tag of the word it replaces");
    with(&[tagging, "replace=0.1", "synonyms=s", "swap=0.1", "delete=0.1", "mask=0.1"]).unwrap();
    refused(&["synonyms=s", "swap=0.1"], "augment.synonyms: has no effect without augment.replace or augment.insert");
    for kind in ["regression", "multi-label", "token-classification"] {
        let expected = format!("data.sampling: {kind} does not use this, only sequence-classification");
        refused(&[&format!("kind={kind}"), "sampling=class_balanced"], &expected);
    }
    refused(&["sampling=balanced"], "data.sampling: found \"balanced\", expected \"random\" or \"class_balanced\"");
    refused(&["weight_column=w", r#"data.columns=["text", "label"]"#], "lacks \"w\", which is data.weight_column");
    assert!(!with(&[]).unwrap().augment.is_on());
}

/// Of the two ways to name evaluation data the one on the command line counts.
#[test]
fn evaluation_data_is_a_file_or_held_out() {
    refused(
        &["eval=e", "eval_split=0.1"],
        "data.eval_split: holds out a part of the training data, but data.eval is set",
    );
    refused(&["eval_split=1"], "data.eval_split: found the integer 1, expected a number above 0 and at most 0.5");
    let file = |data: &str, word: &str| {
        let text = format!("output_dir='o'\nmodel.path='m'\ntask.kind='seq2seq'\n[data]\ntrain='t'\n{data}");
        Config::parse(&text, "run.toml", &[word.to_owned()]).unwrap().data
    };
    let data = file("eval='e'\neval_target='f'\n", "eval_split=0.25");
    assert_eq!((data.eval, data.eval_target, data.eval_split), (None, None, Some(EvalSplit::Fraction(0.25))));
    let data = file("eval_split='1/3'\n", "eval=e");
    assert_eq!((data.eval, data.eval_split), (Some("e".into()), None));
}

#[test]
fn time_limits_have_units() {
    let read = |time: &str| with(&[&format!("max_time={time}")]).unwrap().train.max_time.unwrap();
    for (time, seconds) in
        [("90", 90), ("90s", 90), ("90m", 5400), ("'12 h'", 43_200), ("2d", 172_800), ("00:01:30", 90)]
    {
        assert_eq!(read(time).0, seconds, "{time}");
    }
    assert_eq!((read("1-06:00:00").0, read("100:00:01").0), (108_000, 360_001));
    let written = ["90", "5400", "7200", "86400"].map(|seconds| read(seconds).to_string());
    assert_eq!(written, ["90", "\"90m\"", "\"2h\"", "\"1d\""]);
    for bad in ["0", "-5", "1w", "10:00", "00:61:00", "x-00:00:01", "true", "99999999999999999999", "1.5h"] {
        refused(&[&format!("max_time={bad}")], "expected a time such as \"90m\", \"12h\" or \"1-06:00:00\"");
    }
}

#[test]
fn a_teacher_needs_a_task_with_few_classes() {
    let teacher = "distill.teacher=t";
    assert_eq!(with(&[teacher]).unwrap().distill.temperature, 2.0);
    refused(&["distill.alpha=0.3"], "distill.alpha: has no effect without distill.teacher");
    refused(&["distill.temperature=1"], "distill.temperature: has no effect without distill.teacher");
    refused(&[teacher, "distill.alpha=0"], "distill.alpha: found the integer 0, expected a number in (0, 1]");
    refused(&[teacher, "distill.temperature=0"], "distill.temperature: found the integer 0, expected a number > 0");
    for kind in ["causal-lm", "masked-lm", "seq2seq", "chat"] {
        refused(&[&format!("task.kind={kind}"), teacher], "distill.teacher: ");
        refused(&[&format!("task.kind={kind}"), teacher], "predicts tokens of a vocabulary");
    }
    let temperature = [teacher, "task.kind=regression", "distill.temperature=3"];
    refused(&temperature, "distill.temperature: regression has no probabilities");
}

#[test]
fn layers_are_kept_once_and_in_order() {
    assert_eq!(with(&["layers=[1, 3]"]).unwrap().model.layers, Some(vec![1, 3]));
    refused(&["model.layers=[]"], "model.layers: an empty list keeps no layer");
    refused(&["model.layers=[0, 2, 2]"], "model.layers: the layer 2 appears twice");
    refused(&["model.layers=[2, 0]"], "model.layers: the layers are not in ascending order");
    let expected = "model.layers: found the integer -1 in the list, expected a list of integers such as [0, 2, 4]";
    refused(&["model.layers=[0, -1]"], expected);
    refused(&["model.layers=3"], "model.layers: found the integer 3, expected a list of integers such as [0, 2, 4]");
    refused(&["model.layers=[0]", "lora.r=4"], "model.layers: an adapter would be of a model that no folder has");
}
