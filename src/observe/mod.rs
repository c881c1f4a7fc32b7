//! Output for the user: logs, progress, metrics files; and memory measurements.

pub mod event_file;
pub mod live;
mod log_format;
pub mod logs;
pub mod memory;
pub mod metrics_file;
pub mod page;
pub mod plot;
pub mod progress;
mod screen;
pub mod signals;
pub mod table;
pub mod tensorboard;

use std::io::Write;

/// Writes to standard output. Ignores a closed pipe (`| head`).
pub fn print(text: &str) {
    _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns this process's rank from the launcher's environment, before ranks are connected: 0 without a launcher.
pub fn rank_of_environment() -> usize {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .unwrap_or(0)
}
