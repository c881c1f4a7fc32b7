//! `trainer plan`

mod details;
mod fill;
mod json;
mod measured;
mod rates;
mod summary;

use super::{TrainArgs, backend, connect};
use crate::comm::Collective;
use crate::comm::select::Backend;
use crate::config::{Bytes, Config, MicroBatchTokens, ZeroStage};
use crate::error::{Error, Result};
use crate::observe::memory::available_bytes;
use crate::observe::{self, rank_of_environment};
use crate::parallel::Zero;
use crate::plan::chart;
use crate::plan::device::{Device, EFFICIENCY, Speed};
use crate::plan::lengths::{Lengths, Padding};
use crate::plan::link::Network;
use crate::plan::scaling::{Row, Run, WORLDS};
use crate::plan::storage::Storage;
use crate::train::advice::Advisor;
use crate::train::estimate::{Estimate, Hardware};
use crate::train::planned_run::{Assumed, PlannedRun, Variant};
use crate::train::{memory_fit, settings};
use clap::Args;
use measured::{Correction, check_measured};
use rates::{device, network, of_device, speed};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The most examples that may be assumed: more of the same tell nothing new.
const MOST_EXAMPLES: i64 = 10_000_000;

/// `trainer plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The configuration (TOML); ./trainer.toml where none is given.
    config: Option<PathBuf>,
    /// Settings that replace the file's, as for `train`.
    #[arg(value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Ranks that memory is told for.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// The memory of a rank, such as 80GiB; otherwise that of --device. parallel.memory_per_rank goes before both.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    gpu_memory: Option<u64>,
    /// What a rank computes on: cpu, which is measured here, or one of h100-sxm, h100-pcie, h200-sxm, a100-80gb,
    /// a100-40gb, l40s.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    device: String,
    /// How ranks are connected on a machine and, after a comma, between machines; otherwise as is usual for the device.
    #[arg(long, value_name = "NAME[,NAME]")]
    link: Option<String>,
    /// Ranks on a machine.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    ranks_per_node: u32,
    /// The share of the device's peak that products reach; otherwise 0.5.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    efficiency: Option<f64>,
    /// Let the global batch grow with the ranks, with so many examples for each; otherwise it stays.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_per_rank: Option<u32>,
    /// Take every example to have so many tokens, instead of reading the data.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(2..))]
    assume_length: Option<u32>,
    /// How many examples there are, with --assume-length; otherwise the largest global batch of the table.
    #[arg(long, value_name = "N", requires = "assume_length", value_parser = clap::value_parser!(u32).range(1..=MOST_EXAMPLES))]
    assume_examples: Option<u32>,
    /// Take a few real steps of the longest batch, under mpirun on all its ranks, and correct the times by them.
    #[arg(long, conflicts_with = "assume_length")]
    measure: bool,
    /// Draw tokens a second over ranks into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// All details: lengths and padding, the memory of every ZeRO stage, precision and recomputation, and the time on 1 to
    /// 1,024 ranks.
    #[arg(long)]
    all: bool,
    /// One JSON object instead of text, with all details.
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let value: Result<Bytes, _> = serde_json::from_value(json!(text));
    value.map(|bytes| bytes.0).map_err(|_| "expected a size such as 80GiB".into())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|&share: &f64| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| "expected a number greater than 0 and at most 1".into())
}

/// All that is told.
struct Report {
    outlook: PlannedRun,
    lengths: Lengths,
    padding: Padding,
    steps: u64,
    steps_per_epoch: u64,
    /// Whether the tokens at a time were chosen here.
    auto_tokens: bool,
    ranks: usize,
    ways: Vec<Variant>,
    /// What a rank may fill.
    limit: Option<Limit>,
    storage: Storage,
    /// Where the run would write, and what is free there.
    free: Option<(PathBuf, u64)>,
    device: String,
    named: Option<&'static Device>,
    efficiency: f64,
    /// Whether ranks compute on a CPU.
    cpu: bool,
    /// Ranks on a machine.
    ranks_here: usize,
    speed: Speed,
    network: Network,
    /// The ZeRO stage that times are told for.
    zero: Zero,
    rows: Vec<Row>,
    measured: Option<Correction>,
}

