//! The output folder of a run: lock, checkpoints, metrics.

use crate::checkpoint::TrainerState;
use crate::checkpoint::folder::{self, COMPLETE};
use crate::checkpoint::optimizer::{EMA, MASTERS, file_of};
use crate::checkpoint::sharded::{self, TensorFiles};
use crate::checkpoint::weight_files::weights_of;
use crate::error::{Context, Error, Result};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The starting point of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// The model's weights; a folder that already contains a run is an error.
    None,
    /// The latest valid checkpoint of the folder, or the model's weights if there is none.
    Auto,
    /// This checkpoint.
    Path(PathBuf),
}

/// Time to wait for a previous run to exit: ranks outlive a killed mpirun by about two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folder of a run, locked for this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The folders created for it, the outermost last.
    made: Vec<PathBuf>,
    _lock: File,
}

const LOCK: &str = ".lock";

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
/// The page about a run in its folder.
pub const REPORT: &str = "report.html";

/// The folder of the final model in a run's folder.
pub const FINAL: &str = "final";

impl Drop for RunDir {
    fn drop(&mut self) {
        // A process waiting for the lock notices that the file is gone and creates another.
        _ = fs::remove_file(self.path.join(LOCK));
        // Only empty folders are removed.
        _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// Returns the step of the latest complete checkpoint of a run folder, and the file that marks it complete. Takes no
/// lock, so it can be used to watch a run.
pub fn newest_complete(path: &Path) -> Option<(u64, PathBuf)> {
    let mark = |step: u64| (step, path.join(format!("checkpoint-{step}")).join(COMPLETE));
    steps_in(path).into_iter().rev().map(mark).find(|(_, mark)| mark.exists())
}

fn steps_in(path: &Path) -> Vec<u64> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut steps: Vec<u64> =
        entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

impl RunDir {
    /// Opens or creates the folder of a run, and finds the checkpoint to start from.
    ///
    /// # Errors
    /// Exit 2: no permission, a folder in use by another run, an existing run that is neither resumed nor overwritten,
    /// or an invalid checkpoint given by path.
    pub fn open(path: &Path, resume: &Resume, overwrite: bool) -> Result<(Self, Option<PathBuf>)> {
        let made = path.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(path).input_context(format!("output_dir {}: cannot be created", path.display()))?;
        let dir = RunDir { path: path.to_owned(), made, _lock: lock(&path.join(LOCK))? };
        let from = match resume {
            Resume::Path(checkpoint) => {
                validate(checkpoint)?;
                Some(checkpoint.clone())
            }
            Resume::Auto => dir.latest_valid()?,
            Resume::None => None,
        };
        let own = from.as_deref().and_then(|from| dir.step_of(from));
        // With --resume auto, a run that was killed before its first checkpoint can be overwritten without loss.
        let holds = if *resume == Resume::Auto { dir.finished().exists() } else { dir.holds_a_run() };
        if own.is_none() && holds && !overwrite {
            let auto = if *resume == Resume::Auto {
                "it has no checkpoint to resume from"
            } else {
                "resume it with --resume auto"
            };
            return Err(Error::input(format!(
                "output_dir {} already contains a run: {auto}, \
                 overwrite it with overwrite_output_dir=true, or choose another folder",
                path.display()
            )));
        }
        Ok((dir, from))
    }

    /// Whether [`RunDir::begin`] would remove this folder or a parent of it.
    pub fn would_remove(&self, folder: &Path, from: Option<&Path>) -> bool {
        let Ok(folder) = fs::canonicalize(folder) else { return false };
        let step = from.and_then(|from| self.step_of(from));
        let later = self.steps_after(step).into_iter().map(|step| self.checkpoint(step));
        later
            .chain([self.finished()])
            .filter_map(|ours| fs::canonicalize(ours).ok())
            .any(|ours| folder.starts_with(ours))
    }

    /// Whether the checkpoint of a step is valid, so that a run can resume from it.
    pub fn is_valid(&self, step: u64) -> bool {
        validate(&self.checkpoint(step)).is_ok()
    }

    fn steps_after(&self, step: Option<u64>) -> Vec<u64> {
        self.steps().into_iter().filter(|&later| step.is_none_or(|step| later > step)).collect()
    }

    /// Removes what an earlier run wrote after the checkpoint from which this run resumes, so that it is not mistaken for
    /// a part of this run. The configuration and the metrics stay: this run replaces them. Call it last in the setup: a
    /// failing setup must not remove a finished run.
    ///
    /// # Errors
    /// The file name and the system error.
    pub fn begin(&self, from: Option<&Path>) -> Result<()> {
        self.clear_after(from.and_then(|from| self.step_of(from)))?;
        self.clear_temporary()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file with the run's configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("checkpoint-{step}"))
    }

    /// Returns the folder of the final model.
    pub fn finished(&self) -> PathBuf {
        self.path.join(FINAL)
    }

    /// Returns the steps of all checkpoints, complete or not, in ascending order.
    pub fn steps(&self) -> Vec<u64> {
        steps_in(&self.path)
    }

    /// Removes the oldest checkpoints until `limit` remain; the best one is always kept and counts.
    ///
    /// # Errors
    /// The folder name and the system error.
    pub fn rotate(&self, limit: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps();
        let newest = steps.last().copied();
        let mut excess = steps.len().saturating_sub(limit);
        for step in steps {
            if excess > 0 && Some(step) != best && Some(step) != newest {
                folder::remove(&self.checkpoint(step))?;
                excess -= 1;
            }
        }
        Ok(())
    }

    fn holds_a_run(&self) -> bool {
        !self.steps().is_empty() || [CONFIG, METRICS, FINAL].iter().any(|name| self.path.join(name).exists())
    }

    /// Returns the latest valid checkpoint; `None` if no checkpoint was completed.
    fn latest_valid(&self) -> Result<Option<PathBuf>> {
        let mut damaged = None;
        for path in self.steps().into_iter().rev().map(|step| self.checkpoint(step)) {
            match validate(&path) {
                Ok(()) => return Ok(Some(path)),
                Err(e) => {
                    tracing::warn!("skipped: {e}");
                    damaged = damaged.or(path.join(COMPLETE).exists().then_some(e));
                }
            }
        }
        // Starting from scratch would remove checkpoints that may still be recoverable.
        damaged.map_or(Ok(None), |e| {
            Err(e.context("no valid checkpoint; start from scratch with overwrite_output_dir=true and --resume none"))
        })
    }

    /// Returns the step of a checkpoint in this folder.
    pub fn step_of(&self, checkpoint: &Path) -> Option<u64> {
        let same = |a: &Path, b: &Path| fs::canonicalize(a).ok() == fs::canonicalize(b).ok();
        self.steps().into_iter().find(|&step| same(&self.checkpoint(step), checkpoint))
    }

    fn clear_after(&self, step: Option<u64>) -> Result<()> {
        for later in self.steps_after(step) {
            let path = self.checkpoint(later);
            if path.join(COMPLETE).exists() && !self.is_valid(later) {
                // Completed but damaged: it may be partly recoverable.
                let aside = self.path.join(format!("damaged-checkpoint-{later}"));
                tracing::warn!("{} is kept as {}", path.display(), aside.display());
                fs::rename(&path, &aside).context(path.display())?;
            } else {
                folder::remove(&path)?;
            }
        }
        if self.finished().exists() {
            fs::remove_dir_all(self.finished()).context(self.finished().display())?;
        }
        // config.toml and metrics.jsonl stay until this run replaces them, since it may be watched meanwhile. So does
        // the page, unless it is that of another run.
        let report = self.path.join(REPORT);
        if step.is_none() && report.exists() {
            fs::remove_file(&report).context(report.display())?;
        }
        Ok(())
    }

    fn clear_temporary(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).context(self.path.display())?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            let is_folder = name.starts_with(".checkpoint-") || name.starts_with(".final.");
            let is_file = [CONFIG, METRICS, REPORT].iter().any(|file| name == format!(".{file}.tmp"));
            if is_folder && name.ends_with(".tmp") && path.is_dir() {
                fs::remove_dir_all(&path).context(path.display())?;
            } else if is_file && path.is_file() {
                fs::remove_file(&path).context(path.display())?;
            }
        }
        Ok(())
    }
}

