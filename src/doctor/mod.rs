//! Diagnoses this machine and the ranks of a job.
//!
//! [`facts`] are collected on every rank and gathered; [`findings`] are pure functions of the facts; [`report`] prints
//! both. A fault is a finding, not an error, as long as the rank can report it.

pub mod facts;
pub mod findings;
mod folder;
mod gather;
mod guard;
pub mod report;
mod sweep;
mod watch;

use crate::comm::mpi::Mpi;
use crate::comm::nccl::Nccl;
use crate::comm::select::Backend;
use crate::comm::solo::Solo;
use crate::comm::{Collective, Op};
use crate::error::{Error, Result};
use crate::observe::rank_of_environment;
use facts::{Cores, Facts, Folder, Gpus, Host, Launch, Memory, Network, Rank, Software, Sweep};
use report::Report;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tch::Device;
use watch::{NCCL_GRACE, Watch};

/// Options of the doctor.
#[derive(Debug, Clone)]
pub struct Options {
    /// Print one JSON object instead of tables.
    pub json: bool,
    pub output_dir: PathBuf,
    pub backend: Backend,
    /// Timeout of each step.
    pub timeout: Duration,
    /// Whether to time collectives.
    pub sweep: bool,
}

/// Callbacks to end the whole job.
#[derive(Clone, Copy)]
pub struct Job {
    /// Called with the group as soon as the ranks are connected.
    pub joined: fn(&Arc<dyn Collective>),
    /// Ends the process and with it the job.
    pub abort: fn(i32) -> !,
}

/// Runs all checks on all ranks; rank 0 prints.
///
/// # Errors
/// Exit 2 on all ranks when there are problems; exit 5 when a rank does not respond.
pub fn run(options: &Options, job: Job) -> Result<()> {
    let launch = Launch::collect(options.backend);
    let refused = if options.backend == Backend::Solo { None } else { guard::try_first(&launch) };
    let watch = Watch::start(rank_of_environment(), options.timeout, job.abort)?;
    // First, and on the main thread, because threads that start later inherit the binding.
    let cores = Cores::take();
    watch.doing("joining the other ranks by MPI");
    let (comm, mpi_error) = join(options, &launch, refused);
    (job.joined)(&comm);
    watch.rank(comm.rank());
    let mut rank = collect(&*comm, &watch, cores, launch);
    watch.doing("gathering the facts of the ranks");
    comm.barrier("the doctor's start")?;
    // On all ranks at the same time, as in training.
    watch.doing("timing one thread and all threads");
    rank.cores.time();
    rank.clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ranks = gather::gather(&*comm, &rank, "the facts of the ranks")?;
    let mut facts = Facts { ranks, mpi_error, ..Facts::default() };
    // If the processes are not connected, the first one prints.
    let prints = comm.is_main() && (comm.world() > 1 || rank_of_environment() == 0);
    let report = Report { json: options.json, prints };
    let ended = output_folder(options, &*comm, &mut facts, &watch, report)
        .and_then(|()| collectives(options, Arc::clone(&comm), &mut facts, &watch, report));
    // The watchdog may have printed the findings already.
    let pending = watch.end();
    let problems = Report { prints: prints && pending, ..report }.findings(&facts);
    if !prints && (ended.is_err() || comm.world() == 1) {
        // A process that exits early would end the job before the report is printed.
        std::thread::sleep(NCCL_GRACE);
    }
    let comm = ended?;
    let mut most = [problems as f64];
    comm.all_reduce_f64(&mut most, Op::Max, "the doctor's end")?;
    comm.finish()?;
    match most[0] as usize {
        0 => Ok(()),
        n => Err(Error::input(format!("the doctor found {n} problem{}", if n == 1 { "" } else { "s" })).shared()),
    }
}