/// What a rank may fill, in bytes, and where that is from.
struct Limit {
    bytes: f64,
    of: String,
}

/// Plans.
///
/// # Errors
/// Exit 2 for what is wrong with the configuration, the model or the data, and for names that are not known.
pub fn run(args: &PlanArgs) -> Result<()> {
    let config = args.config(&[]);
    let Some(comm) = joined(args, &config)? else {
        // Under a launcher once is enough.
        return if rank_of_environment() == 0 { tell(args, &report(args, config?, None)?) } else { Ok(()) };
    };
    let report = comm.agree(config.and_then(|config| report(args, config, Some(&comm))), "planning");
    let mut report = report?;
    report.measure(&comm)?;
    if comm.is_main() { tell(args, &report) } else { Ok(()) }
}

impl PlanArgs {
    /// The configuration, with these KEY=VALUE words after those of the command line.
    fn config(&self, more: &[String]) -> Result<Config> {
        let overrides = [&self.overrides, more].concat();
        super::train::load(&TrainArgs { config: self.config.clone(), overrides, ..TrainArgs::default() })
    }
}

/// The ranks that measure, if any do.
fn joined(args: &PlanArgs, config: &Result<Config>) -> Result<Option<Arc<dyn Collective>>> {
    if !args.measure {
        return Ok(None);
    }
    let (backend, timeout, threads) = match config {
        Ok(config) => (backend(config.comm.backend), config.comm.timeout_seconds, config.parallel.num_threads),
        // Even a configuration that cannot be used is everybody's affair.
        Err(_) => (Backend::Auto, 60.0, None),
    };
    connect(backend, Duration::from_secs_f64(timeout), threads).map(Some)
}

