//! Settings of augmentation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::keys::{DefaultValue, Entries, FROM_0_TO_1, Key, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::Value;

section! {
    /// `[augment]`: random changes of the training texts.
    AugmentConfig in "augment" {
        /// Probability that a word is replaced. By a synonym, if it has one in `synonyms`; without that file by a word
        /// of the training data. Changes are new in each epoch, and evaluations have none
        /// ([more](fine-tuning.md#augmentation)).
        replace: f64 = 0.0, FROM_0_TO_1;
        /// Probability that a word is inserted, for each word. At a random place of its text: a synonym of the word, or
        /// without `synonyms` a word of the training data. Not for `token-classification`.
        insert: f64 = 0.0, FROM_0_TO_1;
        /// Probability that a word changes places with another. With a random one of the same text.
        swap: f64 = 0.0, FROM_0_TO_1;
        /// Probability that a word is deleted. Each text keeps at least one.
        delete: f64 = 0.0, FROM_0_TO_1;
        /// Probability that a token is replaced by the mask token. Special tokens stay.
        mask: f64 = 0.0, FROM_0_TO_1;
        /// File of synonyms for `replace` and `insert`. Each line is a set of words, separated by commas, that may
        /// stand for each other, or `word => others`.
        synonyms: Option<PathBuf> => "words of the training data";
    }
}

impl AugmentConfig {
    /// Returns the rates: the key and the value of each.
    pub fn rates(&self) -> [(&'static str, f64); 5] {
        let AugmentConfig { replace, insert, swap, delete, mask, .. } = *self;
        [("replace", replace), ("insert", insert), ("swap", swap), ("delete", delete), ("mask", mask)]
    }

    /// Returns whether examples change.
    pub fn is_on(&self) -> bool {
        self.rates().iter().any(|(_, rate)| *rate > 0.0)
    }
}
