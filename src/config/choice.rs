//! Settings that are one of a few strings.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::other_tool_values;
use super::value::{Value, integer, nearest};
use crate::error::{Error, Result};

/// Declares an enum with the strings that users write, for the setting of a dotted key. Other strings may mean the same.
macro_rules! choice {
    (
        $(#[$doc:meta])* $name:ident of $key:literal {
            $($(#[$attr:meta])* $variant:ident = $word:literal $(| $alias:literal)*),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        pub enum $name { $($(#[$attr])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// All variants, in the order of the documentation.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            const ALIASES: &[(&str, $name)] = &[$($(($alias, $name::$variant),)*)*];

            /// Returns the string that users write.
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
                let found = Self::ALL.iter().copied().find(|choice| choice.name() == word);
                let alias = || Self::ALIASES.iter().find(|(alias, _)| *alias == word).map(|(_, choice)| *choice);
                found.or_else(alias).ok_or_else(|| Error::input(refusal($key, word, &[$($word),*])))
            }
        }

        impl Value for $name {
            fn kind() -> String {
                format!("one of {}", [$(concat!("`", $word, "`")),*].join(", "))
            }
            fn expected() -> String {
                one_of(&[$($word),*])
            }
            fn from_toml(value: &toml::de::DeValue<'_>) -> Option<Result<Self, String>> {
                if let Some(n) = integer(value) {
                    let n = n.to_string();
                    return other_tool_values::problem($key, &n, &n).map(Err);
                }
                Some(value.as_str()?.parse().map_err(|e: Error| e.to_string()))
            }
        }
    };
}

/// Returns `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    match quoted.as_slice() {
        [.., _, _] => format!("{} or {}", quoted[..quoted.len() - 1].join(", "), quoted[quoted.len() - 1]),
        _ => quoted.concat(),
    }
}

fn refusal(key: &str, word: &str, words: &[&str]) -> String {
    if let Some(problem) = other_tool_values::problem(key, word, &format!("{word:?}")) {
        return problem;
    }
    let hint = nearest(word, words.iter().copied()).map(|w| format!(" (did you mean {w:?}?)")).unwrap_or_default();
    format!("found {word:?}, expected {}{hint}", one_of(words))
}

choice! {
    /// The task of a model.
    TaskKind of "task.kind" {
        /// A single label of an example.
        #[default]
        SequenceClassification = "sequence-classification",
        /// Any number of labels of an example.
        MultiLabel = "multi-label",
        /// A number.
        Regression = "regression",
        /// A tag for each word.
        TokenClassification = "token-classification",
        /// The span of a context that answers a question.
        QuestionAnswering = "question-answering",
        /// One of several choices.
        MultipleChoice = "multiple-choice",
        /// Masked tokens.
        MaskedLm = "masked-lm",
        /// The next token of a text.
        CausalLm = "causal-lm",
        /// The next token of an answer in a conversation.
        Chat = "chat",
        /// A target, given its source.
        Seq2seq = "seq2seq",
        /// A vector for a text, for comparison with those of other texts.
        Embedding = "embedding",
    }
}

impl TaskKind {
    /// Metrics that are defined for two labels only.
    pub const OF_TWO_LABELS: [&str; 3] = ["binary_f1", "roc_auc", "average_precision"];

    /// Returns whether the data has a set of labels.
    pub fn has_labels(self) -> bool {
        matches!(self, TaskKind::SequenceClassification | TaskKind::MultiLabel | TaskKind::TokenClassification)
    }

    /// Returns whether models of the task generate text.
    pub fn generates(self) -> bool {
        matches!(self, TaskKind::CausalLm | TaskKind::Chat | TaskKind::Seq2seq)
    }

    /// Returns the metrics of an evaluation besides `loss`, in the order in which they are shown.
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
            TaskKind::Embedding => {
                &["pearson", "spearmanr", "accuracy@1", "recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10"]
            }
        }
    }
}

choice! {
    /// The vector of a text, from those of its tokens. Names are those of sentence-transformers.
    Pooling of "task.pooling" {
        /// The mean of all tokens.
        #[default]
        Mean = "mean",
        /// The first token.
        Cls = "cls",
        /// The last token.
        LastToken = "lasttoken",
    }
}

choice! {
    /// The loss of embeddings. Names are those of sentence-transformers.
    EmbeddingLoss of "task.loss" {
        /// The cross entropy of the similarities of a text to its match and to all other texts of the batch.
        #[default]
        MultipleNegativesRanking = "multiple_negatives_ranking",
        /// The squared difference of a pair's cosine similarity and its score.
        CosineSimilarity = "cosine_similarity",
    }
}

