//! Several runs of `trainer launch`, one after another or side by side: those of a sweep, the folds of a
//! cross-validation.
//!
//! Their folder has a folder and a log file for each, and [`RESULTS`]: a line when a run gets its name, and one when it
//! ends. What it says is not run again.

use super::supervise::Requests;
use crate::config::Config;
use crate::error::{Context, Error, Kind, Result};
use crate::observe::logs;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);

/// The file with the runs and their results.
pub const RESULTS: &str = "results.jsonl";

/// A run and its checked configuration.
#[derive(Debug, Clone)]
pub struct Run {
    pub config: Config,
    settings: Vec<String>,
}

impl Run {
    /// Checks the configuration of a run: the file with these settings. The run's folder will be one in `folder`.
    ///
    /// # Errors
    /// Exit 2 for an invalid configuration.
    pub fn new(folder: &Path, config_file: Option<&Path>, settings: Vec<String>) -> Result<Run> {
        let output_dir = [format!("output_dir={}", folder.display()), "overwrite_output_dir=false".into()];
        let all: Vec<String> = settings.iter().cloned().chain(output_dir).collect();
        Ok(Run { config: Config::load(config_file, &all)?, settings })
    }

    /// Returns what distinguishes this run from others in the same folder: a hash of its configuration.
    pub fn identity(&self) -> String {
        blake3::hash(self.config.to_toml().as_bytes()).to_hex()[..16].to_owned()
    }
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit code of the run.
    pub exit_code: i32,
    pub seconds: f64,
    /// Why it failed: the last line of its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The evaluation of the final model: the best with `load_best_model_at_end`, otherwise the last.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
}

/// A line of [`RESULTS`].
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    run: String,
    identity: String,
    settings: Vec<String>,
    #[serde(flatten, default)]
    outcome: Option<Outcome>,
}

/// The way in which runs are started.
#[derive(Debug)]
pub struct Start {
    /// "sweep" or "cross-validate": the first word of messages.
    pub command: &'static str,
    pub folder: PathBuf,
    pub config_file: Option<PathBuf>,
    /// Options of `trainer launch`.
    pub options: Vec<String>,
    /// Environment variables for each of the runs that may run at the same time.
    pub slots: Vec<Vec<(String, String)>>,
    /// Whether a run that fails keeps the others from starting.
    pub all_or_none: bool,
}

struct Running {
    run: usize,
    slot: usize,
    child: Child,
    since: Instant,
}

/// Runs all of them; returns the name and the result of each, in their order, `None` for those that a signal stopped or
/// kept from starting. A run that fails keeps others from running only if asked for.
///
/// # Errors
/// The folder cannot be written; a process cannot be started; exit 2 for a damaged file of results, and for a folder in
/// which others run.
pub fn run(runs: &[Run], start: &Start, label: impl Fn(usize) -> String) -> Result<Vec<(String, Option<Outcome>)>> {
    let (command, folder) = (start.command, &start.folder);
    fs::create_dir_all(folder).context(folder.display())?;
    let path = folder.join(RESULTS);
    let (mut file, known) = open(folder)?;
    let mut write = |line: &Line| -> Result<()> {
        let text = serde_json::to_string(line).context("a result")? + "\n";
        file.write_all(text.as_bytes()).context(path.display())
    };
    let mut ended: Vec<(String, Option<Outcome>)> = Vec::new();
    let mut names = known.iter().filter_map(|line| line.run.rsplit_once('-')?.1.parse().ok()).max().unwrap_or(0);
    for run in runs {
        let identity = run.identity();
        let own: Vec<&Line> = known.iter().filter(|line| line.identity == identity).collect();
        let name = own.first().map(|line| line.run.clone()).map_or_else(
            || {
                names += 1;
                let line =
                    Line { run: format!("run-{names:03}"), identity, settings: run.settings.clone(), outcome: None };
                write(&line).map(|()| line.run)
            },
            Ok,
        )?;
        let done = own.iter().rev().find_map(|line| line.outcome.clone()).filter(|outcome| outcome.exit_code == 0);
        ended.push((name, done));
    }
    let before = ended.iter().filter(|(_, outcome)| outcome.is_some()).count();
    if before > 0 {
        logs::tell(&format!("{command}: {before} of {} runs have finished before", runs.len()));
    }
    let requests = Requests::listen()?;
    let mut waiting = (0..runs.len()).filter(|&run| ended[run].1.is_none()).collect::<Vec<_>>().into_iter();
    let mut running: Vec<Running> = Vec::new();
    let (mut told, mut told_again) = (false, false);
    loop {
        let free = (0..start.slots.len()).find(|slot| running.iter().all(|one| one.slot != *slot));
        let failed = start.all_or_none
            && ended.iter().any(|(_, outcome)| outcome.as_ref().is_some_and(|outcome| outcome.exit_code != 0));
        if let (Some(slot), false) = (free, failed || requests.stop())
            && let Some(run) = waiting.next()
        {
            logs::tell(&format!("{command}: {} ({} of {}): {}", ended[run].0, run + 1, runs.len(), label(run)));
            let child = spawn(start, &ended[run].0, &runs[run], slot)?;
            running.push(Running { run, slot, child, since: Instant::now() });
            continue;
        }
        if running.is_empty() {
            return Ok(ended);
        }
        if requests.stop() && !told || requests.at_once() && !told_again {
            (told_again, told) = (told, true);
            logs::tell(&format!("{command}: stopping the runs, with a checkpoint; Ctrl-C again ends them at once"));
            running.iter().for_each(|one| interrupt(&one.child));
        }
        for one in &mut running {
            let Some(status) = one.child.try_wait().context("waiting for a run")? else { continue };
            let name = &ended[one.run].0;
            let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            one.slot = usize::MAX; // ended
            if exit_code != 0 && (told || exit_code == Kind::Stopped.exit_code()) {
                continue; // it has a checkpoint to go on from
            }
            let outcome = outcome(folder, name, &runs[one.run].config, exit_code, one.since.elapsed());
            logs::tell(&format!("{command}: {name}: {}", describe(&outcome, &runs[one.run].config)));
            let run = &runs[one.run];
            let (identity, settings) = (run.identity(), run.settings.clone());
            write(&Line { run: name.clone(), identity, settings, outcome: Some(outcome.clone()) })?;
            ended[one.run].1 = Some(outcome);
        }
        running.retain(|one| one.slot != usize::MAX);
        thread::sleep(POLL);
    }
}

