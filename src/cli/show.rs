//! `trainer show`

use crate::config::Config;
use crate::error::Result;
use crate::observe::live::Live;
use crate::observe::logs::wrap;
use crate::observe::plot::plot;
use crate::train::page::{RunFolder, curves};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Time between two looks at a run that is followed.
const TICK: Duration = Duration::from_secs(1);
/// Lines of a chart.
const HEIGHT: usize = 8;
/// Columns of a label before its text.
const LABEL: usize = 12;
/// Charts with these titles are only shown with `--all`.
const REST: [&str; 4] = ["Learning rate", "Gradient norm before clipping", "Memory of rank 0 in GB", "Loss scale"];

/// `trainer show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Run folders (output_dir), or folders that contain run folders, such as that of a sweep.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Show the run again whenever it has written more, until it ends.
    #[arg(long)]
    follow: bool,
    /// Also show learning rate, gradient norm and memory.
    #[arg(long)]
    all: bool,
}

/// Prints the state and the curves of runs.
///
/// # Errors
/// As [`RunFolder::read`].
pub fn run(args: &ShowArgs) -> Result<()> {
    let mut live = Live::default();
    loop {
        let read: Vec<Vec<RunFolder>> = args.runs.iter().map(|path| RunFolder::read(path)).collect::<Result<_>>()?;
        let runs: Vec<RunFolder> = read.into_iter().flatten().collect();
        let all: Vec<String> = runs.iter().map(|run| shown(run, args, live.width())).collect();
        live.show(all.join("\n"));
        if !args.follow || runs.iter().all(|run| summary(&run.lines).is_some()) {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
}

fn shown(run: &RunFolder, args: &ShowArgs, width: usize) -> String {
    let mut text = state(run);
    for chart in curves(&run.lines) {
        if args.all || !REST.contains(&chart.title.as_str()) {
            text += &plot(&chart, width, HEIGHT).map_or_else(String::new, |chart| format!("\n{chart}"));
        }
    }
    text
}

/// Returns the summary of a run that has ended. A run that was resumed afterwards has more steps.
fn summary(lines: &[Value]) -> Option<&Value> {
    lines.last().filter(|line| line["event"] == "summary")
}

/// Returns a few lines about where a run is.
fn state(run: &RunFolder) -> String {
    let lines = &run.lines;
    let last = |key: &str| lines.iter().rev().find_map(|line| line.get(key)).and_then(Value::as_f64);
    let step = last("step").unwrap_or_default();
    let total = total_steps(&run.config, step, last("epoch"));
    let mut text = format!("{}\n", run.name);
    let of = total.map_or_else(String::new, |total| format!(" of {total}"));
    let ended = summary(lines).map(|_| ", ended".to_owned());
    let idle = || age(&Path::new(&run.name).join("metrics.jsonl")).map(|age| format!(", last line {age} ago"));
    text += &format!("  step      {step}{of}{}\n", ended.or_else(idle).unwrap_or_default());
    if let Some(loss) = last("loss") {
        let rate = last("tokens_per_second").map_or_else(String::new, |rate| format!(", {rate:.0} tokens per second"));
        text += &format!("  loss      {loss:.4}{rate}\n");
    }
    text += &slowest(lines).map_or_else(String::new, |line| format!("  ranks     {line}\n"));
    if let Some(bytes) = last("peak_tensor_bytes") {
        text += &format!("  memory    {:.2} GB of tensors on rank 0\n", bytes / 1e9);
    }
    for (name, line) in
        [("last", lines.iter().rev().find(|line| line.get("eval_loss").is_some())), ("best", run.best())]
    {
        let Some(map) = line.and_then(Value::as_object) else { continue };
        let metric = |(key, value): (&String, &Value)| {
            Some(format!("{key} {:.4}", value.as_f64().filter(|_| key.starts_with("eval_"))?))
        };
        let metrics: Vec<String> = map.iter().filter_map(metric).collect();
        text += &format!("  {name} eval {} (step {})\n", metrics.join(", "), map.get("step").unwrap_or(&Value::Null));
    }
    text.lines().map(|line| format!("{}\n", wrap(line, LABEL))).collect()
}

/// Describes the rank that computes longest, by the last line with the times of the ranks.
fn slowest(lines: &[Value]) -> Option<String> {
    let line = lines.iter().rev().find(|line| line.get("compute_seconds").is_some())?;
    let times = |key: &str| -> Option<Vec<f64>> { line.get(key)?.as_array()?.iter().map(Value::as_f64).collect() };
    let (compute, wait) = (times("compute_seconds")?, times("wait_seconds")?);
    let (rank, most) = compute.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    Some(format!(
        "{}; the slowest is rank {rank}: it computes {most:.3} s per step, all {:.3} s on average, and they wait {:.3} s",
        compute.len(),
        mean(&compute),
        mean(&wait)
    ))
}

/// Returns the last step of a run: as configured, or by the epoch that a step has reached.
fn total_steps(config: &Config, step: f64, epoch: Option<f64>) -> Option<u64> {
    let per_epoch = epoch.filter(|epoch| *epoch > 0.0).map(|epoch| step / epoch);
    let by_epoch = per_epoch.map(|steps| (steps * config.train.num_train_epochs).round() as u64);
    config.train.max_steps.or(by_epoch)
}

/// Returns the time since a file was written to, if that is more than a few seconds.
fn age(path: &Path) -> Option<String> {
    let written = std::fs::metadata(path).and_then(|data| data.modified()).ok()?;
    let age = SystemTime::now().duration_since(written).ok()?.as_secs();
    match age {
        0..10 => None,
        10..120 => Some(format!("{age} s")),
        120..7200 => Some(format!("{} min", age / 60)),
        _ => Some(format!("{} h", age / 3600)),
    }
}
