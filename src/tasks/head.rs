//! The task head of a model, as determined by a `config.json`.

use crate::error::{Error, Result};
use crate::models::{Backbone, Role};
use crate::nn::ParamBuilder;
use crate::tasks::embedding::{Embedding, EmbeddingHead};
use crate::tasks::masked_lm::MaskedLm;
use crate::tasks::multi_label::MultiLabel;
use crate::tasks::multiple_choice::MultipleChoice;
use crate::tasks::next_token::NextToken;
use crate::tasks::question_answering::{QuestionAnswering, VERSION_2};
use crate::tasks::regression::Regression;
use crate::tasks::sequence_classification::SequenceClassification;
use crate::tasks::token_classification::TokenClassification;
use crate::tasks::{Task, labels, sentence_transformers};
use serde_json::Value;
use std::path::Path;

/// A task head.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// Single-label sequence classification; labels in order of their ids.
    Classes(Vec<String>),
    /// Multi-label sequence classification; labels in order of their ids.
    Flags(Vec<String>),
    /// Regression.
    Number,
    /// Token classification; tags in order of their ids.
    Tags(Vec<String>),
    /// Extractive question answering, with or without unanswerable questions.
    Span { unanswerable: bool },
    /// Multiple choice.
    Choice,
    /// Masked language modeling.
    MaskedLm,
    /// Masked language modeling and next-sentence prediction.
    PreTraining,
    /// Causal language modeling.
    CausalLm,
    /// Sequence-to-sequence language modeling.
    Seq2Seq,
    /// Sentence embeddings.
    Embedding(EmbeddingHead),
}

impl Head {
    /// Infers the head from a fine-tuned model's `config.json`.
    ///
    /// # Errors
    /// Exit 2: a model without a task head, or label ids with gaps.
    pub fn of_config(folder: &Path, config: &Value) -> Result<Self> {
        let refuse = |why: &str| Err(Error::input(format!("{}: {why}", folder.join("config.json").display())));
        let bare = "not a fine-tuned model (\"architectures\" names no ...For... with a task)";
        let Some(role) = Role::of_config(config) else { return refuse(bare) };
        let names = match labels::of_config(config) {
            None if config.get("id2label").is_some_and(Value::is_object) => {
                return refuse("\"id2label\" has gaps: its ids must be 0, 1, 2 and so on");
            }
            names => names.unwrap_or_else(|| vec!["LABEL_0".into(), "LABEL_1".into()]),
        };
        Ok(match (role, config.get("problem_type").and_then(Value::as_str)) {
            (Role::SequenceClassification, Some("multi_label_classification")) => Head::Flags(names),
            (Role::SequenceClassification, Some("regression")) => Head::Number,
            (Role::SequenceClassification, None) if names.len() == 1 => Head::Number,
            (Role::SequenceClassification, _) => Head::Classes(names),
            (Role::TokenClassification, _) => Head::Tags(names),
            (Role::QuestionAnswering, _) => {
                Head::Span { unanswerable: config.get(VERSION_2).is_some_and(|known| known == true) }
            }
            (Role::MultipleChoice, _) => Head::Choice,
            (Role::MaskedLm, _) => Head::MaskedLm,
            (Role::PreTraining, _) => Head::PreTraining,
            (Role::CausalLm, _) => Head::CausalLm,
            (Role::Seq2Seq, _) => Head::Seq2Seq,
            (Role::Embedding, _) => {
                let Some(settings) = sentence_transformers::read(folder)? else { return refuse(bare) };
                let (pooling, normalizes) = (settings.pooling, settings.normalizes);
                Head::Embedding(EmbeddingHead { pooling, normalizes, ..EmbeddingHead::default() })
            }
        })
    }

    /// Returns the task head of the architecture (`...For...`).
    pub fn role(&self) -> Role {
        match self {
            Head::Classes(_) | Head::Flags(_) | Head::Number => Role::SequenceClassification,
            Head::Tags(_) => Role::TokenClassification,
            Head::Span { .. } => Role::QuestionAnswering,
            Head::Choice => Role::MultipleChoice,
            Head::MaskedLm => Role::MaskedLm,
            Head::PreTraining => Role::PreTraining,
            Head::CausalLm => Role::CausalLm,
            Head::Seq2Seq => Role::Seq2Seq,
            Head::Embedding(_) => Role::Embedding,
        }
    }

    /// Returns the labels, if the head has any.
    pub fn labels(&self) -> Option<&[String]> {
        match self {
            Head::Classes(labels) | Head::Flags(labels) | Head::Tags(labels) => Some(labels),
            _ => None,
        }
    }

    /// Declares the head in the builder's block.
    pub fn build(&self, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Box<dyn Task> {
        match self {
            Head::Classes(labels) => Box::new(SequenceClassification::new(labels.clone(), backbone, b)),
            Head::Flags(labels) => Box::new(MultiLabel::new(labels.clone(), backbone, b)),
            Head::Number => Box::new(Regression::new(backbone, b)),
            Head::Tags(labels) => Box::new(TokenClassification::new(labels.clone(), backbone, b)),
            Head::Span { unanswerable } => Box::new(QuestionAnswering::new(*unanswerable, backbone, b)),
            Head::Choice => Box::new(MultipleChoice::new(backbone, b)),
            Head::MaskedLm => Box::new(MaskedLm::alone()),
            Head::PreTraining => Box::new(MaskedLm::with_next_sentence(backbone, b)),
            Head::CausalLm => Box::new(NextToken { kind: "causal-lm" }),
            Head::Seq2Seq => Box::new(NextToken { kind: "seq2seq" }),
            Head::Embedding(head) => Box::new(Embedding::new(*head, backbone, b)),
        }
    }
}
