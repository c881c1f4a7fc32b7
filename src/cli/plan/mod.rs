//! `trainer plan`

mod args;
mod details;
mod fill;
mod json;
mod measured;
mod memory_table;
mod rates;
mod report;
mod summary;

pub use args::PlanArgs;

use super::group::{backend, connect};
use crate::comm::Collective;
use crate::comm::select::Backend;
use crate::config::{Config, MicroBatchTokens, ZeroStage};
use crate::error::{Error, Result};
use crate::observe::memory::available_bytes;
use crate::observe::{self, rank_of_environment};
use crate::plan::chart;
use crate::plan::device::{Device, EFFICIENCY};
use crate::train::advice::Advisor;
use crate::train::downloads::{self, Wanted};
use crate::train::memory_fit;
use crate::train::planned_run::{Assumed, Hardware, PlannedRun};
use args::MOST_EXAMPLES;
use measured::check_measured;
use rates::{device, network, speed};
use report::{Limit, Report, worlds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Prints the plan of a run.
///
/// # Errors
/// Exit 2: an invalid configuration, model or data, or an unknown name.
pub fn run(args: &PlanArgs) -> Result<()> {
    let config = args.config(&[]);
    let Some(comm) = joined(args, &config)? else {
        // Under a launcher, only rank 0 prints.
        return if rank_of_environment() == 0 { print(args, &report(args, config?, None)?) } else { Ok(()) };
    };
    let config = comm.agree(config, "reading the configuration")?;
    downloads::fetch(comm.as_ref(), Wanted::of_run(&config))?;
    let mut report = comm.agree(report(args, config, Some(&comm)), "planning")?;
    report.measure(&comm)?;
    if comm.is_main() { print(args, &report) } else { Ok(()) }
}

/// Joins the ranks that measure, with `--measure`.
fn joined(args: &PlanArgs, config: &Result<Config>) -> Result<Option<Arc<dyn Collective>>> {
    if !args.measure {
        return Ok(None);
    }
    let (backend, timeout, threads) = match config {
        Ok(config) => (backend(config.comm.backend), config.comm.timeout_seconds, config.parallel.num_threads),
        // The ranks join even with an invalid configuration, to exit together.
        Err(_) => (Backend::Auto, 60.0, None),
    };
    connect(backend, Duration::from_secs_f64(timeout), threads).map(Some)
}

fn print(args: &PlanArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.plot {
        let title = format!("{}, ZeRO {}, {}", report.name(), report.zero.stage(), report.device);
        chart::draw(path, &title, &report.rows)?;
    }
    if args.json {
        observe::print(&format!("{}\n", json::of(report)));
        return Ok(());
    }
    let advisor = Advisor {
        run: &report.planned,
        with: &|words| args.config(words),
        hardware: report.hardware(),
        assumed: assumed(args, &report.planned.config, report.ranks),
    };
    let advice = advisor.advise()?;
    let recommendation = summary::recommendation(report, &advice)?;
    let rest = if args.all { details::of(report) } else { summary::of(report, &advice) };
    observe::print(&format!("{recommendation}\n{rest}"));
    Ok(())
}

fn report(args: &PlanArgs, config: Config, comm: Option<&Arc<dyn Collective>>) -> Result<Report> {
    let device = device(&args.device)?;
    if let Some(comm) = comm {
        check_measured(&args.device, device, comm.device())?;
    }
    let ranks = comm.map_or(args.ranks as usize, |comm| comm.world().max(args.ranks as usize));
    let network = network(args, device)?;
    let efficiency = match (device, args.efficiency) {
        (None, Some(_)) => return Err(Error::input("--efficiency: the CPU is measured; use it with a --device")),
        (_, efficiency) => efficiency.unwrap_or(EFFICIENCY),
    };
    let limit = limit(args, &config, device, ranks)?;
    let assumed = assumed(args, &config, ranks);
    let batch_per_rank = args.batch_per_rank.map(|n| n as usize);
    // Of ranks that measure, the hosts are known.
    let several = comm.filter(|comm| comm.world() > comm.local_world());
    let per_node = several.map_or(args.ranks_per_node as usize, |comm| comm.local_world());
    let mut planned = PlannedRun::open(config, batch_per_rank, per_node, assumed)?;
    let shards = planned.shards(&planned.config, ranks);
    if !ranks.is_multiple_of(shards) {
        return Err(Error::input(format!(
            "parallel.shard_within = \"host\" needs the same number of ranks on every node: {ranks} ranks do not fill \
             nodes of {per_node}; change --ranks or --ranks-per-node"
        )));
    }
    let auto = planned.config.train.micro_batch_tokens == MicroBatchTokens::Auto;
    let place = Hardware { ranks, cpu: device.is_none(), limit: limit.as_ref().map(|limit| limit.bytes) };
    planned.choose_auto(&place)?;
    let (steps, steps_per_epoch) = planned.steps(ranks)?;
    let (lengths, padding) = planned.lengths(ranks)?;
    let mut ways = planned.variants(ranks, device.is_none())?;
    let zero = planned.choose(&mut ways, place.limit);
    let storage = planned.storage(ranks)?;
    let free = free_space(&planned.config.output_dir);
    let (speed, device_name) =
        speed(&planned.config, device, comm.map(|_| tch::get_num_threads() as usize), ranks, efficiency);
    let mut report = Report {
        planned,
        lengths,
        padding,
        steps,
        steps_per_epoch,
        auto_tokens: auto,
        ranks,
        ways,
        limit,
        storage,
        free,
        device: device_name,
        named: device,
        efficiency,
        cpu: device.is_none(),
        ranks_here: ranks.min(args.ranks_per_node as usize),
        speed,
        network,
        zero,
        rows: Vec::new(),
        measured: None,
    };
    report.rows = report.rows()?;
    Ok(report)
}

/// Returns the memory limit of a rank: from the configuration, the arguments, or as in `train` with `"auto"`.
fn limit(args: &PlanArgs, config: &Config, device: Option<&Device>, ranks: usize) -> Result<Option<Limit>> {
    if let Some(bytes) = config.parallel.memory_per_rank {
        return Ok(Some(Limit { bytes: bytes.0 as f64, of: "parallel.memory_per_rank".into() }));
    }
    let usable = |bytes: f64, of: &str| {
        let usable = memory_fit::USABLE_FRACTION;
        Ok(Some(Limit { bytes: bytes * usable, of: format!("{:.0} % of {of}", usable * 100.0) }))
    };
    match (args.gpu_memory, device) {
        (Some(bytes), _) => usable(bytes as f64, "--gpu-memory"),
        (None, Some(device)) => usable(device.memory, "the device memory"),
        (None, None) if config.parallel.zero_stage == ZeroStage::Auto => {
            let free = available_bytes().ok_or_else(memory_fit::unknown_memory)?;
            let on_machine = ranks.min(args.ranks_per_node as usize);
            usable((free / on_machine as u64) as f64, "the free memory here per rank")
        }
        _ => Ok(None),
    }
}

/// Returns the assumed data. By default it has enough examples for a full batch at every world size of the table.
fn assumed(args: &PlanArgs, config: &Config, ranks: usize) -> Option<Assumed> {
    let length = args.assume_length? as usize;
    let largest = worlds(ranks).last().copied().unwrap_or(ranks);
    let batch = args.batch_per_rank.map_or(config.train.global_batch_size, |each| each as usize * largest);
    let examples = args.assume_examples.map_or(batch.min(MOST_EXAMPLES as usize), |n| n as usize);
    Some(Assumed { length, examples })
}

/// Returns the nearest existing ancestor of a folder, and its free bytes.
fn free_space(folder: &Path) -> Option<(PathBuf, u64)> {
    let whole = std::path::absolute(folder).ok()?;
    let there = whole.ancestors().find(|path| path.is_dir())?.to_owned();
    let found = rustix::fs::statvfs(&there).ok()?;
    Some((there, found.f_bavail * found.f_frsize))
}
