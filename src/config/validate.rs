//! Defaults and checks that concern several settings.

use super::choice::{IntervalStrategy, ModelInit, Precision, ShardWithin, TaskKind};
use super::distilled::distilled;
use super::keys::Section;
use super::mixed::{MicroBatchTokens, Recompute, ZeroStage};
use super::problems::Problems;
use super::sections::{AnswerConfig, Config, GenerationConfig, ParallelConfig, TaskConfig, TrainConfig};
use super::task_settings::duplicate;
use super::trained::trained;
use super::{augment, optimizers, other_tool_values, schedules, sources, streaming, task_settings};

/// Metrics of generated texts.
const GENERATION_METRICS: [&str; 2] = ["bleu", "rougeL"];

/// Sets defaults that follow from other settings, and notes settings that contradict others.
pub fn validate(config: &mut Config, problems: &mut Problems) {
    derived_train(&mut config.train, problems);
    derived_parallel(&mut config.parallel);
    answers(&mut config.task, problems);
    trained(config, problems);
    lora(config, problems);
    distilled(config, problems);
    new_tokens(config, problems);
    schedules::validate(&config.train, problems);
    optimizers::validate(&config.train, problems);
    labels(&config.task, problems);
    other_tasks(config, problems);
    augment::validate(config, problems);
    for problem in task_settings::columns(&config.task, &config.data) {
        problems.with("data.columns", problem);
    }
    streaming::validate(config, problems);
    sources::validate(config, problems);
    evaluation(config, problems);
    parallel(&config.parallel, config.train.micro_batch_tokens, problems);
}

impl Config {
    /// Returns `train.metric_for_best_model` without the name of an evaluation set.
    fn metric_of_a_set(&self) -> &str {
        let metric = self.train.metric_for_best_model.as_str();
        self.data.eval_sets.split(metric).map_or(metric, |(_, own)| own)
    }

    /// Returns what is wrong with `train.metric_for_best_model` with this number of labels.
    pub fn metric_of_two_labels(&self, labels: usize) -> Option<String> {
        let metric = self.metric_of_a_set();
        let wrong = self.task.kind == TaskKind::SequenceClassification
            && TaskKind::OF_TWO_LABELS.contains(&metric)
            && labels != 2;
        wrong.then(|| format!("{metric} is for two labels, and there are {labels}"))
    }
}

fn derived_train(train: &mut TrainConfig, problems: &Problems) {
    if train.eval_steps.is_some() && !problems.is_written("train.eval_strategy") {
        train.eval_strategy = IntervalStrategy::Steps;
    }
    // In Hugging Face, without eval_steps, evaluations come with the log lines.
    if train.eval_strategy == IntervalStrategy::Steps {
        train.eval_steps.get_or_insert(train.logging_steps);
    }
    if let Some(metric) = train.metric_for_best_model.strip_prefix("eval_") {
        train.metric_for_best_model = metric.to_owned();
    }
}

fn derived_parallel(parallel: &mut ParallelConfig) {
    if parallel.precision == Precision::Fp16 {
        parallel.loss_scale_init.get_or_insert(65536.0);
        parallel.loss_scale_window.get_or_insert(2000);
    }
}

/// Removes the settings of question answering from other tasks, and notes a problem with those that are written.
fn answers(task: &mut TaskConfig, problems: &mut Problems) {
    if task.kind == TaskKind::QuestionAnswering {
        return;
    }
    task.answers = None;
    if problems.is_written("task.kind") && problems.none_with(&["task.kind"]) {
        let why = format!("is for question-answering, and task.kind is \"{}\": remove it", task.kind);
        refuse::<AnswerConfig>(&why, problems);
    }
}

/// Notes a problem with each written setting of a section.
fn refuse<S: Section>(why: &str, problems: &mut Problems) {
    for key in S::keys().into_iter().map(|key| key.dotted()) {
        if problems.is_written(&key) {
            problems.with(&key, why);
        }
    }
}

/// Notes settings that contradict adapters.
fn lora(config: &Config, problems: &mut Problems) {
    let Config { model, lora, .. } = config;
    if !lora.is_on() {
        return;
    }
    for (key, set) in [("model.freeze", !model.freeze.is_empty()), ("model.train", model.train.is_some())] {
        if set {
            let why = "with [lora] all weights are frozen but the adapters and lora.modules_to_save: remove it";
            problems.with(key, why);
        }
    }
    if model.init == ModelInit::Random {
        problems.with("model.init", "an adapter needs a pretrained model: remove it, or the [lora] settings");
    }
    for (i, name) in lora.modules_to_save.iter().flatten().enumerate() {
        if name.is_empty() || lora.modules_to_save.iter().flatten().take(i).any(|other| other == name) {
            problems.with("lora.modules_to_save", format!("the module {name:?} is empty or appears twice"));
        }
    }
}

