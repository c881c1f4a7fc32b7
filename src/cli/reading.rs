//! How the commands for finished models read data: as in training, unless options override it.

use super::answers::AnswerArgs;
use super::group::{backend, connect};
use super::linear_weights::LinearWeights;
use super::parse::seconds;
use crate::checkpoint::adapter::AdapterConfig;
use crate::comm::Collective;
use crate::config::{self, Config, DataConfig, DataFiles, EvalSets, OnBadRecord, Sampling, TaskConfig, TaskKind};
use crate::error::{Error, Result};
use crate::hub;
use crate::tasks::Head;
use crate::text::files::Files;
use crate::text::input::extension;
use crate::text::part::Part;
use crate::train::downloads::Wanted;
use crate::train::evaluate::Evaluator;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::Loaded;
use crate::train::reading::Purpose;
use crate::train::settings::CPU_MICRO_BATCH_TOKENS;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Options for reading data. What is not given is as it was in training.
#[derive(Debug, Args)]
pub(super) struct ReadingArgs {
    /// Column with the text.
    #[arg(long)]
    pub(super) text_column: Option<String>,
    /// Column with the second text of a pair.
    #[arg(long)]
    text_pair_column: Option<String>,
    /// Column with the label.
    #[arg(long)]
    label_column: Option<String>,
    /// Column with the negatives, for embedding.
    #[arg(long)]
    negative_column: Option<String>,
    /// Score of equal texts, for embedding with scored pairs [default: 1].
    #[arg(long, value_name = "SCORE", value_parser = positive)]
    max_score: Option<f64>,
    /// Column with the source, for seq2seq.
    #[arg(long)]
    source_column: Option<String>,
    /// Text to prepend to every source, for seq2seq.
    #[arg(long)]
    source_prefix: Option<String>,
    /// Column names of a CSV or TSV file without a header, separated by commas.
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Whether the first row of a CSV or TSV file is a header [default: auto-detected].
    #[arg(long, value_name = "true|false")]
    header: Option<bool>,
    /// Column with the list of words, for token-classification.
    #[arg(long)]
    words_column: Option<String>,
    /// Column with the list of tags, for token-classification.
    #[arg(long)]
    tags_column: Option<String>,
    /// Column with the question, for multiple-choice.
    #[arg(long)]
    question_column: Option<String>,
    /// Column with the context of the question, for multiple-choice [default: `context` if it exists].
    #[arg(long)]
    context_column: Option<String>,
    /// Column with the list of choices, for multiple-choice.
    #[arg(long)]
    choices_column: Option<String>,
    /// Column with the prompt.
    #[arg(long)]
    prompt_column: Option<String>,
    /// Column with the completion.
    #[arg(long)]
    completion_column: Option<String>,
    /// Column with the messages of a conversation.
    #[arg(long)]
    messages_column: Option<String>,
    /// File format: jsonl, csv, tsv, conll or text [default: by the file extension].
    #[arg(long)]
    format: Option<config::Format>,
    /// How a plain text file is divided into documents: file, lines or paragraphs.
    #[arg(long, value_name = "UNIT")]
    documents: Option<config::Documents>,
    /// Whether to pack several documents into one sequence, for language models [default: true].
    #[arg(long, value_name = "true|false")]
    packing: Option<bool>,
    /// Probability of masking a token, for masked-lm [default: 0.15].
    #[arg(long, value_name = "P", value_parser = probability)]
    mlm_probability: Option<f64>,
    /// Whether to mask all tokens of a word together, for masked-lm [default: false].
    #[arg(long, value_name = "true|false")]
    whole_word_mask: Option<bool>,
    /// Truncate sequences to this many tokens [default: the model's limit; at most 384 for question answering and 1024
    /// for packed language-model sequences].
    #[arg(long)]
    pub(super) max_length: Option<usize>,
    /// Maximum number of tokens per micro-batch on each rank [default: 4096].
    #[arg(long)]
    micro_batch_tokens: Option<usize>,
    /// How the weights of linear layers are kept, for models that generate no text, on CPUs.
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "fp32|int8")]
    pub(super) weights: LinearWeights,
    /// Folder of the base model, if the model is an adapter whose base model was moved.
    #[arg(long, value_name = "FOLDER")]
    base_model: Option<PathBuf>,
    /// Communication backend: auto, solo, mpi or nccl [default: auto].
    #[arg(long)]
    backend: Option<config::Backend>,
    /// Timeout of a collective operation, in seconds [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout_seconds: Option<f64>,
    // Last, because its help heading applies to all options after it.
    #[command(flatten)]
    pub(super) answers: AnswerArgs,
}

