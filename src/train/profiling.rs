//! Records the last steps of a run with libtorch's profiler (`train.profile_steps`).

use crate::comm::Collective;
use crate::config::Config;
use crate::error::Result;
use crate::ffi::device::synchronize;
use crate::ffi::profiler;
use std::path::PathBuf;

/// Starts the profiler if `step` is the first of the steps to record, of those from `first` to `last`.
pub fn begin(config: &Config, comm: &dyn Collective, step: u64, [first, last]: [u64; 2]) -> Result<()> {
    let steps = config.train.profile_steps;
    let begins = comm.is_main() && steps > 0 && step == (last + 1).saturating_sub(steps).max(first);
    if begins { profiler::start() } else { Ok(()) }
}

/// Writes the trace after the last step; returns its file if there is one.
///
/// # Errors
/// The system's error.
pub fn end(config: &Config, comm: &dyn Collective) -> Result<Option<PathBuf>> {
    if !comm.is_main() || config.train.profile_steps == 0 {
        return Ok(None);
    }
    synchronize(comm.device())?;
    let path = config.output_dir.join("trace-rank0.json");
    profiler::stop(&path)?;
    Ok(Some(path))
}
