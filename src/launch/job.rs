//! A job: what its ranks run, apart from where.

use crate::config::Config;
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// A job, apart from where it runs.
#[derive(Debug, Clone)]
pub struct Job {
    /// This program.
    pub program: PathBuf,
    /// How log lines look: `text` or `json`.
    pub log_format: String,
    /// The configuration's file, where there is one, and the settings that replace its own.
    pub config_file: Option<PathBuf>,
    pub settings: Vec<String>,
    /// What the two say, checked.
    pub config: Config,
    /// `auto`, `none` or a checkpoint's folder.
    pub resume: String,
    pub allow_new_data_order: bool,
    /// Ranks in all (with Slurm: of one node); nothing: one per GPU.
    pub ranks: Option<usize>,
    /// Threads of each rank; nothing: its share of the cores.
    pub threads: Option<usize>,
    /// Variables for the ranks.
    pub environment: Vec<Variable>,
    /// More words for mpirun.
    pub mpi_args: Vec<String>,
    /// How often the job is started again after a fault.
    pub max_restarts: usize,
    /// How long a job that was asked to stop may take.
    pub grace: Duration,
}

/// A variable of the environment of the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    /// Nothing: the value that it has here.
    pub value: Option<String>,
}

impl Variable {
    /// The value.
    ///
    /// # Errors
    /// Exit 2 where it is this process's, and that has none.
    pub fn here(&self) -> Result<String> {
        let own = || {
            std::env::var(&self.name)
                .map_err(|e| Error::input(format!("--env {}: {e}; give it as NAME=VALUE", self.name)))
        };
        self.value.clone().map_or_else(own, Ok)
    }
}

impl Job {
    /// The command of one rank: this program and its arguments.
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

/// Words as a shell reads them.
pub fn quote(words: &[String]) -> String {
    let plain =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-=./,:+@%".contains(c));
    let quoted = words.iter().map(|word| if plain(word) { word.into() } else { shell_words::quote(word) });
    quoted.collect::<Vec<_>>().join(" ")
}