/// Connects to the other ranks, or returns this rank alone with the reason.
fn join(options: &Options, launch: &Launch, refused: Option<String>) -> (Arc<dyn Collective>, Option<String>) {
    let alone = match options.backend {
        Backend::Solo => true,
        Backend::Auto => !launch.mpi,
        Backend::Mpi | Backend::Nccl => false,
    };
    let solo = || Arc::new(Solo::new(Device::Cpu));
    if alone || refused.is_some() {
        return (solo(), refused);
    }
    match Mpi::connect(options.timeout) {
        Ok(mpi) => (Arc::new(mpi), None),
        Err(e) => (solo(), Some(e.to_string())),
    }
}

fn collect(comm: &dyn Collective, watch: &Watch, cores: Cores, launch: Launch) -> Rank {
    watch.doing("asking the GPU driver");
    let mut gpus = Gpus::collect();
    watch.doing("loading NCCL and reading this program");
    let software = Software::collect();
    gpus.choose(comm.local_rank(), software.nccl_sharing);
    watch.doing("looking at this host");
    Rank {
        rank: comm.rank(),
        local_rank: comm.local_rank(),
        pid: std::process::id(),
        host: Host::collect(),
        launch: Launch { world: comm.world(), refused: launch.refused.filter(|_| comm.world() == 1), ..launch },
        software,
        gpus,
        cores,
        memory: Memory::collect(),
        network: Network::collect(),
        clock: 0.0,
    }
}

/// Checks the output folder, and prints all facts known so far even if the folder hangs.
fn output_folder(
    options: &Options,
    comm: &dyn Collective,
    facts: &mut Facts,
    watch: &Watch,
    report: Report,
) -> Result<()> {
    let named = options.output_dir.display().to_string();
    let hanging = Folder { named: named.clone(), error: Some("it does not respond".to_owned()), ..Folder::default() };
    let on_hang = Facts { folder: Some(hanging), ..facts.clone() };
    watch.on_hang(move || {
        report.facts(&on_hang);
        report.findings(&on_hang);
    });
    watch.doing(format!("writing to {named}"));
    let hosts: Vec<(Host, usize)> =
        facts.hosts().iter().map(|(host, ranks)| ((*host).clone(), ranks[0].rank)).collect();
    let mut folder = Folder::default();
    let looked = folder::check(comm, &options.output_dir, &hosts, &mut folder);
    folder.error = looked.as_ref().err().map(ToString::to_string);
    facts.folder = Some(folder);
    watch.doing("printing the facts");
    if !watch.reported() {
        report.facts(facts);
    }
    looked
}

/// Connects by NCCL if training would use it, and times the collectives. Returns the final group.
fn collectives(
    options: &Options,
    comm: Arc<dyn Collective>,
    facts: &mut Facts,
    watch: &Watch,
    report: Report,
) -> Result<Arc<dyn Collective>> {
    let several = comm.world() > 1;
    let on_gpus = facts.ranks.iter().all(|rank| rank.gpus.libtorch > 0);
    let mut comm = comm;
    let mut on_hang = facts.clone();
    if several && options.sweep {
        on_hang.sweep = Some(Sweep { error: Some("it does not respond".to_owned()), ..Sweep::default() });
    }
    watch.on_hang(move || _ = report.findings(&on_hang));
    if options.backend == Backend::Nccl || (options.backend == Backend::Auto && several && on_gpus) {
        watch.doing("connecting the GPUs by NCCL");
        match Nccl::connect(Arc::clone(&comm), options.timeout + NCCL_GRACE) {
            Ok(nccl) => comm = Arc::new(nccl),
            Err(e) => facts.nccl_refused = Some(e.to_string()),
        }
    }
    if several && options.sweep {
        let mut sweep = Sweep::default();
        let swept = sweep::run(&*comm, &mut sweep, |what| watch.doing(what));
        sweep.error = swept.as_ref().err().map(ToString::to_string);
        facts.sweep = Some(sweep);
        swept?;
    }
    watch.doing("finishing");
    Ok(comm)
}
