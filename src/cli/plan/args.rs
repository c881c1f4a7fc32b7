//! The options of `trainer plan`.

use super::super::config_keys::OverrideParser;
use crate::cli::train::{TrainArgs, load};
use crate::config::{Bytes, Config};
use crate::error::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Maximum of `--assume-examples`: more examples of the same length change nothing.
pub(super) const MOST_EXAMPLES: i64 = 10_000_000;

/// `trainer plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Configuration file (TOML) [default: ./trainer.toml].
    pub(super) config: Option<PathBuf>,
    /// Settings that override the file, as for `train`.
    #[arg(value_name = "KEY=VALUE", value_parser = OverrideParser, hide_possible_values = true)]
    pub(super) overrides: Vec<String>,
    /// Number of ranks for the memory estimate.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) ranks: u32,
    /// Memory per rank, such as 80GiB [default: the memory of --device]. parallel.memory_per_rank overrides both.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) gpu_memory: Option<u64>,
    /// Device of a rank: cpu, which is measured here, or one of h100-sxm, h100-pcie, h200-sxm, a100-80gb, a100-40gb,
    /// l40s.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(super) device: String,
    /// Links between ranks on one node and, after a comma, between nodes [default: the usual links of the device].
    #[arg(long, value_name = "NAME[,NAME]")]
    pub(super) link: Option<String>,
    /// Ranks per node.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) ranks_per_node: u32,
    /// Fraction of the device's peak FLOP/s that matmuls reach [default: 0.5].
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    pub(super) efficiency: Option<f64>,
    /// Scale the global batch with the ranks: this many examples per rank [default: a constant global batch].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch_per_rank: Option<u32>,
    /// Assume that every example has this many tokens, instead of reading the data.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) assume_length: Option<u32>,
    /// Number of examples, with --assume-length [default: the largest global batch of the table].
    #[arg(long, value_name = "N", requires = "assume_length", value_parser = clap::value_parser!(u32).range(1..=MOST_EXAMPLES))]
    pub(super) assume_examples: Option<u32>,
    /// Run a few steps with the longest batch (under mpirun, on all ranks) and use them to correct the estimated times.
    #[arg(long, conflicts_with = "assume_length")]
    pub(super) measure: bool,
    /// Plot tokens per second over ranks to this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
    /// Print all details: lengths and padding; memory for every ZeRO stage, precision and activation checkpointing;
    /// time on 1 to 1,024 ranks.
    #[arg(long)]
    pub(super) all: bool,
    /// Print one JSON object with all details instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let value: Result<Bytes, _> = serde_json::from_value(json!(text));
    value.map(|bytes| bytes.0).map_err(|_| "expected a size such as 80GiB".into())
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|&fraction: &f64| fraction > 0.0 && fraction <= 1.0);
    fraction.ok_or_else(|| "expected a number greater than 0 and at most 1".into())
}

impl PlanArgs {
    /// Loads the configuration, with these KEY=VALUE settings after those of the command line.
    pub(super) fn config(&self, more: &[String]) -> Result<Config> {
        let overrides = [&self.overrides, more].concat();
        load(&TrainArgs { config: self.config.clone(), overrides, ..TrainArgs::default() })
    }
}
