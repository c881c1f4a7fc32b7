//! The keys and their types: the one list that reading, writing, messages and the documentation's test go by.

use std::path::PathBuf;

use super::choice::{
    Backend, Documents, Format, IntervalStrategy, LrSchedulerType, ModelInit, OnBadRecord, OnNonFinite, Precision,
    TaskKind,
};
use super::mixed::{Bytes, EarlyStopping, MicroBatchTokens, Recompute, ZeroStage};
use super::problems::Problems;
use super::source::Entries;
use super::value::AtLeast;

/// Declares the structs of settings as written, the list of their keys, and how they are read.
macro_rules! sections {
    ($($field:ident: $raw:ident = $section:literal { $($key:ident: $type:ty),* $(,)? })*) => {
        /// All settings as written; `None` for one that was not, or that was noted as a problem.
        #[derive(Debug, Default)]
        pub struct Raw { $(pub $field: $raw),* }

        $(#[derive(Debug, Default)]
        pub struct $raw { $(pub $key: Option<$type>),* })*

        /// The keys of each section, the top level's (under an empty name) first, in the documentation's order.
        pub const KEYS: &[(&str, &[&str])] = &[$(($section, &[$(stringify!($key)),*])),*];

        impl Raw {
            /// Takes each setting from the entries and notes every one of a wrong type.
            pub fn read(entries: &Entries<'_>, problems: &mut Problems) -> Self {
                Raw { $($field: $raw {
                    $($key: entries.read(&dotted($section, stringify!($key)), problems)),*
                }),* }
            }
        }
    };
}

/// `section.key`; the key alone at the top level.
pub fn dotted(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

sections! {
    top: RawTop = "" {
        output_dir: PathBuf,
        overwrite_output_dir: bool,
        seed: u64,
    }
    model: RawModel = "model" {
        path: PathBuf,
        init: ModelInit,
        freeze: Vec<String>,
        hidden_dropout_prob: f64,
        attention_probs_dropout_prob: f64,
        classifier_dropout: f64,
    }
    task: RawTask = "task" {
        kind: TaskKind,
        labels: Vec<String>,
        source_prefix: String,
        max_target_length: AtLeast<2, usize>,
        predict_with_generate: bool,
        packing: bool,
        mlm_probability: f64,
        whole_word_mask: bool,
        next_sentence: bool,
        doc_stride: usize,
        n_best_size: AtLeast<1, usize>,
        max_answer_length: AtLeast<1, usize>,
        null_score_diff_threshold: f64,
        version_2_with_negative: bool,
    }
    data: RawData = "data" {
        train: PathBuf,
        train_target: PathBuf,
        eval: PathBuf,
        eval_target: PathBuf,
        max_length: AtLeast<3, usize>,
        text_column: String,
        text_pair_column: String,
        label_column: String,
        source_column: String,
        target_column: String,
        words_column: String,
        tags_column: String,
        question_column: String,
        context_column: String,
        choices_column: String,
        prompt_column: String,
        completion_column: String,
        messages_column: String,
        columns: Vec<String>,
        header: bool,
        on_bad_record: OnBadRecord,
        cache_dir: PathBuf,
        format: Format,
        documents: Documents,
    }
    train: RawTrain = "train" {
        num_train_epochs: f64,
        max_steps: AtLeast<1, u64>,
        global_batch_size: AtLeast<1, usize>,
        micro_batch_tokens: MicroBatchTokens,
        learning_rate: f64,
        lr_scheduler_type: LrSchedulerType,
        warmup_ratio: f64,
        warmup_steps: u64,
        weight_decay: f64,
        adam_beta1: f64,
        adam_beta2: f64,
        adam_epsilon: f64,
        max_grad_norm: f64,
        on_non_finite: OnNonFinite,
        logging_steps: AtLeast<1, u64>,
        profile_steps: AtLeast<0, u64>,
        eval_strategy: IntervalStrategy,
        eval_steps: AtLeast<1, u64>,
        save_strategy: IntervalStrategy,
        save_steps: AtLeast<1, u64>,
        save_total_limit: AtLeast<1, usize>,
        load_best_model_at_end: bool,
        metric_for_best_model: String,
        greater_is_better: bool,
    }
    generation: RawGeneration = "generation" {
        max_new_tokens: AtLeast<1, usize>,
        min_new_tokens: usize,
        do_sample: bool,
        temperature: f64,
        top_k: usize,
        top_p: f64,
        repetition_penalty: f64,
        num_beams: AtLeast<1, usize>,
        length_penalty: f64,
        early_stopping: EarlyStopping,
    }
    parallel: RawParallel = "parallel" {
        zero_stage: ZeroStage,
        memory_per_rank: Bytes,
        precision: Precision,
        reduce_dtype: Precision,
        loss_scale_init: f64,
        loss_scale_window: AtLeast<1, u64>,
        tf32: bool,
        recompute: Recompute,
        num_threads: AtLeast<1, usize>,
    }
    comm: RawComm = "comm" {
        backend: Backend,
        timeout_seconds: f64,
    }
}
