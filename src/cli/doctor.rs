//! `trainer doctor`

use super::group::{GROUP, backend, group};
use super::parse::seconds;
use crate::comm::exit_now;
use crate::config;
use crate::doctor::{self, Job, Options};
use crate::error::Result;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `trainer doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Output folder of runs, to check for write access, speed, and whether all hosts share it.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    output_dir: PathBuf,
    /// Communication backend: auto, solo, mpi or nccl.
    #[arg(long, default_value_t)]
    backend: config::Backend,
    /// Timeout of each check, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    timeout_seconds: f64,
    /// Skip the test of collectives.
    #[arg(long)]
    no_sweep: bool,
}

/// Checks this machine, and under mpirun or srun all ranks.
///
/// # Errors
/// As [`doctor::run`].
pub fn run(args: DoctorArgs) -> Result<()> {
    let options = Options {
        json: args.json,
        output_dir: args.output_dir,
        backend: backend(args.backend),
        timeout: Duration::from_secs_f64(args.timeout_seconds),
        sweep: !args.no_sweep,
    };
    let joined = |comm: &Arc<_>| _ = GROUP.set(Arc::clone(comm));
    let abort = |code| match group() {
        Some(group) => group.abort(code),
        None => exit_now(code),
    };
    doctor::run(&options, Job { joined, abort })
}
