//! What a person sees: logs, progress, metrics files, memory.

mod log_format;
pub mod logs;
pub mod memory;
pub mod metrics_file;
pub mod progress;
mod screen;
pub mod signals;
pub mod table;

use std::io::Write;

/// Writes to standard output. A reader that has gone away (`| head`) must not end anything.
pub fn print(text: &str) {
    _ = std::io::stdout().write_all(text.as_bytes());
}

/// This process's rank as the launcher says it, before any collective is there: 0 without a launcher.
pub fn rank_of_environment() -> usize {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .unwrap_or(0)
}
