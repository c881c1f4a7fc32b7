//! Defaults and checks: from settings as written to a [`Config`].

use super::choice::{IntervalStrategy, LrSchedulerType};
use super::problems::Problems;
use super::raw::{Raw, RawData, RawGeneration, RawTask, RawTrain};
use super::{
    CommConfig, Config, DataConfig, GenerationConfig, ModelConfig, TaskConfig, TaskKind, TrainConfig, answers, foreign,
    generation, parallel,
};

/// The configuration with its defaults. It is good only if `problems` is empty afterwards: a stand-in takes the place
/// of each setting that is missing or wrong.
pub fn validate(raw: Raw, problems: &mut Problems) -> Config {
    let config = Config {
        output_dir: required("output_dir", raw.top.output_dir, problems),
        overwrite_output_dir: raw.top.overwrite_output_dir.unwrap_or(false),
        seed: raw.top.seed.unwrap_or(42),
        model: ModelConfig {
            path: required("model.path", raw.model.path, problems),
            init: raw.model.init.unwrap_or_default(),
            freeze: raw.model.freeze.unwrap_or_default(),
            hidden_dropout_prob: raw.model.hidden_dropout_prob,
            attention_probs_dropout_prob: raw.model.attention_probs_dropout_prob,
            classifier_dropout: raw.model.classifier_dropout,
        },
        task: task(raw.task, problems),
        data: data(raw.data, problems),
        train: train(raw.train),
        generation: generation_of(raw.generation),
        parallel: parallel::settings(raw.parallel),
        comm: CommConfig {
            backend: raw.comm.backend.unwrap_or_default(),
            timeout_seconds: raw.comm.timeout_seconds.unwrap_or(600.0),
        },
    };
    numbers(&config, problems);
    freeze(&config.model, problems);
    warmup(&config.train, problems);
    labels(&config.task, problems);
    misplaced(&config, problems);
    columns(&config, problems);
    evaluation(&config, problems);
    parallel::check(&config.parallel, config.train.micro_batch_tokens, problems);
    config
}

fn required<T: Default>(key: &str, value: Option<T>, problems: &mut Problems) -> T {
    if value.is_none() && !problems.is_written(key) {
        problems.with(key, "is required, and is missing");
    }
    value.unwrap_or_default()
}

fn task(raw: RawTask, problems: &mut Problems) -> TaskConfig {
    let kind = required("task.kind", raw.kind, problems);
    let answers = answers::settings(&raw, kind, problems);
    TaskConfig {
        kind,
        labels: raw.labels,
        source_prefix: raw.source_prefix,
        max_target_length: raw.max_target_length.map(|n| n.0),
        predict_with_generate: raw.predict_with_generate.unwrap_or(false),
        packing: raw.packing,
        mlm_probability: raw.mlm_probability,
        whole_word_mask: raw.whole_word_mask,
        next_sentence: raw.next_sentence,
        answers,
    }
}

fn data(raw: RawData, problems: &mut Problems) -> DataConfig {
    let default = DataConfig::new(required("data.train", raw.train, problems));
    DataConfig {
        train_target: raw.train_target,
        eval: raw.eval,
        eval_target: raw.eval_target,
        max_length: raw.max_length.map(|n| n.0),
        text_column: raw.text_column.unwrap_or(default.text_column),
        text_pair_column: raw.text_pair_column,
        label_column: raw.label_column.unwrap_or(default.label_column),
        source_column: raw.source_column.unwrap_or(default.source_column),
        target_column: raw.target_column.unwrap_or(default.target_column),
        words_column: raw.words_column.unwrap_or(default.words_column),
        tags_column: raw.tags_column.unwrap_or(default.tags_column),
        question_column: raw.question_column.unwrap_or(default.question_column),
        context_column: raw.context_column,
        choices_column: raw.choices_column.unwrap_or(default.choices_column),
        prompt_column: raw.prompt_column.unwrap_or(default.prompt_column),
        completion_column: raw.completion_column.unwrap_or(default.completion_column),
        messages_column: raw.messages_column.unwrap_or(default.messages_column),
        columns: raw.columns,
        header: raw.header,
        on_bad_record: raw.on_bad_record.unwrap_or_default(),
        cache_dir: raw.cache_dir,
        documents: raw.documents,
        format: raw.format,
        train: default.train,
    }
}

fn generation_of(raw: RawGeneration) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens: raw.max_new_tokens.map(|n| n.0),
        min_new_tokens: raw.min_new_tokens,
        do_sample: raw.do_sample,
        temperature: raw.temperature,
        top_k: raw.top_k,
        top_p: raw.top_p,
        repetition_penalty: raw.repetition_penalty,
        num_beams: raw.num_beams.map(|n| n.0),
        length_penalty: raw.length_penalty,
        early_stopping: raw.early_stopping,
    }
}

