//! The folder of a run: its lock, its checkpoints, its metrics.

use crate::checkpoint::TrainerState;
use crate::checkpoint::folder::{self, COMPLETE};
use crate::checkpoint::tensors::TensorFile;
use crate::error::{Context, Error, Result};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a run starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From the model's weights; a folder that holds a run is an error.
    None,
    /// From the newest sound checkpoint of the folder, or from the model's weights when there is none.
    Auto,
    /// From this checkpoint.
    Path(PathBuf),
}

/// How long to wait for a predecessor that is still dying: ranks outlive a killed mpirun by about two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A run's folder, locked for this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// The folders that were made for it, the outermost last.
    made: Vec<PathBuf>,
    _lock: File,
}

/// The name of the file that is locked while a run is at work.
const LOCK: &str = ".lock";

impl Drop for RunDir {
    fn drop(&mut self) {
        // Whoever waits for the lock sees that the file is gone, and makes another.
        _ = fs::remove_file(self.path.join(LOCK));
        // What is not empty stays.
        _ = self.made.iter().try_for_each(fs::remove_dir);
    }
}

/// The newest complete checkpoint of a run folder, by its step, and the file that marks it complete. Looks, and locks
/// nothing: for those who watch a run.
pub fn newest_complete(path: &Path) -> Option<(u64, PathBuf)> {
    let mark = |step: u64| (step, path.join(format!("checkpoint-{step}")).join(COMPLETE));
    steps_in(path).into_iter().rev().map(mark).find(|(_, mark)| mark.exists())
}

/// The steps that have a folder, complete or not, in ascending order.
fn steps_in(path: &Path) -> Vec<u64> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut steps: Vec<u64> =
        entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

impl RunDir {
    /// Opens, and makes where needed, the folder of a run, and finds the checkpoint to start from.
    ///
    /// # Errors
    /// Exit 2: no permission, another run at work in it, a run already in it that is neither resumed nor overwritten,
    /// or a checkpoint that is named but not sound.
    pub fn open(path: &Path, resume: &Resume, overwrite: bool) -> Result<(Self, Option<PathBuf>)> {
        let made = path.ancestors().take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        fs::create_dir_all(path).input_context(format!("output_dir {}: cannot be made", path.display()))?;
        let dir = RunDir { path: path.to_owned(), made, _lock: lock(&path.join(LOCK))? };
        let from = match resume {
            Resume::Path(checkpoint) => {
                sound(checkpoint)?;
                Some(checkpoint.clone())
            }
            Resume::Auto => dir.newest_sound()?,
            Resume::None => None,
        };
        let own = from.as_deref().and_then(|from| dir.step_of(from));
        // A run that was killed before its first checkpoint left nothing that --resume auto could lose.
        let holds = if *resume == Resume::Auto { dir.finished().exists() } else { dir.holds_a_run() };
        if own.is_none() && holds && !overwrite {
            let auto = if *resume == Resume::Auto {
                "it has no checkpoint to go on from"
            } else {
                "go on with it by --resume auto"
            };
            return Err(Error::input(format!(
                "output_dir {} holds a run already: {auto}, \
                 replace it by overwrite_output_dir=true, or choose another folder",
                path.display()
            )));
        }
        Ok((dir, from))
    }

    /// Whether [`RunDir::begin`] would remove this folder, or one around it.
    pub fn would_remove(&self, folder: &Path, from: Option<&Path>) -> bool {
        let Ok(folder) = fs::canonicalize(folder) else { return false };
        let step = from.and_then(|from| self.step_of(from));
        let later = self.steps_after(step).into_iter().map(|step| self.checkpoint(step));
        later
            .chain([self.finished()])
            .filter_map(|ours| fs::canonicalize(ours).ok())
            .any(|ours| folder.starts_with(ours))
    }

    /// Whether the checkpoint of a step is one that a run can go on from.
    pub fn is_sound(&self, step: u64) -> bool {
        sound(&self.checkpoint(step)).is_ok()
    }

    fn steps_after(&self, step: Option<u64>) -> Vec<u64> {
        self.steps().into_iter().filter(|&later| step.is_none_or(|step| later > step)).collect()
    }

    /// Removes what an earlier run left after the checkpoint that this one goes on from, so that its files are never
    /// taken for this one's. To be called when everything else is ready: a mistake must not cost a finished run.
    ///
    /// # Errors
    /// The file's name and what the system says.
    pub fn begin(&self, from: Option<&Path>) -> Result<()> {
        self.clear_after(from.and_then(|from| self.step_of(from)))?;
        self.clear_temporary()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metrics file.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The folder of a step's checkpoint.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path.join(format!("checkpoint-{step}"))
    }