/// Options for the targets of parallel text.
#[derive(Debug, Clone, Args)]
pub(super) struct TargetArgs {
    /// File whose lines are the targets for the lines of the data, for seq2seq with plain text.
    #[arg(long, value_name = "FILE", value_parser = files)]
    pub(super) eval_target: Option<DataFiles>,
    /// Column with the target, for seq2seq [default: as in training, or `target`].
    #[arg(long)]
    pub(super) target_column: Option<String>,
    /// Truncate targets to this many tokens, for seq2seq [default: 128].
    #[arg(long)]
    pub(super) max_target_length: Option<usize>,
}

/// A data file outside a configuration.
pub(super) struct DataFile<'a> {
    /// The file's name in messages.
    pub name: String,
    /// The option that names it.
    pub option: &'static str,
    pub files: &'a DataFiles,
    pub purpose: Purpose,
    /// The part of its records to read.
    pub part: Option<Part>,
    /// The targets, for an evaluation.
    pub targets: Option<&'a TargetArgs>,
    pub on_bad_record: OnBadRecord,
    /// The folder of the token cache, if the tokens are cached.
    pub cache: Option<PathBuf>,
}

fn files(path: &str) -> Result<DataFiles, String> {
    Ok(PathBuf::from(path).into())
}

/// Returns the extension of the first of the files; empty if there is none.
fn ending(named: &DataFiles) -> String {
    let found = Files::find(named.paths()).ok();
    found.as_ref().and_then(|files| files.iter().next()).map_or_else(|| extension(named.first()), extension)
}

/// A probability, with the bounds of `task.mlm_probability`.
fn probability(text: &str) -> Result<f64, String> {
    let p = text.parse().ok().filter(|&p: &f64| p > 0.0 && p < 1.0);
    p.ok_or_else(|| "expected a number greater than 0 and less than 1".into())
}

/// A number with the bounds of `task.max_score`.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number: &f64| number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number > 0".into())
}

impl ReadingArgs {
    /// Connects the ranks; what is not given is as in `run`.
    pub(super) fn connect(&self, run: Option<&Config>) -> Result<Arc<dyn Collective>> {
        let of_run = run.map(|config| &config.comm);
        let how = self.backend.or(of_run.map(|comm| comm.backend)).unwrap_or_default();
        let timeout = self.timeout_seconds.or(of_run.map(|comm| comm.timeout_seconds)).unwrap_or(600.0);
        connect(backend(how), Duration::from_secs_f64(timeout), None).map_err(bare)
    }

    /// Returns what a model's folder is; what is not given is as in `run`.
    pub(super) fn folder(&self, model: &Path, run: Option<&Config>) -> Result<ModelFolder> {
        let of_run = run.and_then(|config| config.lora.base_model_name_or_path.as_deref());
        let local = hub::model_folder(model, false)?;
        let of_run = of_run.filter(|_| AdapterConfig::is_in(&local));
        ModelFolder::open(model, self.base_model.as_deref().or(of_run))
    }

    /// Returns what the command needs of a model on the Hub; what is not given is as in `run`.
    pub(super) fn wanted(&self, model: &Path, run: Option<&Config>) -> Wanted {
        let of_run = run.and_then(|config| config.lora.base_model_name_or_path.as_deref());
        Wanted::default().model(model, self.base_model.as_deref().or(of_run), true)
    }