fn tell(args: &PlanArgs, report: &Report) -> Result<()> {
    if let Some(path) = &args.plot {
        let title = format!("{}, ZeRO {}, {}", report.name(), report.zero.stage(), report.device);
        chart::draw(path, &title, &report.rows)?;
    }
    if args.json {
        observe::print(&format!("{}\n", json::of(report)));
        return Ok(());
    }
    let advisor = Advisor {
        run: &report.outlook,
        with: &|words| args.config(words),
        hardware: report.place(),
        assumed: assumed(args, &report.outlook.config, report.ranks),
    };
    let advice = advisor.advise()?;
    let told = summary::recommendation(report, &advice)?;
    let rest = if args.all { details::of(report) } else { summary::of(report, &advice) };
    observe::print(&format!("{told}\n{rest}"));
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
        (None, Some(_)) => return Err(Error::input("--efficiency: this CPU is measured; name a --device with it")),
        (_, efficiency) => efficiency.unwrap_or(EFFICIENCY),
    };
    let limit = limit(args, &config, device, ranks)?;
    let assumed = assumed(args, &config, ranks);
    let mut outlook = PlannedRun::open(config, args.batch_per_rank.map(|n| n as usize), assumed)?;
    let auto = outlook.config.train.micro_batch_tokens == MicroBatchTokens::Auto;
    let place = Hardware { ranks, cpu: device.is_none(), limit: limit.as_ref().map(|limit| limit.bytes) };
    outlook.choose_tokens(&place)?;
    let (steps, steps_per_epoch) = outlook.steps(ranks)?;
    let (lengths, padding) = outlook.lengths(ranks)?;
    let mut ways = outlook.variants(ranks, device.is_none())?;
    let zero = outlook.choose(&mut ways, place.limit);
    let storage = outlook.storage(ranks)?;
    let free = free_space(&outlook.config.output_dir);
    let (speed, device_name) =
        speed(&outlook.config, device, comm.map(|_| tch::get_num_threads() as usize), ranks, efficiency);
    let mut report = Report {
        outlook,
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

impl Report {
    /// The model's folder, without the path to it.
    fn name(&self) -> String {
        let path = &self.outlook.config.model.path;
        path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// Examples of a step of `--ranks`.
    fn batch(&self) -> usize {
        self.outlook.global_batch(self.ranks).min(self.lengths.examples as usize)
    }

    /// Whether this way fits, where a limit is known.
    fn fits(&self, way: &Variant) -> Option<bool> {
        self.limit.as_ref().map(|limit| way.need.total <= limit.bytes)
    }

    fn place(&self) -> Hardware {
        Hardware { ranks: self.ranks, cpu: self.cpu, limit: self.limit.as_ref().map(|limit| limit.bytes) }
    }

    /// The worlds of the table, that of `--ranks` among them.
    fn rows(&self) -> Result<Vec<Row>> {
        self.with_run(&self.outlook.config, self.zero, |run| {
            worlds(self.ranks).into_iter().map(|ranks| run.on(ranks, self.speed, &self.network)).collect()
        })
    }

    /// The time of a trial; none where it has another precision than the one that the rates here were measured in.
    fn time(&self, trial: &Estimate) -> Result<Option<Row>> {
        let (config, own) = (&trial.config, &self.outlook.config);
        let speed = match self.named {
            _ if config.parallel.precision == own.parallel.precision => self.speed,
            Some(device) if self.measured.is_none() => of_device(config, device, self.efficiency),
            _ => return Ok(None),
        };
        self.with_run(config, trial.zero, |run| run.on(trial.ranks, speed, &self.network)).map(Some)
    }

    /// Looks at the run under a configuration, held like this.
    fn with_run<T>(&self, config: &Config, zero: Zero, look: impl FnOnce(&Run) -> T) -> T {
        let PlannedRun { shaped, data, .. } = &self.outlook;
        look(&Run {
            model: &shaped.model,
            specs: &shaped.specs,
            setup: &memory_fit::setup(config, shaped.model.stages(), zero, self.cpu),
            dataset: &data.train.dataset,
            seed: config.seed,
            micro_batch_tokens: settings::micro_batch_tokens(config),
            global_batch: &|ranks| self.outlook.global_batch(ranks),
            total_steps: &|per_epoch| settings::total_steps(config, per_epoch),
        })
    }
}

/// The worlds of the table, this one among them.
fn worlds(ranks: usize) -> Vec<usize> {
    let mut worlds: Vec<usize> = WORLDS.into_iter().chain([ranks]).collect();
    worlds.sort_unstable();
    worlds.dedup();
    worlds
}

/// What a rank may fill: as `train` has it under "auto", or as the arguments say. Without either nothing is compared.
fn limit(args: &PlanArgs, config: &Config, device: Option<&Device>, ranks: usize) -> Result<Option<Limit>> {
    if let Some(bytes) = config.parallel.memory_per_rank {
        return Ok(Some(Limit { bytes: bytes.0 as f64, of: "parallel.memory_per_rank".into() }));
    }
    let share = |bytes: f64, of: &str| {
        let share = memory_fit::USABLE_FRACTION;
        Ok(Some(Limit { bytes: bytes * share, of: format!("{:.0} % of {of}", share * 100.0) }))
    };
    match (args.gpu_memory, device) {
        (Some(bytes), _) => share(bytes as f64, "--gpu-memory"),
        (None, Some(device)) => share(device.memory, "what a rank has"),
        (None, None) if config.parallel.zero_stage == ZeroStage::Auto => {
            let free = available_bytes().ok_or_else(memory_fit::unknown_memory)?;
            let on_machine = ranks.min(args.ranks_per_node as usize);
            share((free / on_machine as u64) as f64, "a rank's part of what is free here now")
        }
        _ => Ok(None),
    }
}

/// Unless told so many examples that each world of the table has a whole batch.
fn assumed(args: &PlanArgs, config: &Config, ranks: usize) -> Option<Assumed> {
    let length = args.assume_length? as usize;
    let largest = worlds(ranks).last().copied().unwrap_or(ranks);
    let batch = args.batch_per_rank.map_or(config.train.global_batch_size, |each| each as usize * largest);
    let examples = args.assume_examples.map_or(batch.min(MOST_EXAMPLES as usize), |n| n as usize);
    Some(Assumed { length, examples })
}

/// The nearest folder above that exists, and what is free there.
fn free_space(folder: &Path) -> Option<(PathBuf, u64)> {
    let whole = std::path::absolute(folder).ok()?;
    let there = whole.ancestors().find(|path| path.is_dir())?.to_owned();
    let found = rustix::fs::statvfs(&there).ok()?;
    Some((there, found.f_bavail * found.f_frsize))
}
