//! The `[data]` settings as sources of the module `text`: which file a task reads, in which format.

use super::reading::{Purpose, Reading};
use crate::config::{self, DataConfig, DataFiles, Documents, EmbeddingLoss};
use crate::error::{Context, Error, Result};
use crate::tasks::answers::Rules;
use crate::tasks::parallel_texts::{ParallelTexts, decoder_start};
use crate::tasks::questions::Questions;
use crate::text::choices::ChoiceSource;
use crate::text::conversations::ConversationSource;
use crate::text::documents::{Division, DocumentSource, is_text};
use crate::text::files::Files;
use crate::text::input::extension;
use crate::text::pairs::{PairLayout, PairSource};
use crate::text::prompts::PromptSource;
use crate::text::questions::QuestionSource;
use crate::text::records::{Fields, Format, OnBad, Source};
use crate::text::tagged::{TaggedFormat, TaggedSource};
use std::path::Path;

/// The setting of further evaluation sets.
pub const EVAL_SETS: &str = "data.eval_sets";

/// The formats of records, and those of records with lists.
const RECORDS: [(config::Format, Format); 5] = [
    (config::Format::Jsonl, Format::Jsonl),
    (config::Format::Csv, Format::Csv),
    (config::Format::Tsv, Format::Tsv),
    (config::Format::Parquet, Format::Parquet),
    (config::Format::Arrow, Format::Arrow),
];
const LISTS: [(config::Format, Format); 3] = [RECORDS[0], RECORDS[3], RECORDS[4]];