fn train(raw: RawTrain) -> TrainConfig {
    let logging_steps = raw.logging_steps.map_or(500, |n| n.0);
    let implied = if raw.eval_steps.is_some() { IntervalStrategy::Steps } else { IntervalStrategy::No };
    let eval_strategy = raw.eval_strategy.unwrap_or(implied);
    // Hugging Face: without eval_steps, evaluations come with the log lines.
    let implied = (eval_strategy == IntervalStrategy::Steps).then_some(logging_steps);
    let metric = raw.metric_for_best_model.as_deref().unwrap_or("loss");
    TrainConfig {
        num_train_epochs: raw.num_train_epochs.unwrap_or(3.0),
        max_steps: raw.max_steps.map(|n| n.0),
        global_batch_size: raw.global_batch_size.map_or(8, |n| n.0),
        micro_batch_tokens: raw.micro_batch_tokens.unwrap_or_default(),
        learning_rate: raw.learning_rate.unwrap_or(5e-5),
        lr_scheduler_type: raw.lr_scheduler_type.unwrap_or_default(),
        warmup_ratio: raw.warmup_ratio.unwrap_or(0.0),
        warmup_steps: raw.warmup_steps.unwrap_or(0),
        weight_decay: raw.weight_decay.unwrap_or(0.0),
        adam_beta1: raw.adam_beta1.unwrap_or(0.9),
        adam_beta2: raw.adam_beta2.unwrap_or(0.999),
        adam_epsilon: raw.adam_epsilon.unwrap_or(1e-8),
        max_grad_norm: raw.max_grad_norm.unwrap_or(1.0),
        on_non_finite: raw.on_non_finite.unwrap_or_default(),
        logging_steps,
        profile_steps: raw.profile_steps.map_or(0, |n| n.0),
        eval_strategy,
        eval_steps: raw.eval_steps.map(|n| n.0).or(implied),
        save_strategy: raw.save_strategy.unwrap_or(IntervalStrategy::Steps),
        save_steps: raw.save_steps.map_or(500, |n| n.0),
        save_total_limit: raw.save_total_limit.map(|n| n.0),
        load_best_model_at_end: raw.load_best_model_at_end.unwrap_or(false),
        metric_for_best_model: metric.strip_prefix("eval_").unwrap_or(metric).to_owned(),
        greater_is_better: raw.greater_is_better,
    }
}

/// What a number must be, in words and as a test. All must be finite.
type Range = (&'static str, fn(f64) -> bool);
const POSITIVE: Range = ("a number greater than 0", |x| x > 0.0);
const FINITE: Range = ("a number", |_| true);
const FROM_0: Range = ("a number from 0 up", |x| x >= 0.0);
const FROM_0_TO_1: Range = ("a number from 0 to 1", |x| (0.0..=1.0).contains(&x));
const FROM_0_BELOW_1: Range = ("a number from 0 up and less than 1", |x| (0.0..1.0).contains(&x));
const ABOVE_0_BELOW_1: Range = ("a number greater than 0 and less than 1", |x| x > 0.0 && x < 1.0);
/// So that it fits every clock.
const SECONDS: Range = ("a number greater than 0 and at most 1e9", |x| x > 0.0 && x <= 1e9);

fn numbers(config: &Config, problems: &mut Problems) {
    let (model, train, generation) = (&config.model, &config.train, &config.generation);
    let floats = [
        ("model.hidden_dropout_prob", model.hidden_dropout_prob, FROM_0_BELOW_1),
        ("model.attention_probs_dropout_prob", model.attention_probs_dropout_prob, FROM_0_BELOW_1),
        ("model.classifier_dropout", model.classifier_dropout, FROM_0_BELOW_1),
        ("task.mlm_probability", config.task.mlm_probability, ABOVE_0_BELOW_1),
        ("train.num_train_epochs", Some(train.num_train_epochs), POSITIVE),
        ("train.learning_rate", Some(train.learning_rate), POSITIVE),
        ("train.warmup_ratio", Some(train.warmup_ratio), FROM_0_TO_1),
        ("train.weight_decay", Some(train.weight_decay), FROM_0),
        ("train.adam_beta1", Some(train.adam_beta1), FROM_0_BELOW_1),
        ("train.adam_beta2", Some(train.adam_beta2), FROM_0_BELOW_1),
        ("train.adam_epsilon", Some(train.adam_epsilon), POSITIVE),
        ("train.max_grad_norm", Some(train.max_grad_norm), FROM_0),
        ("generation.temperature", generation.temperature, POSITIVE),
        ("generation.top_p", generation.top_p, FROM_0_TO_1),
        ("generation.repetition_penalty", generation.repetition_penalty, POSITIVE),
        ("generation.length_penalty", generation.length_penalty, FINITE),
        ("comm.timeout_seconds", Some(config.comm.timeout_seconds), SECONDS),
    ];
    for (key, value, (expected, holds)) in floats {
        if let Some(x) = value.filter(|x| !x.is_finite() || !holds(*x)) {
            problems.with(key, format!("found {x}, expected {expected}"));
        }
    }
}

/// Hugging Face's `constant` ignores warm-up without a word.
fn warmup(train: &TrainConfig, problems: &mut Problems) {
    let wanted = [("train.warmup_ratio", train.warmup_ratio > 0.0), ("train.warmup_steps", train.warmup_steps > 0)];
    for (key, _) in wanted.into_iter().filter(|(_, set)| *set && train.lr_scheduler_type == LrSchedulerType::Constant) {
        let text = "the schedule \"constant\" has no warm-up: set lr_scheduler_type = \"constant_with_warmup\"";
        problems.with(key, text);
    }
}

fn freeze(model: &ModelConfig, problems: &mut Problems) {
    const KEY: &str = "model.freeze";
    if model.freeze.iter().any(String::is_empty) {
        problems.with(KEY, "a pattern is an empty string, which matches no tensor: remove it");
    } else if let Some(twice) = duplicate(&model.freeze) {
        problems.with(KEY, format!("the pattern {twice:?} is there twice"));
    }
}

fn labels(task: &TaskConfig, problems: &mut Problems) {
    const KEY: &str = "task.labels";
    let Some(labels) = &task.labels else { return };
    if !task.kind.has_labels() && problems.none_with(&["task.kind"]) {
        let why = format!("{} has no labels: remove them, or use kind = \"sequence-classification\"", task.kind);
        problems.with(KEY, why);
    } else if labels.is_empty() {
        problems.with(KEY, "found an empty list: name the labels, or remove the key to find them in the data");
    } else if labels.iter().any(String::is_empty) {
        problems.with(KEY, "a label is an empty string");
    } else if let Some(twice) = duplicate(labels) {
        problems.with(KEY, format!("the label {twice:?} is there twice"));
    }
}

/// Settings that mean something to other tasks or files alone.
fn misplaced(config: &Config, problems: &mut Problems) {
    if problems.none_with(&["task.kind"]) {
        for (key, why) in super::misplaced(&config.task, &config.data).into_iter().chain(generation::misplaced(config))
        {
            problems.with(key, why);
        }
    }
    let data = &config.data;
    if data.eval_target.is_some() && data.eval.is_none() && problems.none_with(&["data.eval"]) {
        problems.with("data.eval_target", "the file of its sources is wanted too: set data.eval");
    }
}

fn columns(config: &Config, problems: &mut Problems) {
    const KEY: &str = "data.columns";
    let data = &config.data;
    let Some(names) = &data.columns else { return };
    let is_labelled = !matches!(config.task.kind, TaskKind::CausalLm | TaskKind::MaskedLm);
    if data.header == Some(true) {
        problems.with(KEY, "names the columns of a file without a header: remove it, or set data.header = false");
    }
    if let Some(twice) = duplicate(names) {
        problems.with(KEY, format!("the column {twice:?} is there twice"));
    }
    let wanted = [
        ("text_column", Some(&data.text_column)),
        ("text_pair_column", data.text_pair_column.as_ref()),
        ("label_column", is_labelled.then_some(&data.label_column)),
    ];
    for (key, name) in wanted {
        if let Some(name) = name.filter(|name| !names.contains(name)) {
            problems.with(KEY, format!("lacks {name:?}, which is data.{key}"));
        }
    }
}

fn duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, name)| name)
}

