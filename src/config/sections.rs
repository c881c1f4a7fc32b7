//! The sections of a [`super::Config`]. A field is a key of `docs/configuration.md` by the same name.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::answers::AnswerConfig;
use super::choice::{
    Backend, Documents, Format, IntervalStrategy, LrSchedulerType, ModelInit, OnBadRecord, OnNonFinite, Precision,
    TaskKind,
};
use super::mixed::{Bytes, MicroBatchTokens, Recompute, ZeroStage};

/// `[model]`: what is fine-tuned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// A Hugging Face folder: config.json, *.safetensors, tokenizer.json.
    pub path: PathBuf,
    /// Where the first weights come from.
    pub init: ModelInit,
    /// Patterns over Hugging Face's names of tensors, `*` matching anything: weights that are not trained.
    pub freeze: Vec<String>,
    /// In [0, 1), instead of config.json's.
    pub hidden_dropout_prob: Option<f64>,
    /// In [0, 1), instead of config.json's.
    pub attention_probs_dropout_prob: Option<f64>,
    /// In [0, 1), instead of config.json's.
    pub classifier_dropout: Option<f64>,
}

/// `[task]`: what it learns to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskConfig {
    /// The task.
    pub kind: TaskKind,
    /// All labels, in the order of their numbers; otherwise they are found in the training data.
    pub labels: Option<Vec<String>>,
    /// What stands before every source; otherwise nothing.
    pub source_prefix: Option<String>,
    /// Tokens a target is cut to, special ones included; at least 2. Otherwise 128.
    pub max_target_length: Option<usize>,
    /// Whether an evaluation generates a target for each source and compares it with the given one.
    pub predict_with_generate: bool,
    /// Whether a language model's examples are filled up with documents; otherwise yes, where they can be.
    pub packing: Option<bool>,
    /// The share of tokens that a masked language model is to tell, above 0 and below 1; otherwise 0.15.
    pub mlm_probability: Option<f64>,
    /// Whether the tokens of a word are hidden together; otherwise no.
    pub whole_word_mask: Option<bool>,
    /// Whether a masked language model also tells next sentences from others; otherwise no.
    pub next_sentence: Option<bool>,
    /// Always there with [`TaskKind::QuestionAnswering`], never without.
    #[serde(flatten)]
    pub answers: Option<AnswerConfig>,
}

impl TaskConfig {
    /// A task with all settings at their defaults.
    pub fn new(kind: TaskKind) -> Self {
        TaskConfig {
            kind,
            labels: None,
            source_prefix: None,
            max_target_length: None,
            predict_with_generate: false,
            packing: None,
            mlm_probability: None,
            whole_word_mask: None,
            next_sentence: None,
            answers: (kind == TaskKind::QuestionAnswering).then(AnswerConfig::default),
        }
    }
}

/// `[data]`: from which examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataConfig {
    /// The training file.
    pub train: PathBuf,
    /// The targets of the training file's lines.
    pub train_target: Option<PathBuf>,
    /// The evaluation file.
    pub eval: Option<PathBuf>,
    /// The targets of the evaluation file's lines.
    pub eval_target: Option<PathBuf>,
    /// Tokens a sequence is cut to, special ones included; at least 3. Otherwise what the model allows.
    pub max_length: Option<usize>,
    /// The column of the (first) text.
    pub text_column: String,
    /// The column of the second text of a pair.
    pub text_pair_column: Option<String>,
    /// The column of the label or number.
    pub label_column: String,
    /// The column of the source.
    pub source_column: String,
    /// The column of the target.
    pub target_column: String,
    /// The column of the list of words.
    pub words_column: String,
    /// The column of the list of tags.
    pub tags_column: String,
    /// The column of the question.
    pub question_column: String,
    /// The column of what a question is about; otherwise `context` where there is one.
    pub context_column: Option<String>,
    /// The column of the list of choices.
    pub choices_column: String,
    /// The column of what an answer is given to.
    pub prompt_column: String,
    /// The column of an answer.
    pub completion_column: String,
    /// The column of a conversation.
    pub messages_column: String,
    /// The names of the columns of a CSV or TSV file that has no header.
    pub columns: Option<Vec<String>>,
    /// Whether a CSV or TSV file's first row holds the column names; otherwise found out by looking.
    pub header: Option<bool>,
    /// What to do about a record that cannot be used.
    pub on_bad_record: OnBadRecord,
    /// Where tokenised data is kept.
    pub cache_dir: Option<PathBuf>,
    /// The format of the files; otherwise by their ending.
    pub format: Option<Format>,
    /// What a document of a plain text file is; otherwise the file.
    pub documents: Option<Documents>,
}