    /// The folder of the finished model.
    pub fn finished(&self) -> PathBuf {
        self.path.join("final")
    }

    /// The steps that have a folder, complete or not, in ascending order.
    pub fn steps(&self) -> Vec<u64> {
        steps_in(&self.path)
    }

    /// Removes the oldest checkpoints until `limit` are left; the best one is kept and counts.
    ///
    /// # Errors
    /// The folder's name and what the system says.
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
        !self.steps().is_empty() || ["config.toml", "metrics.jsonl", "final"].iter().any(|n| self.path.join(n).exists())
    }

    /// The newest checkpoint that a run can go on from; `None` when none was ever completed.
    fn newest_sound(&self) -> Result<Option<PathBuf>> {
        let mut damaged = None;
        for path in self.steps().into_iter().rev().map(|step| self.checkpoint(step)) {
            match sound(&path) {
                Ok(()) => return Ok(Some(path)),
                Err(e) => {
                    tracing::warn!("passed over: {e}");
                    damaged = damaged.or(path.join(COMPLETE).exists().then_some(e));
                }
            }
        }
        // Starting anew would remove what may still be of use to somebody.
        damaged.map_or(Ok(None), |e| {
            Err(e.context("no checkpoint is sound; start anew by overwrite_output_dir=true and --resume none"))
        })
    }

    /// The step of a checkpoint that lies in this folder.
    pub fn step_of(&self, checkpoint: &Path) -> Option<u64> {
        let same = |a: &Path, b: &Path| fs::canonicalize(a).ok() == fs::canonicalize(b).ok();
        self.steps().into_iter().find(|&step| same(&self.checkpoint(step), checkpoint))
    }

    fn clear_after(&self, step: Option<u64>) -> Result<()> {
        for later in self.steps_after(step) {
            let path = self.checkpoint(later);
            if path.join(COMPLETE).exists() && !self.is_sound(later) {
                // Complete once, unreadable now: a person may still get something out of it.
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
        for name in ["config.toml", "metrics.jsonl"] {
            let file = self.path.join(name);
            if file.exists() {
                fs::remove_file(&file).context(file.display())?;
            }
        }
        Ok(())
    }

    fn clear_temporary(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).context(self.path.display())?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = name.starts_with(".checkpoint-") || name.starts_with(".final.");
            if ours && name.ends_with(".tmp") && entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).context(entry.path().display())?;
            }
        }
        Ok(())
    }
}

/// Whether a folder is a checkpoint that a run can go on from.
fn sound(path: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::input(format!("{}: {why}", path.display())));
    if !path.is_dir() {
        return refuse("no such checkpoint");
    }
    if path.join("metrics.jsonl").exists() {
        return refuse("the folder of a run, not a checkpoint: go on with it by output_dir and --resume auto");
    }
    if !path.join(COMPLETE).exists() {
        return refuse(&format!("not a complete checkpoint (no file {COMPLETE})"));
    }
    TrainerState::read(path)?;
    TensorFile::open(&path.join("model.safetensors"))?;
    TensorFile::open(&path.join(super::optimizer::MOMENTS))?;
    let masters = path.join(super::optimizer::MASTERS);
    if masters.exists() { TensorFile::open(&masters).map(|_| ()) } else { Ok(()) }
}

/// Whether this is the file of that name, and not one that had it before.
fn is_file(file: &File, path: &Path) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(place).ok() == fs::metadata(path).map(place).ok()
}

fn lock(path: &Path) -> Result<File> {
    let create = || File::create(path).input_context(format!("output_dir: {} cannot be written", path.display()));
    let mut file = create()?;
    let start = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            // The run that had it has removed it: another one may be there now.
            Ok(()) if !is_file(&file, path) => file = create()?,
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("waiting for another run to leave this output_dir");
                }
                std::thread::sleep(Duration::from_millis(200))
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::input(format!(
                    "{}: another run is at work in this output_dir: wait for it, end it, or choose another",
                    path.display()
                )));
            }
            Err(TryLockError::Error(e)) => {
                // Some cluster file systems have no locks: a run there is worth more than the protection.
                tracing::warn!(
                    "{} cannot be locked ({e}): make sure that no other run uses this folder",
                    path.display()
                );
                return Ok(file);
            }
        }
    }
}
