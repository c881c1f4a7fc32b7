//! Records steps of a run with libtorch's profiler (`train.profile`), on every rank.

use crate::comm::Collective;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::ffi::device::synchronize;
use crate::ffi::profiler;
use crate::observe::logs::warn;
use std::path::PathBuf;

/// The steps to record.
#[derive(Debug)]
pub struct Profiling {
    /// The first and the last.
    steps: Option<(u64, u64)>,
    records: bool,
    trace: PathBuf,
}

impl Profiling {
    /// Determines the steps of a run that goes on after `done` of `total` steps. If it was interrupted within them, rank
    /// 0 warns that they are not recorded.
    ///
    /// # Errors
    /// Exit 2 for steps that the run does not have.
    pub fn new(config: &Config, comm: &dyn Collective, done: u64, total: u64) -> Result<Self> {
        let trace = config.output_dir.join(format!("trace-rank{}.json", comm.rank()));
        let steps = config.train.profile.map(|steps| steps.of(total));
        match (steps, config.train.profile) {
            (Some((_, last)), Some(wanted)) if last > total => {
                Err(Error::input(format!("train.profile: {wanted}: the run has only {total} steps")).shared())
            }
            _ => {
                if let Some(why) = steps.and_then(|steps| missed(steps, done)).filter(|_| comm.is_main()) {
                    warn(&why);
                }
                Ok(Profiling { steps: steps.filter(|(first, _)| *first > done), records: false, trace })
            }
        }
    }

    /// Starts the profiler if `step` is the first of the steps to record.
    pub fn before(&mut self, step: u64) -> Result<()> {
        if self.steps.is_some_and(|(first, _)| step == first) {
            profiler::start()?;
            self.records = true;
        }
        Ok(())
    }

    /// Writes the trace after the last of the steps; returns its file then.
    ///
    /// # Errors
    /// The system's error.
    pub fn after(&mut self, step: u64, comm: &dyn Collective) -> Result<Option<&PathBuf>> {
        if !self.records || self.steps.is_none_or(|(_, last)| step != last) {
            return Ok(None);
        }
        self.records = false;
        synchronize(comm.device())?;
        // The folder is rank 0's, which another host may not have.
        let folder = self.trace.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder.context(self.trace.display())?;
        profiler::stop(&self.trace)?;
        Ok(Some(&self.trace))
    }
}

/// Returns why there is no trace if a run goes on after `done` steps within the first and the last step to record.
fn missed((first, last): (u64, u64), done: u64) -> Option<String> {
    (first <= done && done < last).then(|| {
        format!(
            "train.profile: no trace is written, because the run goes on at step {} and the recording of steps {first} to \
             {last} begins with the first of them: choose later steps",
            done + 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_recording_is_reported() {
        for done in [0, 9, 12, 20] {
            assert_eq!(missed((10, 12), done), None, "{done} steps done");
        }
        for done in [10, 11] {
            let why = missed((10, 12), done).unwrap();
            assert!(
                why.contains(&format!("goes on at step {} and the recording of steps 10 to 12", done + 1)),
                "{why}"
            );
        }
    }
}
