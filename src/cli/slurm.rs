//! The options of `trainer launch --slurm`.

use clap::Args;
use std::path::PathBuf;

/// How a job is given to Slurm.
#[derive(Debug, Args)]
#[command(next_help_heading = "Slurm")]
pub struct SlurmArgs {
    /// Write a batch script and submit it; with --dry-run print it.
    #[arg(long)]
    pub slurm: bool,
    /// Nodes.
    #[arg(long, value_name = "N", requires = "slurm")]
    pub nodes: Option<usize>,
    /// GPUs of a node, one rank each.
    #[arg(long, value_name = "N", requires = "slurm")]
    pub gpus_per_node: Option<usize>,
    /// Partition.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub partition: Option<String>,
    /// Account that pays.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub account: Option<String>,
    /// Quality of service.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub qos: Option<String>,
    /// Time limit, as sbatch has it.
    #[arg(long, value_name = "TIME", requires = "slurm")]
    pub time: Option<String>,
    /// Name of the job.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub job_name: Option<String>,
    /// What starts the ranks: srun or mpirun.
    #[arg(long, value_name = "WORD", requires = "slurm")]
    pub launcher: Option<String>,
    /// Seconds before the time limit at which the job is asked for a checkpoint.
    #[arg(long, value_name = "SECONDS", requires = "slurm")]
    pub signal_before: Option<u32>,
    /// A module to load; may be given several times.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub module: Vec<String>,
    /// A container image that the ranks run in.
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
    /// Do not queue the job again when its time is over.
    #[arg(long, requires = "slurm")]
    pub no_requeue: bool,
}
