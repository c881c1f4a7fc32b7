//! `trainer launch`

use super::config_keys::OverrideParser;
use super::parse::{at_least_one, seconds};
use super::slurm::SlurmArgs;
use super::train::config_and_settings;
use crate::comm::{exit_now, nccl};
use crate::config::Config;
use crate::error::Result;
use crate::launch::layout::{Allocation, Facts, Layout, Place};
use crate::launch::{self, Job, Variable, hosts, mpirun, slurm};
use crate::machine::{cpus, gpus};
use crate::observe::logs::LogFormat;
use crate::observe::{self, logs};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `trainer launch`
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// Configuration file (TOML) [default: ./trainer.toml].
    config: Option<PathBuf>,
    /// Settings that override the file, as for `train`.
    #[arg(value_name = "KEY=VALUE", value_parser = OverrideParser, hide_possible_values = true)]
    overrides: Vec<String>,
    /// Total number of ranks; with --slurm, ranks per node [default: one per GPU, or one per NUMA node without GPUs].
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    ranks: Option<usize>,
    /// Hosts and their numbers of ranks: a:8,b:8.
    #[arg(long, value_name = "HOST:N,...", conflicts_with_all = ["hostfile", "slurm"])]
    hosts: Option<String>,
    /// File with one host per line: `a slots=8` or `a:8`.
    #[arg(long, value_name = "FILE", conflicts_with = "slurm")]
    hostfile: Option<PathBuf>,
    /// Threads per rank [default: the host's cores divided by its ranks].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// Where to resume from: auto (the latest valid checkpoint of output_dir, if any), none, or a checkpoint folder
    /// [default: auto; none if overwrite_output_dir is true].
    #[arg(long)]
    resume: Option<String>,
    /// Resume even if the order of the training data changes.
    #[arg(long)]
    allow_new_data_order: bool,
    /// Maximum number of restarts after a failure.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_restarts: usize,
    /// Grace period: seconds that the job has to write a checkpoint when it is stopped.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds, conflicts_with = "slurm")]
    grace: f64,
    /// Environment variable to pass to all ranks, with its current value or the given one; can be repeated.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<Variable>,
    /// Additional argument for mpirun, or for srun if it starts the ranks; can be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    mpi_arg: Vec<String>,
    /// Print the command, or with --slurm the batch script, and exit.
    #[arg(long)]
    dry_run: bool,
    // Last, because its help heading applies to all options after it.
    #[command(flatten)]
    slurm: SlurmArgs,
}

fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name { Ok(Variable { name: name.to_owned(), value }) } else { Err("expected NAME or NAME=VALUE".into()) }
}

/// Checks the configuration, then starts the job or prints its command.
///
/// # Errors
/// Exit 2 for an invalid configuration; otherwise the job's exit code.
pub fn run(args: LaunchArgs, log_format: LogFormat) -> Result<()> {
    let job = job(&args, log_format)?;
    job.check()?;
    if args.slurm.slurm {
        let script = args.slurm.batch().script(&job)?;
        if args.dry_run {
            observe::print(&script);
            return Ok(());
        }
        return slurm::submit(&script);
    }
    let facts = Facts {
        gpus: nccl::gpus()?,
        by_nvml: gpus::visible(
            &gpus::by_nvml().unwrap_or_default(),
            std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(),
        ),
        nodes: cpus::numa_nodes().len(),
        shares_gpus: nccl::probe::wants_sharing(),
        cores: cpus::our_cores().len(),
        root: rustix::process::geteuid().is_root(),
    };
    let place = place(&args)?;
    let layout = Layout::new(&place, job.ranks, job.config.comm.backend, &facts)?;
    if let Place::Allocation(allocation) = &place {
        let ranks = if layout.ranks == 1 { "1 rank".into() } else { format!("{} ranks", layout.ranks) };
        let nodes = if allocation.nodes == 1 { "node".into() } else { format!("{} nodes", allocation.nodes) };
        let other = if job.ranks.is_some() { "" } else { "; -n changes the number" };
        logs::tell(&format!("launch: {ranks} on the {nodes} of this Slurm job{other}"));
    }
    if args.dry_run {
        let command = launch::quote(&launch::command(&job, &layout, facts.root, false)?);
        observe::print(&format!("{command}\n"));
        return Ok(());
    }
    mpirun::check(&job)?;
    match launch::run(&job, &layout, facts.root)? {
        0 => Ok(()),
        // The job has reported the reason.
        code => exit_now(code),
    }
}

fn place(args: &LaunchArgs) -> Result<Place> {
    let allocation = Allocation::read(|name| std::env::var(name).ok())?;
    let hosts = match (&args.hosts, &args.hostfile) {
        (Some(text), _) => Some(hosts::parse(text)?),
        (None, file) => file.as_deref().map(hosts::read).transpose()?,
    };
    Ok(match (hosts, allocation) {
        (Some(hosts), _) => Place::Hosts(hosts),
        (None, Some(allocation)) => Place::Allocation(allocation),
        (None, None) => Place::Here,
    })
}

/// Returns the default of `--resume`: a job resumes the run of its folder unless it overwrites the folder.
fn default_resume(config: &Config) -> &'static str {
    if config.overwrite_output_dir { "none" } else { "auto" }
}

fn job(args: &LaunchArgs, log_format: LogFormat) -> Result<Job> {
    let (mut config, mut overrides) = (args.config.clone(), args.overrides.clone());
    // `trainer launch train run.toml`: `launch` runs `train` by itself.
    if config.as_deref() == Some(Path::new("train")) && !Path::new("train").exists() {
        config = (!overrides.is_empty()).then(|| PathBuf::from(overrides.remove(0)));
    }
    let (config_file, settings) = config_and_settings(config, overrides);
    let config = Config::load(config_file.as_deref(), &settings)?;
    Ok(Job {
        program: std::env::current_exe()?,
        log_format: log_format.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()),
        config_file,
        settings,
        resume: args.resume.clone().unwrap_or_else(|| default_resume(&config).into()),
        config,
        allow_new_data_order: args.allow_new_data_order,
        ranks: args.ranks,
        threads: args.threads,
        environment: args.env.clone(),
        mpi_args: args.mpi_arg.clone(),
        max_restarts: args.max_restarts,
        grace: Duration::from_secs_f64(args.grace),
    })
}
