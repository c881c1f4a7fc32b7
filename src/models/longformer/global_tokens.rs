//! Which tokens have global attention.

use crate::data::extent::Extent;
use crate::error::{Error, Result};
use crate::models::Role;
use serde_json::Value;
use std::ops::Range;

/// Number of tokens of a question, by which memory is planned before the data is known.
const QUESTION: f64 = 32.0;

/// The tokens with global attention in a sequence: for each task head those that `transformers` chooses if no mask is
/// given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobalTokens {
    None,
    /// The first token.
    First,
    /// Those before the first token with this id: a question and the token in front of it.
    BeforeSeparator(i64),
    /// Those after the first token with this id and the one that follows it: a choice and the token after it.
    AfterSeparators(i64),
}

impl GlobalTokens {
    /// Returns those for a task head.
    ///
    /// # Errors
    /// Exit 2: the separator is needed and `sep_token_id` is null.
    pub fn of_role(role: Role, json: &Value) -> Result<Self> {
        let separator = match json.get("sep_token_id") {
            None => Some(2),
            Some(id) => id.as_i64(),
        };
        let separator = separator.ok_or_else(|| {
            Error::input("sep_token_id is no token id: it determines which tokens have global attention")
        });
        Ok(match role {
            Role::SequenceClassification => GlobalTokens::First,
            Role::QuestionAnswering => GlobalTokens::BeforeSeparator(separator?),
            Role::MultipleChoice => GlobalTokens::AfterSeparators(separator?),
            _ => GlobalTokens::None,
        })
    }

    /// Returns the positions of the global tokens of each sequence, of the tokens of all: `0..0` if it has none.
    pub fn of(self, ids: &[i64], lengths: &[i64]) -> Vec<Range<i64>> {
        let mut rest = ids;
        let sequence = |&length: &i64| {
            let (own, after) = rest.split_at(length as usize);
            rest = after;
            let position = |id: i64| own.iter().position(|&other| other == id).map(|position| position as i64);
            let globals = match self {
                GlobalTokens::None => 0..0,
                GlobalTokens::First => 0..1,
                GlobalTokens::BeforeSeparator(id) => 0..position(id).unwrap_or(0),
                GlobalTokens::AfterSeparators(id) => position(id).map_or(0..0, |at| at + 2..length),
            };
            if globals.is_empty() { 0..0 } else { globals }
        };
        lengths.iter().map(sequence).collect()
    }

    /// Returns the number of global tokens by which memory and time are planned.
    pub fn expected(self, x: &Extent) -> f64 {
        match self {
            GlobalTokens::None => 0.0,
            GlobalTokens::First => x.sequences,
            GlobalTokens::BeforeSeparator(_) => (QUESTION * x.sequences).min(x.tokens),
            GlobalTokens::AfterSeparators(_) => x.tokens / 2.0,
        }
    }
}