/// Notes tokens that cannot be added.
fn new_tokens(config: &Config, problems: &mut Problems) {
    const KEY: &str = "data.add_tokens";
    let tokens = &config.data.add_tokens;
    if tokens.iter().any(String::is_empty) {
        problems.with(KEY, "a token is an empty string");
    } else if let Some(twice) = duplicate(tokens) {
        problems.with(KEY, format!("the token {twice:?} appears twice"));
    } else if config.lora.is_on() && !tokens.is_empty() {
        let why = "an adapter has no rows for new tokens: train in full first, without [lora], or remove it";
        problems.with(KEY, why);
    }
}

fn labels(task: &TaskConfig, problems: &mut Problems) {
    const KEY: &str = "task.labels";
    let Some(labels) = &task.labels else { return };
    if !task.kind.has_labels() && problems.none_with(&["task.kind"]) {
        let why = format!("{} has no labels: remove them, or use kind = \"sequence-classification\"", task.kind);
        problems.with(KEY, why);
    } else if labels.is_empty() {
        problems.with(KEY, "found an empty list: name the labels, or remove the key to infer them from the data");
    } else if labels.iter().any(String::is_empty) {
        problems.with(KEY, "a label is an empty string");
    } else if let Some(twice) = duplicate(labels) {
        problems.with(KEY, format!("the label {twice:?} appears twice"));
    }
}

/// Notes settings that have no effect with this task or its files.
fn other_tasks(config: &Config, problems: &mut Problems) {
    let Config { task, data, .. } = config;
    if problems.none_with(&["task.kind"]) {
        for (key, why) in task_settings::misplaced(task, data) {
            problems.with(key, why);
        }
        if !task.predict_with_generate {
            let why = "nothing is generated without task.predict_with_generate = true";
            refuse::<GenerationConfig>(why, problems);
        }
    }
    if data.eval.is_some() && data.eval_split.is_some() {
        problems.with("data.eval_split", "holds out a part of the training data, but data.eval is set too: remove one");
    }
    if !data.eval_sets.is_empty() && !data.evaluates() && problems.none_with(&["data.eval", "data.eval_split"]) {
        let why = "are evaluated beside data.eval or data.eval_split: set one of them";
        problems.with("data.eval_sets", why);
    }
    if data.eval_target.is_some() && data.eval.is_none() && problems.none_with(&["data.eval"]) {
        problems.with("data.eval_target", "needs the file of the sources: set data.eval");
    }
}

