//! The options of `trainer launch --slurm`.

use super::parse::at_least_one;
use crate::launch::slurm::{Batch, Gpus, Launcher};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How a job is given to Slurm.
#[derive(Debug, Args)]
#[command(next_help_heading = "Slurm")]
pub struct SlurmArgs {
    /// Write a batch script and submit it; with --dry-run print it.
    #[arg(long)]
    pub slurm: bool,
    /// Nodes; otherwise one.
    #[arg(long, value_name = "N", requires = "slurm", value_parser = at_least_one)]
    pub nodes: Option<usize>,
    /// GPUs of a node, one rank each, with their type where the cluster wants it (h100:8); without GPUs, -n says how many
    /// ranks a node has.
    #[arg(long, value_name = "[TYPE:]N", requires = "slurm")]
    pub gpus_per_node: Option<Gpus>,
    /// Partition.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub partition: Option<String>,
    /// Account that pays.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub account: Option<String>,
    /// Quality of service.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub qos: Option<String>,
    /// Time limit, as sbatch has it: 90 (minutes), 12:00:00, 2-12 (days-hours).
    #[arg(long, value_name = "TIME", requires = "slurm")]
    pub time: Option<String>,
    /// Name of the job; otherwise the configuration's.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub job_name: Option<String>,
    /// What starts the ranks; otherwise srun, which needs Slurm's PMIx plugin.
    #[arg(long, value_name = "WORD", requires = "slurm", value_enum)]
    pub launcher: Option<LauncherArg>,
    /// Seconds before the time limit at which the job is asked for a checkpoint; otherwise 300, and at most a quarter of
    /// --time.
    #[arg(long, value_name = "SECONDS", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub signal_before: Option<u32>,
    /// A module to load; may be given several times.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub module: Vec<String>,
    /// A container image that the ranks run in: Apptainer's (a .sif file, or with ://), else one of pyxis.
    #[arg(long, value_name = "IMAGE", requires = "slurm")]
    pub container: Option<String>,
    /// A file of shell lines that is sourced before the job.
    #[arg(long, value_name = "FILE", requires = "slurm")]
    pub setup: Option<PathBuf>,
    /// Another template of the batch script.
    #[arg(long, value_name = "FILE", requires = "slurm")]
    pub template: Option<PathBuf>,
    /// A further option for sbatch; may be given several times.
    #[arg(long, value_name = "ARG", requires = "slurm", allow_hyphen_values = true)]
    pub sbatch_arg: Vec<String>,
    /// End at the time limit, with a checkpoint, instead of going back to the queue.
    #[arg(long, requires = "slurm")]
    pub no_requeue: bool,
}

/// [`Launcher`] as a word.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LauncherArg {
    /// srun --mpi=pmix
    Srun,
    /// Open MPI's mpirun inside the job
    Mpirun,
}

impl SlurmArgs {
    /// The job as Slurm sees it.
    pub fn batch(&self) -> Batch {
        Batch {
            nodes: self.nodes.unwrap_or(1),
            gpus_per_node: self.gpus_per_node.clone(),
            partition: self.partition.clone(),
            account: self.account.clone(),
            qos: self.qos.clone(),
            time: self.time.clone(),
            job_name: self.job_name.clone(),
            launcher: match self.launcher {
                Some(LauncherArg::Srun) | None => Launcher::Srun,
                Some(LauncherArg::Mpirun) => Launcher::Mpirun,
            },
            signal_before: self.signal_before,
            modules: self.module.clone(),
            container: self.container.clone(),
            setup: self.setup.clone(),
            template: self.template.clone(),
            sbatch_args: self.sbatch_arg.clone(),
            requeue: !self.no_requeue,
        }
    }
}
