//! The options of `trainer launch --slurm`.

use super::parse::at_least_one;
use crate::launch::slurm::{Batch, Gpus, Launcher};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Options of Slurm jobs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Slurm")]
pub struct SlurmArgs {
    /// Submit a batch script; with --dry-run, print it.
    #[arg(long)]
    pub slurm: bool,
    /// Number of nodes [default: 1].
    #[arg(long, value_name = "N", requires = "slurm", value_parser = at_least_one)]
    pub nodes: Option<usize>,
    /// GPUs per node, one rank each, with their type if the cluster requires it (h100:8); without GPUs, set the ranks
    /// per node with -n.
    #[arg(long, value_name = "[TYPE:]N", requires = "slurm")]
    pub gpus_per_node: Option<Gpus>,
    /// Partition.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub partition: Option<String>,
    /// Account to charge.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub account: Option<String>,
    /// Quality of service.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub qos: Option<String>,
    /// Time limit in sbatch's format: 90 (minutes), 12:00:00, 2-12 (days-hours).
    #[arg(long, value_name = "TIME", requires = "slurm")]
    pub time: Option<String>,
    /// Job name [default: from the configuration].
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub job_name: Option<String>,
    /// Launcher of the ranks [default: srun, which needs Slurm's PMIx plugin].
    #[arg(long, value_name = "NAME", requires = "slurm", value_enum)]
    pub launcher: Option<LauncherArg>,
    /// Seconds before the time limit at which the job writes a checkpoint [default: 300, but at most a quarter of
    /// --time].
    #[arg(long, value_name = "SECONDS", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub signal_before: Option<u32>,
    /// Environment module to load; can be repeated.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub module: Vec<String>,
    /// Container image for the ranks: an Apptainer image (a .sif file or a URI with ://), otherwise a pyxis image.
    #[arg(long, value_name = "IMAGE", requires = "slurm")]
    pub container: Option<String>,
    /// Shell script to source before the job.
    #[arg(long, value_name = "FILE", requires = "slurm")]
    pub setup: Option<PathBuf>,
    /// Template that replaces the default batch script.
    #[arg(long, value_name = "FILE", requires = "slurm")]
    pub template: Option<PathBuf>,
    /// Additional option for sbatch; can be repeated.
    #[arg(long, value_name = "ARG", requires = "slurm", allow_hyphen_values = true)]
    pub sbatch_arg: Vec<String>,
    /// Do not requeue the job at the time limit; it ends with a checkpoint.
    #[arg(long, requires = "slurm")]
    pub no_requeue: bool,
}

/// [`Launcher`] as an option value.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LauncherArg {
    /// srun --mpi=pmix
    Srun,
    /// Open MPI's mpirun inside the job
    Mpirun,
}

impl SlurmArgs {
    /// Returns the settings of the batch script.
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
