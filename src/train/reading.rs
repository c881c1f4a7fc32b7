//! From the configuration to how its data files are read, and to the head that the data asks for.

use crate::config::{self, DataConfig, TaskConfig, TaskKind};
use crate::data::{Encode, Facts};
use crate::error::{Error, Result};
use crate::models::Role;
use crate::tasks::Head;
use crate::tasks::answers::{self, Rules};
use crate::tasks::questions::Questions;
use crate::tasks::texts::{Target, Texts};
use crate::text::questions::QuestionSource;
use crate::text::records::{Fields, Format, OnBad, Source};
use crate::train::loaded::UNLIMITED;
use std::path::Path;

/// What a data file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Train,
    /// Labels are read, and what metrics need beside them.
    Evaluate,
    /// No label is read, and no record left out.
    Predict,
}

/// How the data files of a run are read.
pub struct Reading<'a> {
    pub task: &'a TaskConfig,
    pub data: &'a DataConfig,
    pub max_length: usize,
    pub purpose: Purpose,
    /// The labels in the order of their ids, where they are known; otherwise they are found in the data.
    pub labels: Option<Vec<String>>,
}

impl Reading<'_> {
    /// What reads `path`, which is the value of the setting `key`.
    ///
    /// # Errors
    /// Exit 2: no such file.
    pub fn encoder(&self, path: &Path, key: &str) -> Result<Box<dyn Encode>> {
        if !path.exists() {
            return Err(Error::input(format!("{key}: no such file: {}", path.display())));
        }
        let Reading { max_length, purpose, labels, .. } = self;
        let texts = |target: Target| -> Result<Box<dyn Encode>> {
            let target = if *purpose == Purpose::Predict { Target::None } else { target };
            Ok(Box::new(Texts { source: self.source(path), target, max_length: *max_length }))
        };
        match self.task.kind {
            TaskKind::SequenceClassification => texts(Target::Class { labels: labels.clone() }),
            TaskKind::Regression => texts(Target::Value),
            TaskKind::QuestionAnswering => Ok(Box::new(self.questions(path)?)),
            kind => Err(Error::input(format!("task.kind: {kind} is not supported by this version"))),
        }
    }

    /// A file of records with columns.
    fn source(&self, path: &Path) -> Source {
        let data = self.data;
        Source {
            path: path.to_owned(),
            format: data.format.map(|format| match format {
                config::Format::Jsonl => Format::Jsonl,
                config::Format::Csv => Format::Csv,
                config::Format::Tsv => Format::Tsv,
            }),
            columns: data.columns.clone(),
            header: data.header,
            fields: Fields {
                text: data.text_column.clone(),
                text_pair: data.text_pair_column.clone(),
                label: Some(data.label_column.clone()),
            },
            on_bad_record: self.on_bad(),
        }
    }

    fn on_bad(&self) -> OnBad {
        match self.data.on_bad_record {
            config::OnBadRecord::Error => OnBad::Error,
            config::OnBadRecord::Skip => OnBad::Skip,
        }
    }

    /// A file of questions.
    fn questions(&self, path: &Path) -> Result<Questions> {
        let default = DataConfig::new(path.to_owned());
        let columns = [
            ("text_column", self.data.text_column != default.text_column),
            ("text_pair_column", self.data.text_pair_column.is_some()),
            ("label_column", self.data.label_column != default.label_column),
            ("columns", self.data.columns.is_some()),
            ("header", self.data.header.is_some()),
            ("format", self.data.format.is_some()),
        ];
        if let Some((key, _)) = columns.into_iter().find(|(_, set)| *set) {
            let why = "questions are read from SQuAD's JSON, or from .jsonl with context, question, answers and id";
            return Err(Error::input(format!("{key}: {why}: remove it")));
        }
        let answers = self.task.answers.clone().unwrap_or_default();
        let rules = Rules {
            n_best_size: answers.n_best_size,
            max_answer_length: answers.max_answer_length,
            null_score_diff_threshold: answers.null_score_diff_threshold,
            version_2_with_negative: answers.version_2_with_negative,
        };
        let labelled = self.purpose != Purpose::Predict;
        Ok(Questions {
            source: QuestionSource { path: path.to_owned(), labelled, on_bad_record: self.on_bad() },
            max_length: self.max_length,
            doc_stride: answers.doc_stride,
            rules: (self.purpose != Purpose::Train).then_some(rules),
        })
    }
}

/// `data.max_length` where it is not set: the model's limit, and for questions at most what Hugging Face's run_qa.py has.
pub fn default_length(kind: TaskKind, limit: Option<usize>) -> usize {
    let limit = limit.unwrap_or(UNLIMITED);
    if kind == TaskKind::QuestionAnswering { limit.min(384) } else { limit }
}

/// The role of a backbone that is fine-tuned for a task.
pub fn role(task: &TaskConfig) -> Role {
    match task.kind {
        TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::Regression => Role::SequenceClassification,
        TaskKind::TokenClassification => Role::TokenClassification,
        TaskKind::QuestionAnswering => Role::QuestionAnswering,
        TaskKind::MultipleChoice => Role::MultipleChoice,
        TaskKind::MaskedLm => Role::MaskedLm,
        TaskKind::CausalLm | TaskKind::Chat => Role::CausalLm,
        TaskKind::Seq2seq => Role::Seq2Seq,
    }
}

/// The head for a task on data of which these are the `facts`; `path` is the training file's.
///
/// # Errors
/// Exit 2: fewer labels than a classifier needs.
pub fn head(task: &TaskConfig, facts: &Facts, path: &Path) -> Result<Head> {
    let labels = facts.labels.clone().unwrap_or_default();
    let at_least = |n: usize, head: fn(Vec<String>) -> Head| match labels.len() {
        found if found >= n => Ok(head(labels.clone())),
        _ => Err(Error::input(format!(
            "data.train: {} holds one label only ({}): a classifier needs two or more",
            path.display(),
            labels.join(", ")
        ))),
    };
    match task.kind {
        TaskKind::SequenceClassification => at_least(2, Head::Classes),
        TaskKind::MultiLabel => at_least(1, Head::Flags),
        TaskKind::TokenClassification => at_least(2, Head::Tags),
        TaskKind::Regression => Ok(Head::Number),
        TaskKind::QuestionAnswering => {
            let wanted = task.answers.as_ref().and_then(|answers| answers.version_2_with_negative);
            Ok(Head::Span { unanswerable: wanted.unwrap_or(answers::has_unanswerable(&facts.references)) })
        }
        TaskKind::MultipleChoice => Ok(Head::Choice),
        TaskKind::MaskedLm => Ok(Head::MaskedLm),
        TaskKind::CausalLm | TaskKind::Chat => Ok(Head::CausalLm),
        TaskKind::Seq2seq => Ok(Head::Seq2Seq),
    }
}

/// The task that a finished model was fine-tuned for.
pub fn kind(head: &Head) -> TaskKind {
    match head {
        Head::Classes(_) => TaskKind::SequenceClassification,
        Head::Flags(_) => TaskKind::MultiLabel,
        Head::Number => TaskKind::Regression,
        Head::Tags(_) => TaskKind::TokenClassification,
        Head::Span { .. } => TaskKind::QuestionAnswering,
        Head::Choice => TaskKind::MultipleChoice,
        Head::MaskedLm | Head::PreTraining => TaskKind::MaskedLm,
        Head::CausalLm => TaskKind::CausalLm,
        Head::Seq2Seq => TaskKind::Seq2seq,
    }
}
