//! Settings that are one word out of a few.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::foreign;
use super::source::nearest;
use super::value::{FromToml, integer};
use crate::error::{Error, Result};

/// An enum whose variants have the names that users write, for the setting of a dotted key.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident of $key:literal { $($(#[$attr:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[$attr])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// The name that users write.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(word: &str) -> Result<Self> {
                let found = Self::ALL.iter().find(|choice| choice.name() == word);
                found.copied().ok_or_else(|| Error::input(refusal($key, word, &[$($word),*])))
            }
        }

        impl FromToml for $name {
            fn expected() -> String {
                one_of(&[$($word),*])
            }
            fn from_toml(value: &toml::de::DeValue<'_>) -> Option<Result<Self, String>> {
                if let Some(n) = integer(value) {
                    let n = n.to_string();
                    return foreign::word($key, &n, &n).map(Err);
                }
                Some(value.as_str()?.parse().map_err(|e: Error| e.to_string()))
            }
        }
    };
}

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    match quoted.as_slice() {
        [.., _, _] => format!("{} or {}", quoted[..quoted.len() - 1].join(", "), quoted[quoted.len() - 1]),
        _ => quoted.concat(),
    }
}

fn refusal(key: &str, word: &str, words: &[&str]) -> String {
    if let Some(told) = foreign::word(key, word, &format!("{word:?}")) {
        return told;
    }
    let hint = nearest(word, words.iter().copied()).map(|w| format!(" (did you mean {w:?}?)")).unwrap_or_default();
    format!("found {word:?}, expected {}{hint}", one_of(words))
}

choice! {
    /// What a model is trained to do.
    TaskKind of "task.kind" {
        /// One label of many.
        #[default]
        SequenceClassification = "sequence-classification",
        /// Any of several labels.
        MultiLabel = "multi-label",
        /// One number.
        Regression = "regression",
        /// A tag for each word.
        TokenClassification = "token-classification",
        /// The part of a context that answers a question.
        QuestionAnswering = "question-answering",
        /// One of several continuations.
        MultipleChoice = "multiple-choice",
        /// Hidden tokens.
        MaskedLm = "masked-lm",
        /// The next token of a text.
        CausalLm = "causal-lm",
        /// The next token of an answer.
        Chat = "chat",
        /// A target, given its source.
        Seq2seq = "seq2seq",
    }
}

impl TaskKind {
    /// The metrics that there are with two labels alone.
    pub const OF_TWO_LABELS: [&str; 3] = ["binary_f1", "roc_auc", "average_precision"];

    /// Whether the data has a set of labels.
    pub fn has_labels(self) -> bool {
        matches!(self, TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::TokenClassification)
    }

    /// Whether its models write texts.
    pub fn generates(self) -> bool {
        matches!(self, TaskKind::CausalLm | TaskKind::Chat | TaskKind::Seq2seq)
    }

    /// The metrics of an evaluation besides `loss`, in the order in which they are shown.
    pub fn metrics(self) -> &'static [&'static str] {
        match self {
            TaskKind::SequenceClassification => {
                &["accuracy", "f1", "micro_f1", "matthews_correlation", "binary_f1", "roc_auc", "average_precision"]
            }
            TaskKind::MultiLabel => &["accuracy", "f1", "micro_f1"],
            TaskKind::Regression => &["pearson", "spearmanr", "mse"],
            TaskKind::TokenClassification => &["precision", "recall", "f1", "accuracy"],
            TaskKind::MultipleChoice => &["accuracy"],
            TaskKind::QuestionAnswering => {
                &["exact_match", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"]
            }
            TaskKind::MaskedLm => &["perplexity", "masked_accuracy", "sentence_accuracy"],
            TaskKind::CausalLm | TaskKind::Chat | TaskKind::Seq2seq => &["perplexity"],
        }
    }
}

choice! {
    /// How the learning rate goes after warm-up, as in Hugging Face's `get_scheduler`.
    LrSchedulerType of "train.lr_scheduler_type" {
        /// Straight down to 0 at the last step.
        #[default]
        Linear = "linear",
        /// Half a cosine down to 0 at the last step.
        Cosine = "cosine",
        /// At its peak from the first step, without warm-up.
        Constant = "constant",
        /// At its peak after warm-up.
        ConstantWithWarmup = "constant_with_warmup",
    }
}

choice! {
    /// When something happens that happens again and again.
    IntervalStrategy of "train.eval_strategy" {
        /// Never.
        #[default]
        No = "no",
        /// Every so many steps.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
    }
}

choice! {
    /// What to do about a record that cannot be used.
    OnBadRecord of "data.on_bad_record" {
        /// End with its file and line before training starts.
        #[default]
        Error = "error",
        /// Leave it out, count and report.
        Skip = "skip",
    }
}

choice! {
    /// The format of a data file.
    Format of "data.format" {
        /// One JSON object a line.
        #[default]
        Jsonl = "jsonl",
        /// Comma separated.
        Csv = "csv",
        /// Tab separated.
        Tsv = "tsv",
        /// A word and its tag a line, sentences between blank lines.
        Conll = "conll",
        /// Plain text, for language models.
        Text = "text",
    }
}

choice! {
    /// What a document of a plain text file is.
    Documents of "data.documents" {
        /// The whole file.
        #[default]
        File = "file",
        /// Each line.
        Lines = "lines",
        /// Lines without a blank one between them.
        Paragraphs = "paragraphs",
    }
}

choice! {
    /// Where the weights that training begins with come from.
    ModelInit of "model.init" {
        /// The weight files of `model.path`.
        #[default]
        Pretrained = "pretrained",
        /// Drawn from (seed, name); `model.path` needs no weight file.
        Random = "random",
    }
}

choice! {
    /// What to do about a step whose loss or gradient norm is not finite.
    OnNonFinite of "train.on_non_finite" {
        /// End the run with exit 4.
        #[default]
        Stop = "stop",
        /// Leave the weights as they are, count the step and go on.
        Skip = "skip",
    }
}

choice! {
    /// A number format of 32 or 16 bits.
    Precision of "parallel.precision" {
        /// 32-bit floats.
        #[default]
        Fp32 = "fp32",
        /// 16 bits with the range of fp32 and 8 bits of precision.
        Bf16 = "bf16",
        /// 16 bits with a range from 6e-8 to 65504 and 11 bits of precision.
        Fp16 = "fp16",
    }
}

choice! {
    /// The collectives that ranks talk through.
    Backend of "comm.backend" {
        /// What the machine and the way of starting ask for.
        #[default]
        Auto = "auto",
        /// One rank, no communication.
        Solo = "solo",
        /// MPI, on the CPU.
        Mpi = "mpi",
        /// NCCL, on GPUs.
        Nccl = "nccl",
    }
}
