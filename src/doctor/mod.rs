//! What this machine and these ranks have, what is wrong with it, and what to do.
//!
//! Facts, judgement and display are apart: [`facts`] are collected on every rank and gathered, [`findings`] are pure
//! functions of them, [`report`] shows both. A fault is a finding and not an error, as long as a rank can speak.

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
use watch::{GRACE_OF_NCCL, Watch};

/// What the doctor is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// One JSON object instead of tables.
    pub json: bool,
    /// The folder that runs are written to.
    pub output_dir: PathBuf,
    /// How the ranks are to talk.
    pub backend: Backend,
    /// For each wait and each step.
    pub timeout: Duration,
    /// Whether collectives are timed.
    pub sweep: bool,
}

/// How the doctor reaches whoever can end the whole job.
#[derive(Clone, Copy)]
pub struct Job {
    /// Is told of the group, as soon as there is one.
    pub joined: fn(&Arc<dyn Collective>),
    /// Ends the process, and with it the job.
    pub abort: fn(i32) -> !,
}

/// Looks at everything, on all ranks; rank 0 prints.
///
/// # Errors
/// Exit 2, on all ranks alike, when there are problems; exit 5 when a rank does not answer.
pub fn run(options: &Options, job: Job) -> Result<()> {
    let launch = Launch::look(options.backend);
    let refused = if options.backend == Backend::Solo { None } else { guard::try_first(&launch) };
    let watch = Watch::start(rank_of_environment(), options.timeout, job.abort)?;
    // First, and on the main thread: threads that start later inherit the binding.
    let cores = Cores::take();
    watch.doing("joining the other ranks by MPI");
    let (comm, mpi_error) = join(options, &launch, refused);
    (job.joined)(&comm);
    watch.rank(comm.rank());
    let mut rank = look(&*comm, &watch, cores, launch);
    watch.doing("gathering what the ranks know");
    comm.barrier("the doctor's start")?;
    // All ranks at a time, as in training.
    watch.doing("timing one thread against all");
    rank.cores.time();
    rank.clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ranks = gather::gather(&*comm, &rank, "what the ranks know")?;
    let mut facts = Facts { ranks, mpi_error, ..Facts::default() };
    // Of processes that never met, the one that was started first speaks.
    let speaks = comm.is_main() && (comm.world() > 1 || rank_of_environment() == 0);
    let report = Report { json: options.json, speaks };
    let ended = output_folder(options, &*comm, &mut facts, &watch, report)
        .and_then(|()| collectives(options, Arc::clone(&comm), &mut facts, &watch, report));
    // The last words were these already, if something seemed to hang.
    let unsaid = watch.end();
    let problems = Report { speaks: speaks && unsaid, ..report }.findings(&facts);
    if !speaks && (ended.is_err() || comm.world() == 1) {
        // Who leaves first takes down the one that speaks before it has said all.
        std::thread::sleep(GRACE_OF_NCCL);
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

/// The other ranks, or this one alone with the reason.
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

fn look(comm: &dyn Collective, watch: &Watch, cores: Cores, launch: Launch) -> Rank {
    watch.doing("asking the GPU driver");
    let mut gpus = Gpus::look();
    watch.doing("loading NCCL and reading this program");
    let software = Software::look();
    gpus.choose(comm.local_rank(), software.nccl_sharing);
    watch.doing("looking at this host");
    Rank {
        rank: comm.rank(),
        local_rank: comm.local_rank(),
        pid: std::process::id(),
        host: Host::look(),
        launch: Launch { world: comm.world(), refused: launch.refused.filter(|_| comm.world() == 1), ..launch },
        software,
        gpus,
        cores,
        memory: Memory::look(),
        network: Network::look(),
        clock: 0.0,
    }
}

/// Looks at the output folder, and shows all that is known by then, even if the folder is not.
fn output_folder(
    options: &Options,
    comm: &dyn Collective,
    facts: &mut Facts,
    watch: &Watch,
    report: Report,
) -> Result<()> {
    let named = options.output_dir.display().to_string();
    let hanging = Folder { named: named.clone(), error: Some("it hangs".to_owned()), ..Folder::default() };
    let told = Facts { folder: Some(hanging), ..facts.clone() };
    watch.last_words(move || {
        report.facts(&told);
        report.findings(&told);
    });
    watch.doing(format!("writing to {named}"));
    let hosts: Vec<(Host, usize)> =
        facts.hosts().iter().map(|(host, ranks)| ((*host).clone(), ranks[0].rank)).collect();
    let mut folder = Folder::default();
    let looked = folder::look(comm, &options.output_dir, &hosts, &mut folder);
    folder.error = looked.as_ref().err().map(ToString::to_string);
    facts.folder = Some(folder);
    watch.doing("showing what is known");
    if !watch.spoke() {
        report.facts(facts);
    }
    looked
}

/// Connects NCCL where the ranks would train with it, and sweeps. Returns the group that the ranks end in.
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
    let mut told = facts.clone();
    if several && options.sweep {
        told.sweep = Some(Sweep { error: Some("it hangs".to_owned()), ..Sweep::default() });
    }
    watch.last_words(move || _ = report.findings(&told));
    if options.backend == Backend::Nccl || (options.backend == Backend::Auto && several && on_gpus) {
        watch.doing("connecting the GPUs by NCCL");
        match Nccl::connect(Arc::clone(&comm), options.timeout + GRACE_OF_NCCL) {
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
    watch.doing("coming to the end");
    Ok(comm)
}