/// Describes a result in a line.
fn describe(outcome: &Outcome, config: &Config) -> String {
    let seconds = outcome.seconds;
    if let Some(error) = &outcome.error {
        return format!("failed with exit code {} after {seconds:.0} s: {error}", outcome.exit_code);
    }
    let name = format!("eval_{}", config.train.metric_for_best_model);
    let value = outcome.metrics.get(&name).map_or_else(|| "undefined".to_owned(), |value| format!("{value:.4}"));
    format!("{name} {value}, {seconds:.0} s")
}

/// Opens a folder's results for appending, for this process alone, and reads what they say.
fn open(folder: &Path) -> Result<(File, Vec<Line>)> {
    let path = folder.join(RESULTS);
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).context(path.display())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::input(format!(
                "{}: another sweep or cross-validation is running in this folder: wait for it, stop it, or choose \
                 another output_dir",
                folder.display()
            )));
        }
        Err(TryLockError::Error(e)) => {
            // Some cluster file systems do not support locks.
            tracing::warn!("{} cannot be locked ({e}): make sure that no other process writes there", path.display());
        }
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context(path.display())?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() {
        // A line that a crash cut off, which nothing may be appended to.
        file.set_len(whole as u64).context(path.display())?;
    }
    let line = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::input(format!("{}:{}: {e}", path.display(), i + 1)))
    };
    let lines =
        String::from_utf8_lossy(&bytes[..whole]).lines().enumerate().map(line).collect::<Result<Vec<Line>>>()?;
    Ok((file, lines))
}

fn spawn(start: &Start, name: &str, run: &Run, slot: usize) -> Result<Child> {
    let log = start.folder.join(format!("{name}.log"));
    let log = OpenOptions::new().create(true).append(true).open(&log).context(log.display())?;
    let errors: File = log.try_clone().context("a log file")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("launch").args(&start.config_file).args(&run.settings);
    command.arg(format!("output_dir={}", start.folder.join(name).display())).arg("overwrite_output_dir=false");
    // Ctrl-C goes to the foreground process group, which is ours: we pass it on.
    command.args(&start.options).envs(start.slots[slot].iter().cloned()).process_group(0);
    command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().context("trainer launch")
}

fn interrupt(child: &Child) {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return };
    // It may just have ended; it is not awaited yet, so its process id is not reused.
    if let Err(e) = kill_process(pid, Signal::INT) {
        tracing::warn!("SIGINT to a run: {e}");
    }
}

fn outcome(folder: &Path, name: &str, config: &Config, exit_code: i32, time: Duration) -> Outcome {
    let (exit_code, seconds) = (exit_code, (time.as_secs_f64() * 10.0).round() / 10.0);
    let log = fs::read(folder.join(format!("{name}.log"))).unwrap_or_default();
    let error = (exit_code != 0).then(|| {
        let text = String::from_utf8_lossy(&log).into_owned();
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("no output").trim_start_matches("trainer: error: ").to_owned()
    });
    let lines = fs::read_to_string(folder.join(name).join("metrics.jsonl")).unwrap_or_default();
    Outcome { exit_code, seconds, error, metrics: final_metrics(&lines, config) }
}

