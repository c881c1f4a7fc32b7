//! Logs through `tracing`, to standard error. `TRAINER_LOG` filters as `RUST_LOG` does elsewhere.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, with the rank.
    Json,
}

/// Starts logging for this process. Ranks other than 0 are silent below warnings unless `TRAINER_LOG` says otherwise.
pub fn start(format: LogFormat, rank: usize) {
    let default = if rank == 0 { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("TRAINER_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (a test, an embedding program) keeps the first subscriber.
    _ = match format {
        LogFormat::Text => builder.without_time().with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
