//! A job: what its ranks run, apart from where.

use crate::config::Config;
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// A job, independent of where it runs.
#[derive(Debug, Clone)]
pub struct Job {
    /// Path of this program.
    pub program: PathBuf,
    /// Log format: `text` or `json`.
    pub log_format: String,
    /// The configuration file, if there is one, and overriding settings.
    pub config_file: Option<PathBuf>,
    pub settings: Vec<String>,
    /// The resulting configuration, checked.
    pub config: Config,
    /// `auto`, `none` or a checkpoint folder.
    pub resume: String,
    pub allow_new_data_order: bool,
    /// Total number of ranks (with Slurm: per node); `None` for one per GPU.
    pub ranks: Option<usize>,
    /// Threads per rank; `None` for its fraction of the cores.
    pub threads: Option<usize>,
    /// Environment variables for the ranks.
    pub environment: Vec<Variable>,
    /// Additional arguments for mpirun.
    pub mpi_args: Vec<String>,
    /// Maximum number of restarts after a fault.
    pub max_restarts: usize,
    /// Grace period of a job after a stop request.
    pub grace: Duration,
}

/// An environment variable for the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    /// `None` for the value of this process.
    pub value: Option<String>,
}

impl Variable {
    /// # Errors
    /// Exit 2 if it is this process's and not set.
    pub fn here(&self) -> Result<String> {
        let own =
            || std::env::var(&self.name).map_err(|e| Error::input(format!("--env {}: {e}; use NAME=VALUE", self.name)));
        self.value.clone().map_or_else(own, Ok)
    }
}

impl Job {
    /// Returns the command of one rank: this program and its arguments.
    pub fn rank_command(&self) -> Vec<String> {
        let mut words = vec![self.program.display().to_string()];
        if self.log_format != "text" {
            words.extend(["--log-format".into(), self.log_format.clone()]);
        }
        words.push("train".into());
        words.extend(self.config_file.iter().map(|file| file.display().to_string()));
        words.extend(self.settings.iter().cloned());
        if let Some(threads) = self.threads {
            words.push(format!("parallel.num_threads={threads}"));
        }
        if self.resume != "none" {
            words.extend(["--resume".into(), self.resume.clone()]);
        }
        if self.allow_new_data_order {
            words.push("--allow-new-data-order".into());
        }
        words
    }
}

/// Quotes arguments for a shell.
pub fn quote(words: &[String]) -> String {
    let plain =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-=./,:+@%".contains(c));
    let quoted = words.iter().map(|word| if plain(word) { word.into() } else { shell_words::quote(word) });
    quoted.collect::<Vec<_>>().join(" ")
}
