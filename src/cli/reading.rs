//! How the commands for finished models read data: as in training, unless options say otherwise.

use super::answers::AnswerArgs;
use super::evaluate::{DataFile, bare};
use super::{backend, connect, seconds};
use crate::comm::Collective;
use crate::config::{self, Config, DataConfig, TaskConfig, TaskKind};
use crate::error::Result;
use crate::tasks::Head;
use crate::text::gzip;
use crate::train::evaluate::Evaluator;
use crate::train::model_loading::Loaded;
use crate::train::reading::Purpose;
use crate::train::settings::CPU_MICRO_BATCH_TOKENS;
use clap::Args;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How data is read outside a configuration: what is not given is as it was in training.
#[derive(Debug, Args)]
pub(super) struct ReadingArgs {
    /// The column of the text.
    #[arg(long)]
    pub(super) text_column: Option<String>,
    /// The column of the second text of a pair.
    #[arg(long)]
    text_pair_column: Option<String>,
    /// The column of the label.
    #[arg(long)]
    label_column: Option<String>,
    /// The column of the source, for seq2seq.
    #[arg(long)]
    source_column: Option<String>,
    /// What stands before every source, for seq2seq; otherwise nothing.
    #[arg(long)]
    source_prefix: Option<String>,
    /// The names of the columns of a CSV or TSV file without a header, with commas between.
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Whether the first row of a CSV or TSV file holds the names of the columns; otherwise found out by looking.
    #[arg(long, value_name = "true|false")]
    header: Option<bool>,
    /// The column of the list of words, for token-classification.
    #[arg(long)]
    words_column: Option<String>,
    /// The column of the list of their tags.
    #[arg(long)]
    tags_column: Option<String>,
    /// The column of the question, for multiple-choice.
    #[arg(long)]
    question_column: Option<String>,
    /// The column of what the question is about; otherwise `context` where there is one.
    #[arg(long)]
    context_column: Option<String>,
    /// The column of the list of choices.
    #[arg(long)]
    choices_column: Option<String>,
    /// The column of what an answer is given to.
    #[arg(long)]
    prompt_column: Option<String>,
    /// The column of an answer.
    #[arg(long)]
    completion_column: Option<String>,
    /// The column of a conversation.
    #[arg(long)]
    messages_column: Option<String>,
    /// jsonl, csv, tsv, conll or text; otherwise by the file's ending.
    #[arg(long)]
    format: Option<config::Format>,
    /// What a document of a plain text file is: file, lines or paragraphs.
    #[arg(long, value_name = "WORD")]
    documents: Option<config::Documents>,
    /// Whether a language model's blocks are filled up with documents; otherwise yes.
    #[arg(long, value_name = "true|false")]
    packing: Option<bool>,
    /// The share of tokens that a masked language model is to tell; otherwise 0.15.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    mlm_probability: Option<f64>,
    /// Whether the tokens of a word are hidden together; otherwise no.
    #[arg(long, value_name = "true|false")]
    whole_word_mask: Option<bool>,
    /// Tokens that a sequence is cut to; otherwise what the model takes, with questions at most 384, of a language model's
    /// blocks at most 1024.
    #[arg(long)]
    pub(super) max_length: Option<usize>,
    /// Tokens that a rank takes through the model at a time; otherwise 4096.
    #[arg(long)]
    micro_batch_tokens: Option<usize>,
    /// How ranks talk: auto, solo, mpi or nccl; otherwise auto.
    #[arg(long)]
    backend: Option<config::Backend>,
    /// Seconds after which a wait for a rank ends the command; otherwise 600.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout_seconds: Option<f64>,
    /// Last, because its heading is that of all that follow.
    #[command(flatten)]
    pub(super) answers: AnswerArgs,
}

/// A share as `task.mlm_probability` has it.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|&share: &f64| share > 0.0 && share < 1.0);
    share.ok_or_else(|| "expected a number greater than 0 and less than 1".into())
}

impl ReadingArgs {
    /// Joins the ranks; what is not given is as in `run`.
    pub(super) fn connect(&self, run: Option<&Config>) -> Result<Arc<dyn Collective>> {
        let of_run = run.map(|config| &config.comm);
        let how = self.backend.or(of_run.map(|comm| comm.backend)).unwrap_or_default();
        let timeout = self.timeout_seconds.or(of_run.map(|comm| comm.timeout_seconds)).unwrap_or(600.0);
        connect(backend(how), Duration::from_secs_f64(timeout), None).map_err(bare)
    }

    /// A loaded model, ready to run on all ranks; what is not given is as in `run`.
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

    /// The names of the columns, as options and `trained` say.
    pub(super) fn columns(&self, trained: Option<&Config>, path: &Path) -> DataConfig {
        let (purpose, on_bad_record) = (Purpose::Predict, config::OnBadRecord::Error);
        let (name, option) = (String::new(), "");
        let file = DataFile { name, option, path, purpose, targets: None, on_bad_record, cache: None };
        self.data_config(&file, trained)
    }

    /// The same as the `[data]` of a configuration. `trained` is that of the model's training, for the same task.
    pub(super) fn data_config(&self, file: &DataFile, trained: Option<&Config>) -> DataConfig {
        let mut data = trained.map_or_else(|| DataConfig::new(file.path.to_owned()), |config| config.data.clone());
        // What describes the files of training says nothing of one of another format; plain text has no columns.
        let is = self.format.map_or_else(|| gzip::extension(file.path), |format| format.to_string());
        let own = data.eval.as_deref() == Some(file.path);
        if !own && matches!(is.as_str(), "txt" | "md" | "text") {
            data.text_column = DataConfig::new(file.path.to_owned()).text_column;
        }
        let before = |path: &Path| data.format.map_or_else(|| gzip::extension(path), |format| format.to_string());
        if !own && !data.eval.iter().chain([&data.train]).any(|path| before(path) == is) {
            let DataConfig { columns, header, format, documents, .. } = DataConfig::new(file.path.to_owned());
            data = DataConfig { columns, header, format, documents, ..data };
        }
        let column = |given: &Option<String>, trained: String| given.clone().unwrap_or(trained);
        let targets = file.targets;
        DataConfig {
            train: file.path.to_owned(),
            train_target: None,
            eval: None,
            cache_dir: None,
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

    /// The same as the `[task]` of a configuration.
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
            next_sentence: (*head == Head::PreTraining).then_some(true),
            ..task
        }
    }
}
