//! Jobs in Slurm: creates the batch script and submits it by `sbatch`.
//!
//! The script is rendered from a template, `launch/slurm/job.sh.jinja` or the user's. It starts the ranks by `srun` or
//! `mpirun`, forwards signals to them, and requeues the job at its time limit.

mod time;

use super::job::{Job, Variable, quote};
use crate::checkpoint::run_dir;
use crate::config::Backend;
use crate::error::{Context, Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

const TEMPLATE: &str = include_str!("../../launch/slurm/job.sh.jinja");

/// Default seconds between the signal and the time limit, and the divisor of the limit that bounds them.
const SIGNAL_BEFORE: u64 = 300;
const SIGNAL_SHARE: u64 = 4;

/// The launcher of the ranks inside the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Launcher {
    /// `srun --mpi=pmix`.
    #[default]
    Srun,
    /// Open MPI's `mpirun`, which finds the nodes of the job.
    Mpirun,
}

/// GPUs per node, with a type if there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    pub kind: Option<String>,
    pub count: usize,
}

impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.kind.as_ref().map_or(Ok(()), |kind| write!(f, "{kind}:"))?;
        write!(f, "{}", self.count)
    }
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, count) = text.rsplit_once(':').map_or((None, text), |(kind, count)| (Some(kind.to_owned()), count));
        let count = count.parse().ok().filter(|&count| count > 0);
        let sound = kind.as_ref().is_none_or(|kind| !kind.is_empty());
        count
            .filter(|_| sound)
            .map(|count| Gpus { kind, count })
            .ok_or_else(|| "expected 8, or with a type h100:8".into())
    }
}

/// Slurm's options of a job. Values are copied to the script; `None` uses the cluster's default.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub nodes: usize,
    /// One rank per GPU. Without GPUs the job's number of ranks is per node.
    pub gpus_per_node: Option<Gpus>,
    pub partition: Option<String>,
    pub account: Option<String>,
    pub qos: Option<String>,
    /// In sbatch's format: `90`, `1:30:00`, `2-12`.
    pub time: Option<String>,
    pub job_name: Option<String>,
    pub launcher: Launcher,
    /// Seconds between the signal and the time limit.
    pub signal_before: Option<u32>,
    pub modules: Vec<String>,
    /// An Apptainer image (a `.sif` file, or with `://`), else a pyxis image.
    pub container: Option<String>,
    /// A file with shell commands.
    pub setup: Option<PathBuf>,
    /// Replaces the built-in template.
    pub template: Option<PathBuf>,
    /// Additional options for sbatch.
    pub sbatch_args: Vec<String>,
    /// Whether the job is requeued at its time limit.
    pub requeue: bool,
}

impl Batch {
    /// Returns the batch script.
    ///
    /// # Errors
    /// Kind `Input` for incompatible options, and for a template that cannot be read or rendered.
    pub fn script(&self, job: &Job) -> Result<String> {
        let (name, template) = match &self.template {
            Some(file) => (
                file.display().to_string(),
                fs::read_to_string(file).input_context(format!("--template {}", file.display()))?,
            ),
            None => ("launch/slurm/job.sh.jinja".into(), TEMPLATE.into()),
        };
        let is_apptainer =
            self.container.as_ref().is_some_and(|image| image.ends_with(".sif") || image.contains("://"));
        if self.container.is_some() && !is_apptainer && self.launcher == Launcher::Mpirun {
            return Err(Error::input(
                "--container: an image that is not a .sif file needs pyxis, a plugin of srun: use --launcher srun",
            ));
        }
        if let Some(setup) = self.setup.as_ref().filter(|setup| !setup.is_file()) {
            return Err(Error::input(format!("--setup {}: no such file", setup.display())));
        }
        self.check(job, is_apptainer)?;
        let image = |wanted| self.container.as_deref().filter(|_| is_apptainer == wanted);
        let path = |path: &PathBuf| path.display().to_string();
        let Batch { partition, account, qos, time, nodes, requeue, sbatch_args, modules, .. } = self.clone();
        // Like `restart::resume` for `trainer launch`.
        let replaces = job.resume != "auto" && (job.resume != "none" || job.config.overwrite_output_dir);
        let context = context! {
            config => job.config_file.as_ref().map(path),
            job_name => self.job_name.clone().unwrap_or_else(|| default_name(job)),
            partition, account, qos, time, nodes, requeue, sbatch_args, modules,
            gpus_per_node => self.gpus_per_node.as_ref().map(Gpus::to_string),
            ranks_per_node => self.ranks_per_node(job)?,
            cpus_per_task => job.threads,
            signal_before => self.signal_before()?,
            launcher_args => job.mpi_args.clone(),
            // The shell would search for a name without a slash in PATH.
            setup => self.setup.as_ref().map(|file| path(&Path::new(".").join(file))),
            environment => environment(job)?,
            launcher => match self.launcher { Launcher::Srun => "srun", Launcher::Mpirun => "mpirun" },
            apptainer => image(true), pyxis => image(false),
            command => quote(&self.rank_command(job)),
            resume => job.resume.clone(),
            replaces, submitted => mark(&job.config.output_dir),
            output_dir => path(&job.config.output_dir),
            max_restarts => job.max_restarts,
        };
        render(&name, &template, context)
    }

