//! `trainer train`

use super::config_keys::OverrideParser;
use super::group::{backend, connect, join_to_leave};
use crate::checkpoint::run_dir::{self, Resume};
use crate::comm::{exit_now, is_launched, select, tell_listening};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::observe::progress::note;
use crate::observe::signals::{self, StopFlag};
use crate::observe::{logs, rank_of_environment};
use crate::train::{Ended, Start, Trainer};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The configuration file that is used when none is given.
pub const DEFAULT_CONFIG: &str = "trainer.toml";

/// `trainer train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Configuration file (TOML) [default: ./trainer.toml].
    pub(super) config: Option<PathBuf>,
    /// Settings that override the file: `learning_rate=3e-5`, or a dotted key where the bare key is ambiguous.
    #[arg(value_name = "KEY=VALUE", value_parser = OverrideParser, hide_possible_values = true)]
    pub(super) overrides: Vec<String>,
    /// Where to resume from: none, auto (the latest valid checkpoint of output_dir, if any), or a checkpoint folder.
    #[arg(long, default_value = "none")]
    pub(super) resume: String,
    /// Resume even if the order of the training data changes.
    #[arg(long)]
    pub(super) allow_new_data_order: bool,
    /// Print the complete configuration, defaults included, and exit.
    #[arg(long)]
    pub(super) print_config: bool,
}

impl Default for TrainArgs {
    fn default() -> Self {
        TrainArgs {
            config: None,
            overrides: Vec::new(),
            resume: "none".into(),
            allow_new_data_order: false,
            print_config: false,
        }
    }
}

/// Runs training.
///
/// # Errors
/// As [`Trainer::open`] and [`Trainer::run`]; exit 3 after a stop on a signal or at the time limit.
pub fn run(args: TrainArgs, began: Instant) -> Result<()> {
    let config = load(&args);
    if args.print_config {
        let config = config.map_err(|e| {
            join_to_leave();
            e.shared()
        })?;
        if rank_of_environment() == 0 {
            crate::observe::print(&config.to_commented_toml());
        }
        return Ok(());
    }
    let (backend, timeout, threads) = match &config {
        Ok(config) => (
            backend(config.comm.backend),
            Duration::from_secs_f64(config.comm.timeout_seconds),
            config.parallel.num_threads,
        ),
        // The ranks join even with an invalid configuration: rank 0 reports it, and all exit together.
        Err(_) => (select::Backend::Auto, Duration::from_secs(60), None),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = StopFlag::new();
    signals::listen(runtime.handle(), signals::ALWAYS, &stop, |_| tell_stop("SIGUSR1: ", ""), || interrupted_again())?;
    let comm = connect(backend, timeout, threads)?;
    // All ranks have joined, so all of them handle signals.
    if comm.is_main() {
        tell_listening();
    }
    let config = comm.agree(config, "reading the configuration")?;
    let output_dir = config.output_dir.clone();
    if comm.world() == 1 {
        let tell = |_| tell_stop("", "; Ctrl-C once more stops without one");
        signals::listen(runtime.handle(), signals::ALONE, &stop, tell, || interrupted_again())?;
    } else if comm.is_main() && !is_launched() {
        let output_dir = output_dir.clone();
        let tell = move |_| killed(&output_dir);
        signals::listen(runtime.handle(), &[signals::TERMINATE], &StopFlag::new(), tell, || ())?;
    }
    let resume = match args.resume.as_str() {
        "none" => Resume::None,
        "auto" => Resume::Auto,
        path => Resume::Path(PathBuf::from(path)),
    };
    let limit = config.train.max_time.map(|limit| Duration::from_secs(limit.0));
    let is_late = move |began: Instant| limit.is_some_and(|limit| began.elapsed() >= limit);
    if let Some(limit) = limit {
        let stop = stop.clone();
        runtime.spawn(async move {
            tokio::time::sleep(limit.saturating_sub(began.elapsed())).await;
            if !stop.raise() {
                tell_stop("train.max_time: ", "");
            }
        });
    }
    let start = Start { resume, allow_new_data_order: args.allow_new_data_order, began, stop };
    let ended = Trainer::open(config, comm, start)?.run()?;
    match ended {
        Ended::Finished => Ok(()),
        Ended::Stopped { step } => Err(Error::new(
            Kind::Stopped,
            format!(
                "stopped {} after step {step}; checkpoint written: {}. Continue with --resume auto",
                if is_late(began) { "by train.max_time" } else { "on a signal" },
                output_dir.join(format!("checkpoint-{step}")).display()
            ),
        )
        .shared()),
    }
}

/// Acknowledges a signal at once, since the step may take long. `trainer launch` does it for its ranks.
fn tell_stop(signal: &str, more: &str) {
    if rank_of_environment() == 0 && !is_launched() {
        note(&format!("trainer: {signal}stopping after this step, with a checkpoint{more}"));
    }
}

/// Reports the last checkpoint of a job that its launcher kills, and exits.
fn killed(output_dir: &Path) -> ! {
    let launcher = if std::env::var_os("OMPI_COMM_WORLD_RANK").is_some() {
        "SIGTERM: mpirun ends the ranks within about a second, without a checkpoint"
    } else {
        "SIGTERM: the ranks end without a checkpoint"
    };
    let last = match run_dir::newest_complete(output_dir) {
        Some((step, _)) => {
            let path = output_dir.join(format!("checkpoint-{step}"));
            format!("the last one is {}: --resume auto continues from it", path.display())
        }
        None => "there is no checkpoint yet".to_owned(),
    };
    note(&format!("trainer: {launcher}; {last}"));
    note("trainer: `trainer launch` writes one on Ctrl-C; so does kill -USR1 to mpirun");
    exit_now(143)
}

fn interrupted_again() -> ! {
    logs::tell_error("trainer: interrupted again: stopping without a checkpoint");
    exit_now(130)
}

/// Loads the configuration that the arguments name.
pub(super) fn load(args: &TrainArgs) -> Result<Config> {
    let (file, settings) = config_and_settings(args.config.clone(), args.overrides.clone());
    Config::load(file.as_deref(), &settings)
}

/// Returns the configuration file and the settings that override it, from the arguments of a command line.
pub(super) fn config_and_settings(
    mut file: Option<PathBuf>,
    mut settings: Vec<String>,
) -> (Option<PathBuf>, Vec<String>) {
    // `trainer train key=value` without a file: the first argument is a setting.
    if let Some(text) = file.as_ref().and_then(|f| f.to_str()).filter(|t| t.contains('=') && !Path::new(t).exists()) {
        settings.insert(0, text.to_owned());
        file = None;
    }
    (file.or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists())), settings)
}
