//! Settings of distillation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::keys::{ABOVE_0_TO_1, DefaultValue, Entries, Key, POSITIVE, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::Value;

section! {
    /// `[distill]`: a teacher whose outputs the model learns too ([more](distillation.md)).
    DistillConfig in "distill" {
        /// Model folder of the teacher, or its name on the Hugging Face Hub. A model that was fine-tuned for the same task on the same labels, with the same
        /// tokenizer. It is not trained, and no checkpoint contains it.
        teacher: Option<PathBuf> => "no teacher";
        /// Temperature of the teacher's and the model's outputs. Logits are divided by it, in the teacher's part of the
        /// loss only; not for `regression`.
        temperature: f64 = 2.0, POSITIVE;
        /// Weight of the teacher in the loss. The loss of the labels has the rest; 1 for the teacher alone.
        alpha: f64 = 0.5, ABOVE_0_TO_1;
    }
}