impl Reading<'_> {
    /// Returns the source for files of documents: plain text (by its format setting or its name), split as configured
    /// or else by `usual`; or records.
    /// # Errors
    /// Exit 2 if `data.documents` is set for records.
    pub(super) fn documents(&self, files: &Files, usual: Documents) -> Result<DocumentSource> {
        let data = self.data;
        let texts = files.iter().filter(|path| is_text(path)).count();
        if data.format.is_none() && texts > 0 && texts < files.paths().len() {
            let why = "some are plain text and some are records: name them in different runs, or set format";
            return Err(Error::input(format!("{files}: {why}")));
        }
        let plain = data.format.map_or(texts > 0, |format| format == config::Format::Text);
        // The training file may be plain text while the evaluation file has records.
        let mut all = data.eval.iter().chain([&data.train]).chain(data.eval_sets.0.values()).flat_map(DataFiles::paths);
        if plain && all.all(|file| data.format.is_some() || is_text(file)) {
            let why = "plain text has no columns: remove it, or set format if the file has records";
            self.refuse_set(&["text_column", "columns", "header"], why).context(files)?;
        }
        match (plain, data.documents) {
            (true, division) => Ok(DocumentSource::Text {
                files: files.clone(),
                division: match division.unwrap_or(usual) {
                    Documents::File => Division::File,
                    Documents::Lines => Division::Lines,
                    Documents::Paragraphs => Division::Paragraphs,
                },
            }),
            (false, Some(_)) => {
                let why =
                    "documents applies to plain text; a record is one document: remove it, or set format = \"text\"";
                Err(Error::input(format!("{files}: {why}")))
            }
            (false, None) => {
                let mut source = self.source(files)?;
                source.fields.label = None;
                Ok(DocumentSource::Records(source))
            }
        }
    }

    /// Returns the source for a file of prompts with answers, or of conversations.
    pub(super) fn conversations(&self, files: &Files) -> Result<ConversationSource> {
        let data = self.data;
        Ok(ConversationSource {
            files: files.clone(),
            format: self.format(&RECORDS)?,
            prompt: data.prompt_column.clone(),
            completion: data.completion_column.clone(),
            messages: data.messages_column.clone(),
            on_bad_record: self.on_bad_record(),
        })
    }

    /// Returns the source for a file of prompts or conversations to continue.
    pub(super) fn prompts(&self, files: &Files) -> Result<PromptSource> {
        Ok(PromptSource {
            files: files.clone(),
            format: self.format(&RECORDS)?,
            text: self.data.text_column.clone(),
            prompt: self.data.prompt_column.clone(),
            messages: self.data.messages_column.clone(),
            on_bad_record: self.on_bad_record(),
        })
    }

    /// Returns the source for a file of records with columns.
    pub(super) fn source(&self, files: &Files) -> Result<Source> {
        let data = self.data;
        Ok(Source {
            files: files.clone(),
            format: self.format(&RECORDS)?,
            columns: data.columns.clone(),
            header: data.header,
            fields: Fields {
                text: data.text_column.clone(),
                text_pair: data.text_pair_column.clone(),
                label: Some(data.label_column.clone()),
                weight: data.weight_column.clone().filter(|_| self.purpose == Purpose::Train),
                ..Fields::default()
            },
            on_bad_record: self.on_bad_record(),
        })
    }

    /// Returns the source for a file of texts to embed. Evaluation data may have scores or not, and negatives or not.
    pub(super) fn embedding_source(&self, files: &Files) -> Result<Source> {
        let (mut source, pairs) = (self.source(files)?, self.purpose != Purpose::Predict);
        let fields = &mut source.fields;
        fields.optional = self.purpose == Purpose::Evaluate;
        fields.numeric = true;
        let scored = self.task.loss == Some(EmbeddingLoss::CosineSimilarity);
        fields.label = fields.label.take().filter(|_| fields.optional || (pairs && scored));
        fields.text_pair = pairs.then(|| fields.text_pair.take().unwrap_or_else(|| "text_pair".into()));
        fields.negative = self.data.negative_column.clone().filter(|_| pairs);
        Ok(source)
    }

    pub(super) fn tagged_source(&self, files: &Files) -> Result<TaggedSource> {
        let mut formats = vec![(config::Format::Conll, TaggedFormat::Conll)];
        formats.extend(LISTS.map(|(name, format)| (name, TaggedFormat::Records(format))));
        if self.purpose == Purpose::Predict {
            formats.push((config::Format::Text, TaggedFormat::Sentences));
        }
        Ok(TaggedSource {
            files: files.clone(),
            format: self.format(&formats)?,
            words: self.data.words_column.clone(),
            tags: self.answer_column(&self.data.tags_column),
            on_bad_record: self.on_bad_record(),
        })
    }

    pub(super) fn choice_source(&self, files: &Files) -> Result<ChoiceSource> {
        Ok(ChoiceSource {
            files: files.clone(),
            format: self.format(&LISTS)?,
            question: self.data.question_column.clone(),
            context: self.data.context_column.clone(),
            choices: self.data.choices_column.clone(),
            label: self.answer_column(&self.data.label_column),
            on_bad_record: self.on_bad_record(),
        })
    }

    /// Returns the name of a column with answers, or `None` for prediction.
    fn answer_column(&self, name: &str) -> Option<String> {
        (self.purpose != Purpose::Predict).then(|| name.to_owned())
    }

    /// Returns `data.format` as one of the formats that a task reads.
    fn format<T: Copy>(&self, known: &[(config::Format, T)]) -> Result<Option<T>> {
        let Some(wanted) = self.data.format else { return Ok(None) };
        let found = known.iter().find(|(format, _)| *format == wanted).map(|&(_, format)| Some(format));
        found.ok_or_else(|| {
            let known: Vec<&str> = known.iter().map(|(format, _)| format.name()).collect();
            Error::input(format!("data.format: {} reads {}, not {wanted}", self.task.kind, known.join(", ")))
        })
    }

    /// Returns an error if one of these keys is set, because the format has no use for it.
    fn refuse_set(&self, keys: &[&str], why: &str) -> Result<()> {
        let (data, default) = (self.data, DataConfig::default());
        let set = [
            ("text_column", data.text_column != default.text_column),
            ("text_pair_column", data.text_pair_column.is_some()),
            ("label_column", data.label_column != default.label_column),
            ("columns", data.columns.is_some()),
            ("header", data.header.is_some()),
            ("format", data.format.is_some()),
        ];
        match set.into_iter().find(|(key, set)| *set && keys.contains(key)) {
            Some((key, _)) => Err(Error::input(format!("{key}: {why}"))),
            None => Ok(()),
        }
    }

    fn on_bad_record(&self) -> OnBad {
        match self.data.on_bad_record {
            config::OnBadRecord::Error => OnBad::Error,
            config::OnBadRecord::Skip => OnBad::Skip,
        }
    }

    /// Returns the source for pairs of texts: JSONL (by setting or name), or plain text with a separate target file.
    ///
    /// # Errors
    /// Exit 2: a missing or superfluous target file; no start token.
    pub(super) fn parallel_texts(&self, files: &Files, key: &str) -> Result<ParallelTexts> {
        let Reading { task, data, purpose, .. } = self;
        let (targets, target_key) = match purpose {
            Purpose::Train => (data.train_target.as_ref(), "data.train_target"),
            // What is held out of the training data.
            Purpose::Evaluate if key == "data.train" => (data.train_target.as_ref(), "data.train_target"),
            Purpose::Evaluate if key == EVAL_SETS => (None, EVAL_SETS),
            Purpose::Evaluate if key.starts_with("--") => (data.eval_target.as_ref(), "--eval-target"),
            Purpose::Evaluate => (data.eval_target.as_ref(), "data.eval_target"),
            Purpose::Predict => (None, ""),
        };
        let refuse = |why: &str| Err(Error::input(format!("{target_key}: {why}: {files}")));
        // Any other extension is plain text, such as `.en`. So is `.csv` if there are targets.
        let records = |path: &Path| match extension(path).as_str() {
            "jsonl" | "ndjson" | "json" | "parquet" | "arrow" | "feather" | "ipc" => true,
            "csv" | "tsv" | "tab" => targets.is_none(),
            _ => false,
        };
        let format = self.format(&RECORDS).ok().flatten();
        let layout = match (format.is_some() || files.iter().all(records), targets) {
            (true, Some(_)) => return refuse("a file of records contains its targets: remove this setting"),
            (true, None) => PairLayout::Records {
                format,
                source: data.source_column.clone(),
                target: (*purpose != Purpose::Predict).then(|| data.target_column.clone()),
            },
            (false, None) if target_key == EVAL_SETS => {
                return refuse("plain text has no targets here: use records with source and target");
            }
            (false, None) if *purpose != Purpose::Predict => {
                return refuse("missing: set it to the file with one target per line for this file");
            }
            (false, targets) => PairLayout::Lines {
                targets: targets.map(|targets| Files::find(targets.paths()).context(target_key)).transpose()?,
            },
        };
        Ok(ParallelTexts {
            source: PairSource { files: files.clone(), layout, on_bad_record: self.on_bad_record() },
            prefix: task.source_prefix.clone().unwrap_or_default(),
            max_length: self.max_length,
            max_target_length: task.target_length().unwrap_or(config::MAX_TARGET_LENGTH),
            start: decoder_start(self.folder)?,
            references: *purpose == Purpose::Evaluate,
        })
    }

    pub(super) fn questions(&self, files: &Files) -> Result<Questions> {
        self.refuse_set(
            &["text_column", "text_pair_column", "label_column", "columns", "header", "format"],
            "questions come from SQuAD JSON, or from records with context, question, answers and id: remove it",
        )?;
        let answers = self.task.answers.clone().unwrap_or_default();
        let rules = Rules {
            n_best_size: answers.n_best_size,
            max_answer_length: answers.max_answer_length,
            null_score_diff_threshold: answers.null_score_diff_threshold,
            version_2_with_negative: answers.version_2_with_negative,
        };
        let labelled = self.purpose != Purpose::Predict;
        Ok(Questions {
            source: QuestionSource { files: files.clone(), labelled, on_bad_record: self.on_bad_record() },
            max_length: self.max_length,
            doc_stride: answers.doc_stride,
            rules: (self.purpose != Purpose::Train).then_some(rules),
        })
    }
}
