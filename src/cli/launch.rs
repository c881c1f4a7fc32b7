//! `trainer launch`

use super::parse::{at_least_one, seconds};
use super::slurm::SlurmArgs;
use super::train::config_and_settings;
use crate::comm::{exit_now, nccl};
use crate::config::Config;
use crate::error::Result;
use crate::launch::layout::{Allocation, Facts, Layout, Place};
use crate::launch::{self, Job, Variable, hosts, mpirun, slurm};
use crate::machine::{cpus, gpus};
use crate::observe::logs;
use crate::observe::logs::LogFormat;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// `trainer launch`
#[derive(Debug, Args)]
pub struct LaunchArgs {
    /// The configuration (TOML); ./trainer.toml where none is given.
    config: Option<PathBuf>,
    /// Settings that replace the file's, as for `train`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Ranks in all, with --slurm those of one node; otherwise one per GPU, and without GPUs one per NUMA node.
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    ranks: Option<usize>,
    /// The hosts and how many ranks each takes: a:8,b:8.
    #[arg(long, value_name = "HOST:N,...", conflicts_with_all = ["hostfile", "slurm"])]
    hosts: Option<String>,
    /// A file of hosts, one a line: `a slots=8` or `a:8`.
    #[arg(long, value_name = "FILE", conflicts_with = "slurm")]
    hostfile: Option<PathBuf>,
    /// Threads of each rank; otherwise its share of the host's cores.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// auto (the newest sound checkpoint of output_dir, else from the start), none, or a checkpoint's folder; otherwise
    /// auto, and none where overwrite_output_dir is true.
    #[arg(long)]
    resume: Option<String>,
    /// Go on from a checkpoint even where the order of data changes.
    #[arg(long)]
    allow_new_data_order: bool,
    /// How often the job is started again after a fault.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_restarts: usize,
    /// Seconds that the job has for its checkpoint when it is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds, conflicts_with = "slurm")]
    grace: f64,
    /// A variable for the ranks on all hosts: its value here, or the one given; may be given several times.
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<Variable>,
    /// A further word for mpirun, or for srun where that starts the ranks; may be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    mpi_arg: Vec<String>,
    /// Print the command, or with --slurm the batch script, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Last, because its heading is that of all that follow.
    #[command(flatten)]
    slurm: SlurmArgs,
}

fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value.to_owned())));
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name { Ok(Variable { name: name.to_owned(), value }) } else { Err("expected NAME or NAME=VALUE".into()) }
}

/// Checks the configuration, then starts the job or shows how it would be started.
///
/// # Errors
/// Exit 2 for a configuration that cannot be used; else the job's own exit code.
pub fn run(args: LaunchArgs, log_format: LogFormat) -> Result<()> {
    let job = job(&args, log_format)?;
    job.check()?;
    if args.slurm.slurm {
        let script = args.slurm.batch().script(&job)?;
        if args.dry_run {
            print!("{script}");
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
        let other = if job.ranks.is_some() { "" } else { "; -n starts another number" };
        logs::tell(&format!("launch: {ranks} on the {nodes} of this Slurm job{other}"));
    }
    if args.dry_run {
        println!("{}", launch::quote(&launch::command(&job, &layout, facts.root, false)?));
        return Ok(());
    }
    mpirun::check(&job)?;
    match launch::run(&job, &layout, facts.root)? {
        0 => Ok(()),
        // It has told why.
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

/// A job goes on where the folder's run has stopped, unless that is to be replaced.
fn default_resume(config: &Config) -> &'static str {
    if config.overwrite_output_dir { "none" } else { "auto" }
}

fn job(args: &LaunchArgs, log_format: LogFormat) -> Result<Job> {
    let (config_file, settings) = config_and_settings(args.config.clone(), args.overrides.clone());
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