choice! {
    /// The optimizer. Aliases are Hugging Face's names.
    Optim of "train.optim" {
        #[default]
        AdamW = "adamw" | "adamw_torch" | "adamw_torch_fused" | "adamw_hf" | "adamw_apex_fused",
        /// Weight decay is added to the gradient.
        Adam = "adam",
        Sgd = "sgd",
        Adagrad = "adagrad",
        RmsProp = "rmsprop",
        Adafactor = "adafactor",
        /// The sign of an interpolated momentum.
        Lion = "lion" | "lion_32bit",
        /// Orthogonalized momentum for matrices of hidden layers, AdamW for all other weights.
        Muon = "muon",
    }
}

choice! {
    /// The learning rate after warm-up, as in Hugging Face's `get_scheduler`.
    LrSchedulerType of "train.lr_scheduler_type" {
        /// Linear decay to 0 at the last step.
        #[default]
        Linear = "linear",
        /// Half a cosine to 0 at the last step.
        Cosine = "cosine",
        /// Half cosines to 0, each from the peak.
        CosineWithRestarts = "cosine_with_restarts",
        /// Half a cosine to a minimum.
        CosineWithMinLr = "cosine_with_min_lr",
        /// A power of the remaining steps.
        Polynomial = "polynomial",
        /// The peak from the first step, without warm-up.
        Constant = "constant",
        /// The peak after warm-up.
        ConstantWithWarmup = "constant_with_warmup",
        /// The inverse square root of the step.
        InverseSqrt = "inverse_sqrt",
        /// A factor after each epoch.
        Exponential = "exponential",
        /// The peak, then a decay over the last steps.
        WarmupStableDecay = "warmup_stable_decay",
        /// ULMFiT's schedule (arXiv 1801.06146).
        SlantedTriangular = "slanted_triangular",
        /// A factor whenever evaluations have stopped improving.
        ReduceLrOnPlateau = "reduce_lr_on_plateau",
    }
}

choice! {
    /// When evaluations or checkpoints take place.
    IntervalStrategy of "train.eval_strategy" {
        /// Never.
        #[default]
        No = "no",
        /// Every N steps.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
    }
}

choice! {
    /// What to do with an invalid record.
    OnBadRecord of "data.on_bad_record" {
        /// End with its file and line before training.
        #[default]
        Error = "error",
        /// Skip it, count it, and report the count.
        Skip = "skip",
    }
}

choice! {
    /// How the examples of an epoch are drawn.
    Sampling of "data.sampling" {
        /// Each once, in random order.
        #[default]
        Random = "random",
        /// With replacement, all classes with the same probability.
        ClassBalanced = "class_balanced",
    }
}

choice! {
    /// The format of a data file.
    Format of "data.format" {
        /// One JSON object per line, or a JSON array of objects.
        #[default]
        Jsonl = "jsonl",
        /// Separated by commas, semicolons or tabs.
        Csv = "csv",
        /// Tab-separated.
        Tsv = "tsv",
        /// Apache Parquet.
        Parquet = "parquet",
        /// Apache Arrow's IPC file or stream format.
        Arrow = "arrow",
        /// One word and its tag per line, with blank lines between sentences.
        Conll = "conll",
        /// Plain text, for language models.
        Text = "text",
    }
}

choice! {
    /// The documents of a plain-text file.
    Documents of "data.documents" {
        /// The whole file.
        #[default]
        File = "file",
        /// Each line.
        Lines = "lines",
        /// Lines without a blank line between them.
        Paragraphs = "paragraphs",
    }
}

choice! {
    /// The source of the initial weights.
    ModelInit of "model.init" {
        /// The weight files of `model.path`.
        #[default]
        Pretrained = "pretrained",
        /// Newly initialized from (seed, name); `model.path` needs no weight file.
        Random = "random",
    }
}

choice! {
    /// What to do after a NaN or Inf loss or gradient norm.
    OnNonFinite of "train.on_non_finite" {
        /// End the run with exit code 4.
        #[default]
        Stop = "stop",
        /// Leave the weights as they are, count the step, and continue.
        Skip = "skip",
    }
}

choice! {
    /// The ranks among which ZeRO shards.
    ShardWithin of "parallel.shard_within" {
        /// All ranks.
        #[default]
        World = "world",
        /// The ranks of one host; each host has all shards.
        Host = "host",
    }
}

choice! {
    /// What is kept in host memory instead of a GPU's.
    Offload of "parallel.offload" {
        /// Nothing.
        #[default]
        None = "none",
        /// Optimizer state and master weights; the CPU updates them.
        Optimizer = "optimizer",
    }
}

choice! {
    /// A dtype of 32 or 16 bits.
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
    /// The ranks that write checkpoints.
    Writers of "checkpoint.writers" {
        /// Rank 0.
        #[default]
        Rank0 = "rank0",
        /// Each rank a part.
        All = "all",
    }
}

choice! {
    /// The backend of collectives.
    Backend of "comm.backend" {
        /// Determined by the hardware and the launcher.
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
