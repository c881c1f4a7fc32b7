//! Reads the data files of a run as its configuration says, and derives the head from the data.

use crate::config::{
    Config, DataConfig, DataFiles, Documents, EmbeddingLoss, EvalSplit, Pooling, TaskConfig, TaskKind,
};
use crate::data::{Encode, Facts, Prepared};
use crate::error::{Context, Error, Result};
use crate::models::Role;
use crate::nn::pooler::Picks;
use crate::tasks::answers;
use crate::tasks::causal_texts::CausalTexts;
use crate::tasks::chat::Chat;
use crate::tasks::choices::Choices;
use crate::tasks::corpus::Corpus;
use crate::tasks::embedding::EmbeddingHead;
use crate::tasks::embedding_texts::EmbeddingTexts;
use crate::tasks::masked_texts::{FillMask, MaskedTexts, MaskingOptions};
use crate::tasks::prompts::Prompts;
use crate::tasks::sentence_pairs::SentencePairs;
use crate::tasks::tagged_words::TaggedWords;
use crate::tasks::texts::{Target, Texts};
use crate::tasks::{Head, sentence_transformers};
use crate::text::documents::{Division, DocumentSource};
use crate::text::files::Files;
use crate::text::part::Part;
use crate::train::shards::Shards;
use std::path::Path;
use std::sync::Arc;

/// The datasets of a run, and the head that they need.
pub struct Data {
    /// With a stream its first examples, which stand for all.
    pub train: Prepared,
    /// The shards that training reads, with `data.streaming`.
    pub stream: Option<Arc<Shards>>,
    pub eval: Option<Prepared>,
    /// Those of `data.eval_sets`, by name.
    pub eval_sets: Vec<(String, Prepared)>,
    pub head: Head,
}

impl Data {
    /// Returns all evaluation sets, with what errors and logs call them.
    pub fn evaluations(&self) -> impl Iterator<Item = (String, &Prepared)> {
        let main = self.eval.iter().map(|eval| ("the evaluation data".to_owned(), eval));
        main.chain(self.eval_sets.iter().map(|(name, set)| (format!("the evaluation set {name}"), set)))
    }
}

/// Purpose of reading a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Train,
    /// Reads labels, and the references for metrics.
    Evaluate,
    /// Reads no labels and skips no record.
    Predict,
}

/// Settings for reading the data files of a run.
pub struct Reading<'a> {
    pub task: &'a TaskConfig,
    pub data: &'a DataConfig,
    /// The model folder.
    pub folder: &'a Path,
    pub max_length: usize,
    pub purpose: Purpose,
    /// The labels in the order of their ids; `None` infers them from the data.
    pub labels: Option<Vec<String>>,
    /// Random seed for what is sampled while reading training data.
    pub seed: u64,
    /// The part of the records to read; `None` is all of them.
    pub part: Option<Part>,
    /// Whether to find out which tokens are a word, for augmentation.
    pub words: bool,
}

impl Reading<'_> {
    /// Returns the encoder for the files that the setting `key` names.
    ///
    /// # Errors
    /// Exit 2: no such file; those of [`Files::find`].
    pub fn encoder(&self, named: &DataFiles, key: &str) -> Result<Box<dyn Encode>> {
        self.encoder_of(&Files::find(named.paths()).context(key)?.with_part(self.part), key)
    }

    /// Returns the encoder for these files, or pieces of them, of the setting `key`.
    ///
    /// # Errors
    /// Exit 2: settings that do not match the files.
    pub fn encoder_of(&self, files: &Files, key: &str) -> Result<Box<dyn Encode>> {
        let Reading { max_length, purpose, labels, words, .. } = self;
        let texts = |target: Target| -> Result<Box<dyn Encode>> {
            let target = if *purpose == Purpose::Predict { Target::None } else { target };
            Ok(Box::new(Texts { source: self.source(files)?, target, max_length: *max_length, words: *words }))
        };
        match self.task.kind {
            TaskKind::SequenceClassification => texts(Target::Class { labels: labels.clone() }),
            TaskKind::MultiLabel => texts(Target::Flags { labels: labels.clone() }),
            TaskKind::TokenClassification => {
                let (source, labels) = (self.tagged_source(files)?, labels.clone());
                Ok(Box::new(TaggedWords { source, labels, max_length: *max_length, words: *words }))
            }
            TaskKind::MultipleChoice => {
                Ok(Box::new(Choices { source: self.choice_source(files)?, max_length: *max_length }))
            }
            TaskKind::Regression => texts(Target::Value),
            TaskKind::Embedding => Ok(Box::new(EmbeddingTexts {
                source: self.embedding_source(files)?,
                alone: *purpose == Purpose::Predict,
                max_length: *max_length,
                max_score: self.task.max_score.unwrap_or(1.0),
            })),
            TaskKind::Seq2seq => Ok(Box::new(self.parallel_texts(files, key)?)),
            TaskKind::CausalLm | TaskKind::Chat if *purpose == Purpose::Predict => {
                Ok(Box::new(Prompts { source: self.prompts(files)?, max_length: *max_length }))
            }
            TaskKind::CausalLm => Ok(Box::new(CausalTexts(self.corpus(files)?))),
            TaskKind::MaskedLm if *purpose == Purpose::Predict => {
                Ok(Box::new(FillMask { source: self.documents(files, Documents::Lines)?, max_length: *max_length }))
            }
            TaskKind::MaskedLm => {
                let masking = MaskingOptions {
                    probability: self.task.mlm_probability.unwrap_or(0.15),
                    whole_words: self.task.whole_word_mask.unwrap_or(false),
                };
                if !self.pairs_sentences() {
                    return Ok(Box::new(MaskedTexts { corpus: self.corpus(files)?, masking }));
                }
                let source = DocumentSource::Text { files: files.clone(), division: Division::Paragraphs };
                // The pairs of an evaluation do not depend on the run.
                let seed = if *purpose == Purpose::Train { self.seed } else { 0 };
                Ok(Box::new(SentencePairs { source, max_length: *max_length, masking, seed }))
            }
            TaskKind::Chat => Ok(Box::new(Chat {
                source: self.conversations(files)?,
                max_length: *max_length,
                split_turns: self.task.split_turns.unwrap_or(false),
            })),
            TaskKind::QuestionAnswering => Ok(Box::new(self.questions(files)?)),
        }
    }

    fn pairs_sentences(&self) -> bool {
        role(self.task) == Role::PreTraining
    }

    /// Returns the documents of a file for a language model.
    fn corpus(&self, files: &Files) -> Result<Corpus> {
        let packing = self.task.packing.unwrap_or(true);
        Ok(Corpus { source: self.documents(files, Documents::default())?, max_length: self.max_length, packing })
    }
}