/// Checks the settings of evaluation and of the best checkpoint against each other, except those already wrong.
fn evaluation(config: &Config, problems: &mut Problems) {
    const BEST: &str = "train.load_best_model_at_end";
    const PATIENCE: &str = "train.early_stopping_patience";
    const STRATEGIES: &[&str] = &["train.eval_strategy", "train.eval_steps"];
    let train = &config.train;

    let metric = config.metric_of_a_set();
    let mut metrics = config.task.kind.metrics().to_vec();
    if config.task.predict_with_generate {
        metrics.extend(GENERATION_METRICS);
    }
    if metric == "sentence_accuracy" && config.task.next_sentence != Some(true) && problems.none_with(&["task.kind"]) {
        problems.with("train.metric_for_best_model", "sentence_accuracy needs task.next_sentence = true");
    }
    if metric != "loss" && !metrics.contains(&metric) && problems.none_with(&["task.kind"]) {
        const KEY: &str = "train.metric_for_best_model";
        let known = |word: &str| metrics.iter().any(|metric| word.contains(&format!("use {metric:?}")));
        let other_tool = other_tool_values::problem(KEY, metric, &format!("{metric:?}")).filter(|text| known(text));
        let text = other_tool.unwrap_or_else(|| {
            format!("found {metric:?}, expected loss, {}: the metrics of {}", metrics.join(", "), config.task.kind)
        });
        problems.with(KEY, text);
    }

    let names = || metrics.iter().chain(&["loss"]);
    let taken = |set: &str| names().find(|metric| names().any(|other| **other == format!("{set}_{metric}")));
    if let Some((set, metric)) = config.data.eval_sets.iter().find_map(|(set, _)| Some((set, taken(set)?))) {
        let why =
            format!("{set:?}: its {metric} would have the name of another metric, {set}_{metric}: rename the set");
        problems.with("data.eval_sets", why);
    }

    if let Some(labels) = &config.task.labels
        && let Some(why) = config.metric_of_two_labels(labels.len())
    {
        problems.with("train.metric_for_best_model", why);
    }

    let wants_eval = train.eval_strategy != IntervalStrategy::No;
    let has_data = config.data.evaluates() || !problems.none_with(&["data.eval", "data.eval_split"]);
    let users = [
        (BEST, train.load_best_model_at_end, "finding the best model"),
        (PATIENCE, train.early_stopping_patience.is_some(), "early stopping"),
    ];
    if !has_data {
        if wants_eval {
            let key = STRATEGIES.iter().find(|key| problems.is_written(key)).unwrap_or(&STRATEGIES[0]);
            problems.with(
                key,
                format!("evaluation (eval_strategy = \"{}\") needs data.eval or data.eval_split", train.eval_strategy),
            );
        }
        if train.eval_on_start {
            problems.with("train.eval_on_start", "an evaluation needs data.eval or data.eval_split");
        }
    }
    for (key, _, what) in users.into_iter().filter(|(_, used, _)| *used) {
        if !has_data {
            problems.with(key, format!("{what} needs data.eval or data.eval_split"));
        } else if !wants_eval && problems.none_with(STRATEGIES) {
            problems.with(key, format!("{what} needs evaluations: set train.eval_strategy or train.eval_steps"));
        }
    }
    const TEXTS: &str = "train.report_texts";
    if train.report_texts && !train.report && problems.none_with(&[TEXTS, "train.report"]) {
        problems.with(TEXTS, "there is no report with train.report = false: remove one of them");
    }
    const SMOOTHED: &[TaskKind] = &[
        TaskKind::SequenceClassification,
        TaskKind::TokenClassification,
        TaskKind::MaskedLm,
        TaskKind::CausalLm,
        TaskKind::Chat,
        TaskKind::Seq2seq,
    ];
    let kind = config.task.kind;
    if train.label_smoothing_factor > 0.0 && !SMOOTHED.contains(&kind) && problems.none_with(&["task.kind"]) {
        problems.with("train.label_smoothing_factor", format!("{kind} does not use this: remove it"));
    }
    if train.early_stopping_threshold > 0.0
        && train.early_stopping_patience.is_none()
        && problems.none_with(&[PATIENCE])
    {
        problems.with("train.early_stopping_threshold", "has no effect without train.early_stopping_patience");
    }
}

/// Notes settings of `[parallel]` that contradict others, or have no effect with others. None is ignored silently.
fn parallel(parallel: &ParallelConfig, tokens: MicroBatchTokens, problems: &mut Problems) {
    const PRECISION: &str = "parallel.precision";
    let ParallelConfig { precision, reduce_dtype, .. } = *parallel;

    if parallel.memory_per_rank.is_some()
        && parallel.zero_stage != ZeroStage::Auto
        && tokens != MicroBatchTokens::Auto
        && parallel.recompute != Recompute::Auto
        && problems.none_with(&["parallel.zero_stage", "train.micro_batch_tokens", "parallel.recompute"])
    {
        let text = format!(
            "is a limit for \"auto\", but zero_stage is {}, micro_batch_tokens is {tokens} and recompute is {}",
            parallel.zero_stage, parallel.recompute
        );
        problems.with("parallel.memory_per_rank", format!("{text}: remove it, or set one of them to \"auto\""));
    }
    if parallel.shard_within == ShardWithin::Host
        && parallel.zero_stage == ZeroStage::Stage(0)
        && problems.none_with(&["parallel.zero_stage", "parallel.shard_within"])
    {
        let text = "nothing is sharded with zero_stage = 0: set it to 3 (or 1, 2, \"auto\"), or remove this";
        problems.with("parallel.shard_within", text);
    }
    if !problems.none_with(&[PRECISION]) {
        return;
    }
    if reduce_dtype != Precision::Fp32 && reduce_dtype != precision {
        let half = if precision == Precision::Fp32 { String::new() } else { format!(" or \"{precision}\"") };
        let text = format!("found \"{reduce_dtype}\" with precision = \"{precision}\", expected \"fp32\"{half}");
        problems.with("parallel.reduce_dtype", text);
    }
    if parallel.tf32 == Some(true) && precision != Precision::Fp32 {
        let text = format!("is for fp32 matmuls, and precision is \"{precision}\": remove it");
        problems.with("parallel.tf32", text);
    }
    for key in ["parallel.loss_scale_init", "parallel.loss_scale_window"] {
        if precision != Precision::Fp16 && problems.is_written(key) {
            problems.with(key, format!("is for precision = \"fp16\", and precision is \"{precision}\": remove it"));
        }
    }
}