/// Returns the evaluation of the final model from the lines of `metrics.jsonl`.
fn final_metrics(lines: &str, config: &Config) -> BTreeMap<String, f64> {
    let train = &config.train;
    let wanted = format!("eval_{}", train.metric_for_best_model);
    let numbers = |line: &str| -> Option<BTreeMap<String, f64>> {
        let line: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
        line.contains_key("eval_loss").then(|| {
            let evaluation = line.iter().filter(|(name, _)| name.starts_with("eval_") || *name == "step");
            evaluation.filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect()
        })
    };
    let evaluations: Vec<_> = lines.lines().filter_map(numbers).collect();
    let sign = if train.is_greater_better() { 1.0 } else { -1.0 };
    let value = |metrics: &BTreeMap<String, f64>| metrics.get(&wanted).map_or(f64::NEG_INFINITY, |value| sign * value);
    let best = || evaluations.iter().rev().max_by(|a, b| value(a).total_cmp(&value(b)));
    let chosen = if train.load_best_model_at_end { best() } else { evaluations.last() };
    chosen.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &[&str]) -> Config {
        let base =
            ["model.path=m", "task.kind=causal-lm", "data.train=t", "data.eval=e", "output_dir=o", "eval_steps=1"];
        let words: Vec<String> = base.iter().chain(more).map(|&word| word.to_owned()).collect();
        Config::parse("", "test", &words).unwrap()
    }

    #[test]
    fn the_final_models_evaluation() {
        let lines = "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"eval_loss\":1.0,\"eval_accuracy\":0.5}\n\
            {\"step\":4,\"eval_loss\":0.5,\"eval_accuracy\":0.75}\n{\"step\":6,\"eval_loss\":0.7,\"eval_accuracy\":null}\n";
        let last = final_metrics(lines, &config(&[]));
        assert_eq!(last, BTreeMap::from([("step".into(), 6.0), ("eval_loss".into(), 0.7)]));
        let best = ["load_best_model_at_end=true", "save_strategy=steps", "save_steps=1"];
        assert_eq!(final_metrics(lines, &config(&best))["step"], 4.0);
        let first = "{\"eval_loss\":0.5,\"step\":1}\n{\"eval_loss\":0.5,\"step\":2}\n";
        assert_eq!(final_metrics(first, &config(&best))["step"], 1.0, "the first of equal ones");
        assert!(final_metrics("", &config(&[])).is_empty());
    }

    #[test]
    fn results_survive_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RESULTS);
        let line = "{\"run\":\"run-001\",\"identity\":\"ab\",\"settings\":[],\"exit_code\":0,\"seconds\":1.5,\"metrics\":{\"eval_loss\":0.5}}\n";
        // A process that another test is starting may have the file open for a moment longer.
        let read = || {
            open(folder.path()).map(|(file, lines)| {
                file.unlock().unwrap();
                lines
            })
        };
        // Cut off within a character.
        fs::write(&path, [line.as_bytes(), b"{\"run\":\"\xc3"].concat()).unwrap();
        let (mut file, lines) = open(folder.path()).unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].outcome.as_ref().unwrap().metrics["eval_loss"], 0.5);
        assert_eq!(fs::read_to_string(&path).unwrap(), line);
        file.write_all(line.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), line.repeat(2));
        file.unlock().unwrap();
        fs::write(&path, "{\"run\":\"run-0").unwrap();
        assert!(read().unwrap().is_empty() && fs::read(&path).unwrap().is_empty());
        fs::write(&path, "{\"run\":\"run-001\",\"identity\":\"ab\",\"settings\":[]}\n").unwrap();
        assert!(read().unwrap()[0].outcome.is_none());
        fs::write(&path, "{\"run\":3}\n").unwrap();
        assert!(read().unwrap_err().to_string().contains("results.jsonl:1: "));
    }

    #[test]
    fn a_folder_is_one_sweeps_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = open(folder.path()).unwrap();
        let refused = open(folder.path()).unwrap_err();
        let message = format!("{}: another sweep or cross-validation is running", folder.path().display());
        assert!(refused.kind() == Kind::Input && refused.to_string().starts_with(&message), "{refused}");
        first.unlock().unwrap();
        assert!(open(folder.path()).unwrap().1.is_empty());
    }

    #[test]
    fn a_run_is_known_by_its_configuration() {
        let folder = Path::new("runs/s");
        let base = ["model.path=m", "task.kind=causal-lm", "data.train=t"];
        let of = |more: &[&str]| {
            let words = base.iter().chain(more).map(|&word| word.to_owned()).collect();
            Run::new(folder, None, words).unwrap().identity()
        };
        assert_eq!(of(&["max_steps=5", "seed=1"]), of(&["seed=1", "train.max_steps=5"]));
        assert_ne!(of(&["seed=1"]), of(&["seed=2"]));
    }
}
