//! The options of `trainer plan`.

use crate::cli::train::{TrainArgs, load};
use crate::config::{Bytes, Config};
use crate::error::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// The most examples that may be assumed: more of the same tell nothing new.
pub(super) const MOST_EXAMPLES: i64 = 10_000_000;

/// `trainer plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The configuration (TOML); ./trainer.toml where none is given.
    pub(super) config: Option<PathBuf>,
    /// Settings that replace the file's, as for `train`.
    #[arg(value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
    /// Ranks that memory is told for.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) ranks: u32,
    /// The memory of a rank, such as 80GiB; otherwise that of --device. parallel.memory_per_rank goes before both.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) gpu_memory: Option<u64>,
    /// What a rank computes on: cpu, which is measured here, or one of h100-sxm, h100-pcie, h200-sxm, a100-80gb,
    /// a100-40gb, l40s.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(super) device: String,
    /// How ranks are connected on a machine and, after a comma, between machines; otherwise as is usual for the device.
    #[arg(long, value_name = "NAME[,NAME]")]
    pub(super) link: Option<String>,
    /// Ranks on a machine.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) ranks_per_node: u32,
    /// The share of the device's peak that products reach; otherwise 0.5.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(super) efficiency: Option<f64>,
    /// Let the global batch grow with the ranks, with so many examples for each; otherwise it stays.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch_per_rank: Option<u32>,
    /// Take every example to have so many tokens, instead of reading the data.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    pub(super) assume_length: Option<u32>,
    /// How many examples there are, with --assume-length; otherwise the largest global batch of the table.
    #[arg(long, value_name = "N", requires = "assume_length", value_parser = clap::value_parser!(u32).range(1..=MOST_EXAMPLES))]
    pub(super) assume_examples: Option<u32>,
    /// Take a few real steps of the longest batch, under mpirun on all its ranks, and correct the times by them.
    #[arg(long, conflicts_with = "assume_length")]
    pub(super) measure: bool,
    /// RandomKey tokens a second over ranks into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
    /// All details: lengths and padding, the memory of every ZeRO stage, precision and recomputation, and the time on 1 to
    /// 1,024 ranks.
    #[arg(long)]
    pub(super) all: bool,
    /// One JSON object instead of text, with all details.
    #[arg(long)]
    pub(super) json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let value: Result<Bytes, _> = serde_json::from_value(json!(text));
    value.map(|bytes| bytes.0).map_err(|_| "expected a size such as 80GiB".into())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|&share: &f64| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| "expected a number greater than 0 and at most 1".into())
}

impl PlanArgs {
    /// The configuration, with these KEY=VALUE words after those of the command line.
    pub(super) fn config(&self, more: &[String]) -> Result<Config> {
        let overrides = [&self.overrides, more].concat();
        load(&TrainArgs { config: self.config.clone(), overrides, ..TrainArgs::default() })
    }
}
