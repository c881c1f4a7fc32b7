//! From the configuration to how its data files are read, and to the head that the data asks for.

use crate::config::{self, DataConfig, TaskConfig, TaskKind};
use crate::data::{Encode, Facts};
use crate::error::{Error, Result};
use crate::models::Role;
use crate::tasks::Head;
use crate::tasks::choices::Choices;
use crate::tasks::parallel_texts::{ParallelTexts, decoder_start};
use crate::tasks::tagged_words::TaggedWords;
use crate::tasks::texts::{Target, Texts};
use crate::text::choices::ChoiceSource;
use crate::text::gzip;
use crate::text::pairs::{PairLayout, PairSource};
use crate::text::records::{Fields, Format, OnBad, Source};
use crate::text::tagged::{TaggedFormat, TaggedSource};
use std::path::Path;

/// Tokens that a target is cut to unless told: what Hugging Face's examples have.
const MAX_TARGET_LENGTH: usize = 128;

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
    /// The model's.
    pub folder: &'a Path,
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
            Ok(Box::new(Texts { source: self.source(path)?, target, max_length: *max_length }))
        };
        match self.task.kind {
            TaskKind::SequenceClassification => texts(Target::Class { labels: labels.clone() }),
            TaskKind::MultiLabel => texts(Target::Flags { labels: labels.clone() }),
            TaskKind::TokenClassification => {
                let (source, labels) = (self.tagged_source(path)?, labels.clone());
                Ok(Box::new(TaggedWords { source, labels, max_length: *max_length }))
            }
            TaskKind::MultipleChoice => {
                Ok(Box::new(Choices { source: self.choice_source(path)?, max_length: *max_length }))
            }
            TaskKind::Regression => texts(Target::Value),
            TaskKind::Seq2seq => Ok(Box::new(self.parallel_texts(path, key)?)),
            kind => Err(Error::input(format!("task.kind: {kind} is not supported by this version"))),
        }
    }

    /// A file of records with columns.
    fn source(&self, path: &Path) -> Result<Source> {
        let data = self.data;
        let format = self.format(&[
            (config::Format::Jsonl, Format::Jsonl),
            (config::Format::Csv, Format::Csv),
            (config::Format::Tsv, Format::Tsv),
        ])?;
        Ok(Source {
            path: path.to_owned(),
            format,
            columns: data.columns.clone(),
            header: data.header,
            fields: Fields {
                text: data.text_column.clone(),
                text_pair: data.text_pair_column.clone(),
                label: Some(data.label_column.clone()),
                ..Fields::default()
            },
            on_bad_record: self.on_bad_record(),
        })
    }

    /// A file of sentences.
    fn tagged_source(&self, path: &Path) -> Result<TaggedSource> {
        let formats = [(config::Format::Conll, TaggedFormat::Conll), (config::Format::Jsonl, TaggedFormat::Jsonl)];
        Ok(TaggedSource {
            path: path.to_owned(),
            format: self.format(&formats)?,
            words: self.data.words_column.clone(),
            tags: self.answer_column(&self.data.tags_column),
            on_bad_record: self.on_bad_record(),
        })
    }

    /// A file of questions with choices.
    fn choice_source(&self, path: &Path) -> Result<ChoiceSource> {
        self.format(&[(config::Format::Jsonl, ())])?;
        Ok(ChoiceSource {
            path: path.to_owned(),
            question: self.data.question_column.clone(),
            context: self.data.context_column.clone(),
            choices: self.data.choices_column.clone(),
            label: self.answer_column(&self.data.label_column),
            on_bad_record: self.on_bad_record(),
        })
    }

    /// A column that is not read for prediction.
    fn answer_column(&self, name: &str) -> Option<String> {
        (self.purpose != Purpose::Predict).then(|| name.to_owned())
    }

    /// What `data.format` is among the formats that a task reads.
    fn format<T: Copy>(&self, known: &[(config::Format, T)]) -> Result<Option<T>> {
        let Some(wanted) = self.data.format else { return Ok(None) };
        let found = known.iter().find(|(format, _)| *format == wanted).map(|&(_, format)| Some(format));
        found.ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(|(format, _)| format.name()).collect();
            Error::input(format!("data.format: {} is read from {}, not {wanted}", self.task.kind, known.join(", ")))
        })
    }

    fn on_bad_record(&self) -> OnBad {
        match self.data.on_bad_record {
            config::OnBadRecord::Error => OnBad::Error,
            config::OnBadRecord::Skip => OnBad::Skip,
        }
    }

    /// Pairs of texts: JSONL by its setting or its name, else plain text with the targets in a file of their own.
    ///
    /// # Errors
    /// Exit 2: no file of targets where one is wanted, or one where none is; no start token.
    fn parallel_texts(&self, path: &Path, key: &str) -> Result<ParallelTexts> {
        let Reading { task, data, purpose, .. } = self;
        let (targets, target_key) = match purpose {
            Purpose::Train => (data.train_target.as_deref(), "data.train_target"),
            Purpose::Evaluate if key.starts_with("--") => (data.eval_target.as_deref(), "--eval-target"),
            Purpose::Evaluate => (data.eval_target.as_deref(), "data.eval_target"),
            Purpose::Predict => (None, ""),
        };
        let refuse = |why: &str| Err(Error::input(format!("{target_key}: {why}: {}", path.display())));
        let is_jsonl = data.format.is_some() || ["jsonl", "ndjson", "json"].contains(&gzip::extension(path).as_str());
        let layout = match (is_jsonl, targets) {
            (true, Some(_)) => return refuse("a JSONL file has its targets itself"),
            (true, None) => PairLayout::Jsonl {
                source: data.source_column.clone(),
                target: (*purpose != Purpose::Predict).then(|| data.target_column.clone()),
            },
            (false, None) if *purpose != Purpose::Predict => {
                return refuse("missing: name the file whose lines are the targets of the lines of this one");
            }
            (false, targets) => {
                if let Some(missing) = targets.filter(|targets| !targets.exists()) {
                    return Err(Error::input(format!("{target_key}: no such file: {}", missing.display())));
                }
                PairLayout::Lines { targets: targets.map(Path::to_owned) }
            }
        };
        Ok(ParallelTexts {
            source: PairSource { path: path.to_owned(), layout, on_bad_record: self.on_bad_record() },
            prefix: task.source_prefix.clone().unwrap_or_default(),
            max_length: self.max_length,
            max_target_length: task.max_target_length.unwrap_or(MAX_TARGET_LENGTH),
            start: decoder_start(self.folder)?,
            references: *purpose == Purpose::Evaluate,
        })
    }
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
    let at_least = |n: usize, head: fn(Vec<String>) -> Head| match labels.as_slice() {
        found if found.len() >= n => Ok(head(labels.clone())),
        [] => Err(Error::input(format!("data.train: {} holds no label", path.display()))),
        found => Err(Error::input(format!(
            "data.train: {} holds one label only ({}): a classifier needs two or more",
            path.display(),
            found.join(", ")
        ))),
    };
    match task.kind {
        TaskKind::SequenceClassification => at_least(2, Head::Classes),
        TaskKind::MultiLabel => at_least(1, Head::Flags),
        TaskKind::TokenClassification => at_least(2, Head::Tags),
        TaskKind::Regression => Ok(Head::Number),
        TaskKind::QuestionAnswering => Ok(Head::Span),
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
        Head::Span => TaskKind::QuestionAnswering,
        Head::Choice => TaskKind::MultipleChoice,
        Head::MaskedLm | Head::PreTraining => TaskKind::MaskedLm,
        Head::CausalLm => TaskKind::CausalLm,
        Head::Seq2Seq => TaskKind::Seq2seq,
    }
}