fn validate(path: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::input(format!("{}: {why}", path.display())));
    if !path.is_dir() {
        return refuse("no such checkpoint");
    }
    if path.join(METRICS).exists() {
        return refuse("the folder of a run, not a checkpoint: resume it with output_dir and --resume auto");
    }
    if !path.join(COMPLETE).exists() {
        return refuse(&format!("not a complete checkpoint (no file {COMPLETE})"));
    }
    let optimizer = TrainerState::read(path)?.optimizer;
    TensorFiles::open(&weights_of(path))?;
    if !optimizer.states.is_empty() {
        TensorFiles::open(&path.join(file_of(&optimizer.name)))?;
    }
    let others = [MASTERS, EMA].map(|set| path.join(set));
    others.iter().filter(|set| sharded::exists(set)).try_for_each(|set| TensorFiles::open(set).map(|_| ()))
}

/// Whether an open file is still the file at this path.
fn is_file(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(place).ok() == fs::metadata(path).map(place).ok()
}

fn lock(path: &Path) -> Result<File> {
    let create = || File::create(path).input_context(format!("output_dir: {} cannot be written", path.display()));
    let mut file = create()?;
    let start = Instant::now();
    let mut is_reported = false;
    loop {
        match file.try_lock() {
            // The previous run has removed the file, and there may be a new one now.
            Ok(()) if !is_file(&file, path) => file = create()?,
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::info!("waiting for another run in this output_dir to exit");
                }
                std::thread::sleep(Duration::from_millis(200))
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(format!(
                    "{}: another run is using this output_dir: wait for it, stop it, or choose another folder",
                    path.display()
                )));
            }
            Err(TryLockError::Error(e)) => {
                // Some cluster file systems do not support locks; run without protection there.
                tracing::warn!(
                    "{} cannot be locked ({e}): make sure that no other run uses this folder",
                    path.display()
                );
                return Ok(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_stays_until_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, _) = RunDir::open(folder.path(), &Resume::None, false).unwrap();
        let names = || -> Vec<String> {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let files =
            [CONFIG, METRICS, REPORT, ".config.toml.tmp", ".metrics.jsonl.tmp", ".report.html.tmp", ".mine.tmp"];
        files.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
        let checkpoint = dir.checkpoint(1);
        fs::create_dir(&checkpoint).unwrap();
        fs::create_dir(dir.checkpoint(2)).unwrap();
        fs::create_dir(folder.path().join(".checkpoint-3.tmp")).unwrap();
        dir.begin(Some(&checkpoint)).unwrap();
        assert_eq!(names(), [".lock", ".mine.tmp", "checkpoint-1", CONFIG, METRICS, REPORT]);
        // From scratch, the page is that of another run.
        dir.begin(None).unwrap();
        assert_eq!(names(), [".lock", ".mine.tmp", CONFIG, METRICS]);
        assert!(dir.holds_a_run());
    }
}