/// The settings of evaluation and of the best checkpoint against each other. What is wrong already is left alone.
fn evaluation(config: &Config, problems: &mut Problems) {
    const BEST: &str = "train.load_best_model_at_end";
    const STRATEGIES: &[&str] = &["train.eval_strategy", "train.eval_steps"];
    let train = &config.train;

    let metric = &train.metric_for_best_model;
    let mut metrics = config.task.kind.metrics().to_vec();
    if config.task.predict_with_generate {
        metrics.extend(generation::METRICS);
    }
    if metric == "sentence_accuracy" && config.task.next_sentence != Some(true) && problems.none_with(&["task.kind"]) {
        problems.with("train.metric_for_best_model", "sentence_accuracy needs task.next_sentence = true");
    }
    if metric != "loss" && !metrics.contains(&metric.as_str()) && problems.none_with(&["task.kind"]) {
        const KEY: &str = "train.metric_for_best_model";
        let known = |word: &str| metrics.iter().any(|metric| word.contains(&format!("use {metric:?}")));
        let text = foreign::word(KEY, metric, &format!("{metric:?}")).filter(|told| known(told)).unwrap_or_else(|| {
            format!("found {metric:?}, expected loss, {}: the metrics of {}", metrics.join(", "), config.task.kind)
        });
        problems.with(KEY, text);
    }

    if let Some(labels) = &config.task.labels
        && let Some(why) = config.metric_of_two_labels(labels.len())
    {
        problems.with("train.metric_for_best_model", why);
    }

    let wants_eval = train.eval_strategy != IntervalStrategy::No;
    if config.data.eval.is_none() && problems.none_with(&["data.eval"]) {
        if wants_eval {
            let key = STRATEGIES.iter().find(|key| problems.is_written(key)).unwrap_or(&STRATEGIES[0]);
            problems.with(key, format!("evaluation (eval_strategy = \"{}\") needs data.eval", train.eval_strategy));
        }
        if train.load_best_model_at_end {
            problems.with(BEST, "finding the best model needs data.eval");
        }
    } else if train.load_best_model_at_end && !wants_eval && problems.none_with(STRATEGIES) {
        problems.with(BEST, "finding the best model needs evaluations: set train.eval_strategy or train.eval_steps");
    }
}
