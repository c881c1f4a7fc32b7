//! The head that a model gets: what its task needs to know beside the backbone.

use crate::error::{Error, Result};
use crate::models::{Backbone, Role};
use crate::nn::ParamBuilder;
use crate::tasks::masked_lm::MaskedLm;
use crate::tasks::multi_label::MultiLabel;
use crate::tasks::multiple_choice::MultipleChoice;
use crate::tasks::next_token::NextToken;
use crate::tasks::question_answering::{QuestionAnswering, VERSION_2};
use crate::tasks::regression::Regression;
use crate::tasks::sequence_classification::SequenceClassification;
use crate::tasks::token_classification::TokenClassification;
use crate::tasks::{Task, labels};
use serde_json::Value;
use std::path::Path;

/// A task's head.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// One of these labels, in the order of their ids.
    Classes(Vec<String>),
    /// Any of these labels.
    Flags(Vec<String>),
    /// One number.
    Number,
    /// One of these tags for each word.
    Tags(Vec<String>),
    /// The part of a context that answers a question, or maybe that none does.
    Span { unanswerable: bool },
    /// One of several continuations.
    Choice,
    /// Hidden tokens.
    MaskedLm,
    /// Hidden tokens, and whether the second text follows the first.
    PreTraining,
    /// The next token.
    CausalLm,
    /// The next token of a target, given its source.
    Seq2Seq,
}

impl Head {
    /// The head that a fine-tuned model's `config.json` tells of.
    ///
    /// # Errors
    /// Exit 2: the folder holds a bare model, or labels with gaps.
    pub fn of_config(folder: &Path, config: &Value) -> Result<Self> {
        let refuse = |why: &str| Err(Error::input(format!("{}: {why}", folder.join("config.json").display())));
        let Some(role) = Role::of_config(config) else {
            return refuse("not a fine-tuned model (\"architectures\" names no ...For... with a task)");
        };
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
        })
    }

    /// The backbone's role.
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
        }
    }

    /// The labels, of a head that has some.
    pub fn labels(&self) -> Option<&[String]> {
        match self {
            Head::Classes(labels) | Head::Flags(labels) | Head::Tags(labels) => Some(labels),
            _ => None,
        }
    }

    /// Declares the head in the builder's stage.
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
        }
    }
}