impl DataConfig {
    /// A training file with all settings at their defaults.
    pub fn new(train: PathBuf) -> Self {
        DataConfig {
            train,
            train_target: None,
            eval: None,
            eval_target: None,
            max_length: None,
            text_column: "text".into(),
            text_pair_column: None,
            label_column: "label".into(),
            source_column: "source".into(),
            target_column: "target".into(),
            words_column: "words".into(),
            tags_column: "tags".into(),
            question_column: "question".into(),
            context_column: None,
            choices_column: "choices".into(),
            prompt_column: "prompt".into(),
            completion_column: "completion".into(),
            messages_column: "messages".into(),
            columns: None,
            header: None,
            on_bad_record: OnBadRecord::default(),
            cache_dir: None,
            format: None,
            documents: None,
        }
    }
}

/// `[train]`: for how long and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Passes over the training data, fractions allowed.
    pub num_train_epochs: f64,
    /// Optimizer steps; wins over `num_train_epochs`.
    pub max_steps: Option<u64>,
    /// Sequences per optimizer step, over all ranks.
    pub global_batch_size: usize,
    /// Tokens that one rank takes through forward and backward at a time.
    pub micro_batch_tokens: MicroBatchTokens,
    /// The peak of the schedule.
    pub learning_rate: f64,
    /// How the learning rate goes after warm-up.
    pub lr_scheduler_type: LrSchedulerType,
    /// Warm-up as a share of all steps, in [0, 1].
    pub warmup_ratio: f64,
    /// Warm-up in steps; wins over `warmup_ratio` when above 0.
    pub warmup_steps: u64,
    /// AdamW's decoupled weight decay; biases and norms have none.
    pub weight_decay: f64,
    /// Decay of AdamW's mean of gradients, in [0, 1).
    pub adam_beta1: f64,
    /// Decay of AdamW's mean of squared gradients, in [0, 1).
    pub adam_beta2: f64,
    /// Added to AdamW's denominator.
    pub adam_epsilon: f64,
    /// The global gradient norm is clipped to this; 0 for no clipping.
    pub max_grad_norm: f64,
    /// What to do about a step whose loss or gradient norm is not finite.
    pub on_non_finite: OnNonFinite,
    /// Steps between two lines of metrics.
    pub logging_steps: u64,
    /// How many of the last steps libtorch's profiler records on rank 0.
    pub profile_steps: u64,
    /// When to evaluate, besides after the last step.
    pub eval_strategy: IntervalStrategy,
    /// Steps between two evaluations; always there with [`IntervalStrategy::Steps`].
    pub eval_steps: Option<u64>,
    /// When to write a checkpoint.
    pub save_strategy: IntervalStrategy,
    /// Steps between two checkpoints with [`IntervalStrategy::Steps`].
    pub save_steps: u64,
    /// Keep only that many checkpoints: the newest, and the best with `load_best_model_at_end`.
    pub save_total_limit: Option<usize>,
    /// Whether the final model is the best checkpoint rather than the last step.
    pub load_best_model_at_end: bool,
    /// The metric that ranks checkpoints, without the prefix `eval_`.
    pub metric_for_best_model: String,
    /// As written; [`TrainConfig::is_greater_better`] fills in the default.
    pub greater_is_better: Option<bool>,
}

impl TrainConfig {
    /// Whether a greater value of `metric_for_best_model` is a better one: as set, otherwise true unless the name is
    /// that of a loss (Hugging Face's rule) or of an error (`mse`, `perplexity`).
    pub fn is_greater_better(&self) -> bool {
        let metric = self.metric_for_best_model.as_str();
        let lower_is_better = metric.ends_with("loss") || ["mse", "perplexity"].contains(&metric);
        self.greater_is_better.unwrap_or(!lower_is_better)
    }
}

/// `[parallel]`: how the work is spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParallelConfig {
    /// Which of optimizer state, gradients and weights are sharded over ranks.
    pub zero_stage: ZeroStage,
    /// What a rank may use, for [`ZeroStage::Auto`] and [`MicroBatchTokens::Auto`]; otherwise what its device has.
    pub memory_per_rank: Option<Bytes>,
    /// The number format of weights, activations and gradients.
    pub precision: Precision,
    /// The number format in which gradients are accumulated and reduced: fp32 or that of `precision`.
    pub reduce_dtype: Precision,
    /// The first loss scale, a power of two in [1, 2^24]; always there with [`Precision::Fp16`], never without.
    pub loss_scale_init: Option<f64>,
    /// Steps without overflow before the loss scale doubles; there as `loss_scale_init` is.
    pub loss_scale_window: Option<u64>,
    /// Whether matrix products of fp32 are done in TF32, on GPUs that have it; otherwise they are on GPUs. Never there with
    /// another precision.
    pub tf32: Option<bool>,
    /// Which stages compute their activations again in backward.
    pub recompute: Recompute,
    /// CPU threads a rank; otherwise OMP_NUM_THREADS, otherwise its share of the cores.
    pub num_threads: Option<usize>,
}

/// `[comm]`: how ranks talk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommConfig {
    /// Which collectives to use.
    pub backend: Backend,
    /// Seconds after which a collective that waits for a rank fails.
    pub timeout_seconds: f64,
}
