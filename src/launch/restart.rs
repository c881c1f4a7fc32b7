//! Decides whether to restart a job.

use crate::checkpoint::run_dir;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Number of consecutive starts without a new checkpoint after which restarts stop.
const FRUITLESS: usize = 2;

/// Decision after the end of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Exit with the job's exit code; the reason why a restart would not help, if restarts were allowed.
    Leave(Option<String>),
    /// Restart after this time.
    Again(Duration),
}

/// History of the starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    pub restarts: usize,
    /// Number of consecutive starts, including the last, without a new checkpoint.
    pub fruitless: usize,
    /// Whether a rank of any start has written output.
    pub had_output: bool,
}

/// Decides about a restart: faults of a machine or a peer are transient; errors of configuration, data or weights are
/// not. `stopped`: a stop was requested.
pub fn next(code: i32, stopped: bool, history: History, max_restarts: usize) -> Next {
    let leave = |why: &str| Next::Leave(Some(why.to_owned()));
    match code {
        0 | 3 => Next::Leave(None),
        _ if stopped => Next::Leave(None),
        2 => leave("not restarted: the configuration or the data must be corrected"),
        4 => leave("not restarted: the loss would be NaN or Inf again"),
        6 => leave("not restarted: it would run out of memory again (remedies: docs/large-models.md)"),
        _ if max_restarts == 0 => Next::Leave(None),
        _ if !history.had_output => leave("not restarted: mpirun could not start the ranks"),
        _ if history.restarts >= max_restarts => {
            Next::Leave(Some(format!("not restarted: limit of {} reached (--max-restarts)", times(max_restarts))))
        }
        _ if history.fruitless >= FRUITLESS => {
            Next::Leave(Some(format!("not restarted: {FRUITLESS} consecutive starts ended before a new checkpoint")))
        }
        _ => Next::Again(pause(history.restarts)),
    }
}

/// Returns 2, 4, 8 ... seconds, at most a minute, because a host may need time to recover.
fn pause(restarts: usize) -> Duration {
    Duration::from_secs(2 << restarts.min(5)).min(Duration::from_secs(60))
}

fn times(n: usize) -> String {
    if n == 1 { "1 restart".into() } else { format!("{n} restarts") }
}

/// The latest complete checkpoint of a run folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatestCheckpoint {
    pub step: u64,
    /// Time of writing: a run that replaced another may write the same step again.
    written: Option<SystemTime>,
}

impl LatestCheckpoint {
    /// Finds it in a run folder.
    pub fn of(run: &Path) -> Option<LatestCheckpoint> {
        let (step, mark) = run_dir::newest_complete(run)?;
        Some(LatestCheckpoint { step, written: mark.metadata().and_then(|data| data.modified()).ok() })
    }
}

/// Returns `--resume` for a restart: from the latest checkpoint, but never from one older than the job (`of_this_job`:
/// it has written one itself) if the job should replace it; `overwrite` still applies then.
pub fn resume(asked: &str, of_this_job: bool, overwrite: bool) -> &str {
    match asked {
        "none" if of_this_job || !overwrite => "auto",
        _ if of_this_job => "auto",
        asked => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: History = History { restarts: 0, fruitless: 1, had_output: true };

    #[test]
    fn what_does_not_heal_is_not_tried_again() {
        for (code, word) in [(2, "configuration"), (4, "loss"), (6, "memory")] {
            let Next::Leave(Some(why)) = next(code, false, FIRST, 3) else { panic!("exit {code}") };
            assert!(why.contains(word), "{why}");
        }
        for code in [0, 3] {
            assert_eq!(next(code, false, FIRST, 3), Next::Leave(None));
        }
        for code in [1, 5, 134, 137, 139, 255] {
            assert_eq!(next(code, false, FIRST, 3), Next::Again(Duration::from_secs(2)), "exit {code}");
            assert_eq!(next(code, true, FIRST, 3), Next::Leave(None), "exit {code}, asked to stop");
            assert_eq!(next(code, false, FIRST, 0), Next::Leave(None), "exit {code}");
        }
    }

    #[test]
    fn it_gives_up_in_the_end() {
        let after = |restarts, fruitless| next(137, false, History { restarts, fruitless, had_output: true }, 9);
        assert_eq!(after(2, 0), Next::Again(Duration::from_secs(8)));
        assert_eq!(after(8, 1), Next::Again(Duration::from_secs(60)));
        let Next::Leave(Some(why)) = next(1, false, History { had_output: false, ..FIRST }, 9) else { panic!() };
        assert!(why.contains("could not start the ranks"), "{why}");
        let Next::Leave(Some(why)) = after(9, 0) else { panic!() };
        assert!(why.contains("limit of 9 restarts reached"), "{why}");
        let Next::Leave(Some(why)) = after(1, 2) else { panic!() };
        assert!(why.contains("2 consecutive starts"), "{why}");
    }

    #[test]
    fn the_newest_complete_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(LatestCheckpoint::of(run.path()), None);
        for (name, complete) in [("checkpoint-5", true), ("checkpoint-20", true), ("checkpoint-100", false)] {
            std::fs::create_dir(run.path().join(name)).unwrap();
            if complete {
                std::fs::write(run.path().join(name).join("COMPLETE"), "").unwrap();
            }
        }
        let latest = LatestCheckpoint::of(run.path()).unwrap();
        assert_eq!((latest.step, LatestCheckpoint::of(run.path())), (20, Some(latest)));
    }

    #[test]
    fn a_start_after_a_fault_goes_on() {
        assert_eq!(resume("auto", false, false), "auto");
        assert_eq!(resume("none", true, true), "auto");
        assert_eq!(resume("none", false, false), "auto");
        assert_eq!(resume("none", false, true), "none", "an older run in the folder must still be replaced");
        assert_eq!(resume("elsewhere/checkpoint-7", false, false), "elsewhere/checkpoint-7");
        assert_eq!(resume("elsewhere/checkpoint-7", true, false), "auto");
    }
}