/// Returns the part of the training data that a run trains on, with `data.eval_split`.
pub fn trained_part(config: &Config) -> Option<Part> {
    let kind = config.task.kind;
    let stratify = matches!(kind, TaskKind::SequenceClassification | TaskKind::MultiLabel);
    Some(match config.data.eval_split? {
        EvalSplit::Fraction(fraction) => Part::fraction(fraction, config.seed, stratify),
        EvalSplit::Fold { fold, folds } => Part::fold(fold, folds, config.seed, stratify),
    })
}

/// Default of `max_length` for a task, if not that of the model: the block size of language models and the window of
/// question answering in Hugging Face's examples (run_clm.py, run_qa.py); for embeddings that of the model's folder.
///
/// # Errors
/// As [`sentence_transformers::read`].
pub fn usual_length(kind: TaskKind, folder: &Path) -> Result<Option<usize>> {
    Ok(match kind {
        TaskKind::CausalLm | TaskKind::MaskedLm => Some(1024),
        TaskKind::QuestionAnswering => Some(384),
        TaskKind::Embedding => sentence_transformers::read(folder)?.and_then(|settings| settings.max_length),
        _ => None,
    })
}

/// Returns the task head (`...ForX`) of a model that is fine-tuned for a task.
pub fn role(task: &TaskConfig) -> Role {
    match task.kind {
        TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::Regression => Role::SequenceClassification,
        TaskKind::TokenClassification => Role::TokenClassification,
        TaskKind::QuestionAnswering => Role::QuestionAnswering,
        TaskKind::MultipleChoice => Role::MultipleChoice,
        TaskKind::MaskedLm if task.next_sentence == Some(true) => Role::PreTraining,
        TaskKind::MaskedLm => Role::MaskedLm,
        TaskKind::CausalLm | TaskKind::Chat => Role::CausalLm,
        TaskKind::Seq2seq => Role::Seq2Seq,
        TaskKind::Embedding => Role::Embedding,
    }
}

/// Returns the head for a task on data with these `facts`; `files` are the training files, `folder`
/// that of the initial model.
///
/// # Errors
/// Exit 2 if there are fewer labels than a classifier needs; as [`sentence_transformers::read`].
pub fn head(task: &TaskConfig, facts: &Facts, files: &DataFiles, folder: &Path) -> Result<Head> {
    let labels = facts.labels.clone().unwrap_or_default();
    let at_least = |n: usize, head: fn(Vec<String>) -> Head| match labels.as_slice() {
        found if found.len() >= n => Ok(head(labels.clone())),
        [] => Err(Error::input(format!("data.train: {files} has no labels"))),
        found => Err(Error::input(format!(
            "data.train: {files} has only one label ({}): a classifier needs at least two",
            found.join(", ")
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
        TaskKind::MaskedLm if role(task) == Role::PreTraining => Ok(Head::PreTraining),
        TaskKind::MaskedLm => Ok(Head::MaskedLm),
        TaskKind::CausalLm | TaskKind::Chat => Ok(Head::CausalLm),
        TaskKind::Seq2seq => Ok(Head::Seq2Seq),
        TaskKind::Embedding => Ok(Head::Embedding(embedding(task, folder)?)),
    }
}

/// Returns the head of sentence embeddings: what is not set is as in the folder of the initial model.
fn embedding(task: &TaskConfig, folder: &Path) -> Result<EmbeddingHead> {
    let (own, usual) = (sentence_transformers::read(folder)?, EmbeddingHead::default());
    let pooling = task.pooling.map(|pooling| match pooling {
        Pooling::Mean => Picks::Mean,
        Pooling::Cls => Picks::First,
        Pooling::LastToken => Picks::Last,
    });
    Ok(EmbeddingHead {
        pooling: pooling.or(own.map(|own| own.pooling)).unwrap_or(usual.pooling),
        normalizes: task.normalize.or(own.map(|own| own.normalizes)).unwrap_or(usual.normalizes),
        contrastive: task.loss.unwrap_or_default() == EmbeddingLoss::MultipleNegativesRanking,
        scale: task.scale.unwrap_or(usual.scale),
    })
}

/// Returns the task that a model was fine-tuned for.
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
        Head::Embedding(_) => TaskKind::Embedding,
    }
}