    /// Returns an evaluator of a loaded model on all ranks; what is not given is as in `run`.
    pub(super) fn evaluator<'a>(
        &self,
        comm: &'a dyn Collective,
        loaded: &'a mut Loaded,
        run: Option<&Config>,
    ) -> Evaluator<'a> {
        let Loaded { model, params, weights, .. } = loaded;
        let of_run = run.and_then(|config| config.train.micro_batch_tokens.given());
        let micro_batch_tokens = self.micro_batch_tokens.or(of_run).unwrap_or(CPU_MICRO_BATCH_TOKENS);
        Evaluator { model, params, weights, comm, micro_batch_tokens, generation: None }
    }

    /// Returns the column names, from the options and `trained`.
    pub(super) fn columns(&self, trained: Option<&Config>, files: &DataFiles) -> DataConfig {
        let (purpose, on_bad_record) = (Purpose::Predict, config::OnBadRecord::Error);
        let (name, option) = (String::new(), "");
        let file = DataFile { name, option, files, purpose, targets: None, on_bad_record, cache: None, part: None };
        self.data_config(&file, trained)
    }

    /// Returns the options as the `[data]` section. `trained` is the configuration of the training, for the same task.
    pub(super) fn data_config(&self, file: &DataFile, trained: Option<&Config>) -> DataConfig {
        let mut data = trained.map_or_else(|| DataConfig::new(file.files.clone()), |config| config.data.clone());
        // Settings of the training files do not apply to a file of another format; plain text has no columns.
        let is = self.format.map_or_else(|| ending(file.files), |format| format.to_string());
        let own = data.eval.iter().chain(data.eval_sets.0.values()).any(|files| files == file.files);
        if !own && matches!(is.as_str(), "txt" | "md" | "text") {
            data.text_column = DataConfig::new(file.files.clone()).text_column;
        }
        let before = |files: &DataFiles| data.format.map_or_else(|| ending(files), |format| format.to_string());
        if !own && !data.eval.iter().chain([&data.train]).any(|files| before(files) == is) {
            let DataConfig { columns, header, format, documents, .. } = DataConfig::new(file.files.clone());
            data = DataConfig { columns, header, format, documents, ..data };
        }
        let column = |given: &Option<String>, trained: String| given.clone().unwrap_or(trained);
        let targets = file.targets;
        DataConfig {
            // The tokenizer of the trained model has them.
            add_tokens: Vec::new(),
            train: file.files.clone(),
            train_target: None,
            sources: Vec::new(),
            eval: None,
            eval_split: None,
            eval_sets: EvalSets::default(),
            cache_dir: None,
            // Of training.
            weight_column: None,
            negative_column: self.negative_column.clone().or(data.negative_column),
            sampling: Sampling::Random,
            streaming: false,
            shuffle_buffer_size: data.shuffle_buffer_size,
            max_length: self.max_length.or(data.max_length),
            text_column: column(&self.text_column, data.text_column),
            text_pair_column: self.text_pair_column.clone().or(data.text_pair_column),
            label_column: column(&self.label_column, data.label_column),
            source_column: column(&self.source_column, data.source_column),
            target_column: targets.and_then(|t| t.target_column.clone()).unwrap_or(data.target_column),
            eval_target: targets.and_then(|targets| targets.eval_target.clone()),
            words_column: column(&self.words_column, data.words_column),
            tags_column: column(&self.tags_column, data.tags_column),
            question_column: column(&self.question_column, data.question_column),
            context_column: self.context_column.clone().or(data.context_column),
            choices_column: column(&self.choices_column, data.choices_column),
            columns: self.columns.clone().or(data.columns),
            header: self.header.or(data.header),
            on_bad_record: file.on_bad_record,
            format: self.format.or(data.format),
            documents: self.documents.or(data.documents),
            prompt_column: column(&self.prompt_column, data.prompt_column),
            completion_column: column(&self.completion_column, data.completion_column),
            messages_column: column(&self.messages_column, data.messages_column),
        }
    }

    /// Returns the options as the `[task]` section of a configuration.
    pub(super) fn task_config(
        &self,
        file: &DataFile,
        head: &Head,
        kind: TaskKind,
        trained: Option<&Config>,
    ) -> TaskConfig {
        let task = trained.map_or_else(|| TaskConfig::new(kind), |config| config.task.clone());
        let targets = file.targets;
        TaskConfig {
            labels: None,
            predict_with_generate: false,
            source_prefix: self.source_prefix.clone().or(task.source_prefix),
            max_target_length: targets.and_then(|t| t.max_target_length.or(task.max_target_length)),
            packing: self.packing.or(task.packing),
            mlm_probability: self.mlm_probability.or(task.mlm_probability),
            whole_word_mask: self.whole_word_mask.or(task.whole_word_mask),
            max_score: self.max_score.or(task.max_score),
            next_sentence: (*head == Head::PreTraining).then_some(true),
            ..task
        }
    }
}

/// Removes the sections from setting names in an error: on the command line, settings are options.
pub(super) fn bare(e: Error) -> Error {
    let message = e.to_string();
    let message = message.replace("data.max_length", "max_length").replace("comm.backend", "backend");
    let message = message.replace("model.path: ", "");
    let bare = Error::new(e.kind(), message);
    if e.is_shared() { bare.shared() } else { bare }
}