    /// Checks for errors that would otherwise appear only after waiting in the queue.
    fn check(&self, job: &Job, is_apptainer: bool) -> Result<()> {
        let (backend, ranks) = (job.config.comm.backend, self.nodes * self.ranks_per_node(job)?);
        if backend == Backend::Solo && ranks > 1 {
            return Err(Error::input(format!(
                "comm.backend = \"solo\" is for one rank, but this job has {ranks}: use \"auto\""
            )));
        }
        if backend == Backend::Mpi && self.gpus_per_node.is_some() {
            return Err(Error::input(
                "--gpus-per-node, but comm.backend = \"mpi\" trains on the CPU: use \"auto\", or -n N without GPUs",
            ));
        }
        let asks = |arg: &&String| arg.starts_with("-G") || arg.contains("gpu");
        if let Some(arg) = self.sbatch_args.iter().find(asks).filter(|_| self.gpus_per_node.is_none()) {
            return Err(Error::input(format!(
                "--sbatch-arg {arg}: the script needs the number of GPUs; set --gpus-per-node N or TYPE:N instead"
            )));
        }
        if let Some(image) = self.container.as_ref().filter(|image| is_apptainer && !image.contains("://")) {
            fs::metadata(image).input_context(format!("--container {image}"))?;
        }
        Ok(())
    }

    /// # Errors
    /// If the number of ranks is missing or set twice.
    fn ranks_per_node(&self, job: &Job) -> Result<usize> {
        match (self.gpus_per_node.as_ref().map(|gpus| gpus.count), job.ranks) {
            (Some(ranks), None) | (None, Some(ranks)) => Ok(ranks),
            (None, None) => Err(Error::input(
                "--slurm: the number of ranks per node is missing: set --gpus-per-node N, or -n N for ranks on the CPU",
            )),
            (Some(_), Some(_)) => Err(Error::input(
                "-n and --gpus-per-node: there is one rank per GPU; with --slurm, -n is for ranks on the CPU",
            )),
        }
    }

    /// Returns the seconds before the time limit at which the ranks get the signal.
    fn signal_before(&self) -> Result<u64> {
        let limit = self.time.as_deref().map(time::seconds).transpose()?.flatten();
        match (self.signal_before, limit) {
            (Some(before), Some(limit)) if u64::from(before) >= limit => Err(Error::input(format!(
                "--signal-before {before}: the time limit of the job is {limit} seconds (--time {})",
                self.time.as_deref().unwrap_or_default()
            ))),
            (Some(before), _) => Ok(before.into()),
            (None, Some(limit)) => Ok(SIGNAL_BEFORE.min(limit / SIGNAL_SHARE)),
            (None, None) => Ok(SIGNAL_BEFORE),
        }
    }

    /// Returns a rank's arguments without `--resume`, which depends on the history. A container has its own program.
    fn rank_command(&self, job: &Job) -> Vec<String> {
        let mut job = Job { resume: "none".into(), ..job.clone() };
        if self.container.is_some() {
            job.program = "trainer".into();
        }
        job.rank_command()
    }
}

/// Returns the latest checkpoint and its time, in the format of the script's function `mark`.
fn mark(output_dir: &Path) -> String {
    let latest = run_dir::newest_complete(output_dir);
    let seconds = latest.as_ref().and_then(|(_, mark)| mark.metadata().ok()).map(|data| data.mtime().to_string());
    format!("{} {}", latest.map_or(0, |(step, _)| step), seconds.unwrap_or_default())
}

/// Submits a script by `sbatch`, which prints the job id to standard output.
///
/// # Errors
/// If there is no `sbatch`, or it rejects the job; its reason is on standard error.
pub fn submit(script: &str) -> Result<()> {
    let mut sbatch = Command::new("sbatch").stdin(Stdio::piped()).spawn().map_err(|e| {
        Error::other(format!(
            "sbatch: {e}: submit on a machine that has Slurm's commands, such as a login node; --dry-run prints the script"
        ))
    })?;
    // An `sbatch` that exits without reading has printed its reason.
    let sent = sbatch.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
    let status = sbatch.wait().context("sbatch")?;
    match sent {
        _ if !status.success() => Err(Error::other(format!("sbatch rejected the job ({status})"))),
        Some(Err(e)) => Err(Error::from(e).context("sbatch")),
        _ => Ok(()),
    }
}

fn default_name(job: &Job) -> String {
    let stem = job.config_file.as_ref().and_then(|file| file.file_stem());
    stem.map_or_else(|| "trainer".into(), |stem| stem.to_string_lossy().into_owned())
}

fn environment(job: &Job) -> Result<Vec<Value>> {
    let pair = |variable: &Variable| Ok(context! { name => variable.name.clone(), value => variable.here()? });
    job.environment.iter().map(pair).collect()
}

fn render(name: &str, template: &str, context: Value) -> Result<String> {
    let mut jinja = Environment::new();
    if let Ok(syntax) =
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()
    {
        jinja.set_syntax(syntax);
    }
    jinja.set_undefined_behavior(UndefinedBehavior::Strict);
    jinja.add_filter("sh", shell_word);
    jinja.render_named_str(name, template, context).map_err(|e| {
        let line = e.line().map_or_else(String::new, |line| format!(":{line}"));
        Error::input(format!("{name}{line}: {}", e.detail().map_or_else(|| e.kind().to_string(), str::to_owned)))
    })
}

/// The filter `sh`. A line break would start a new line of the script, even in a comment.
fn shell_word(word: String) -> Result<String, minijinja::Error> {
    if word.contains(['\n', '\r', '\0']) {
        let why = format!("{word:?} contains a line break or a NUL byte, which a batch script cannot contain");
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, why));
    }
    Ok(shell_words::quote(&word).into_owned())
}
