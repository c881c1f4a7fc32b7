//! Whether a job that has ended is started again.

use crate::checkpoint::run_dir;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Starts in a row without a new checkpoint after which another one is no use.
const FRUITLESS: usize = 2;

/// What comes after an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Leave with the job's exit code; why no other start would help, where there was a choice.
    Leave(Option<String>),
    /// Start again after this time.
    Again(Duration),
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// How often the job was started again.
    pub restarts: usize,
    /// How many starts in a row, the last one included, left no new checkpoint.
    pub fruitless: usize,
    /// Whether a rank of any start has said anything.
    pub spoke: bool,
}

/// Decides. A fault of a machine or of a peer passes; what follows from the configuration, the data and the weights comes
/// again. `stopped`: somebody asked the job to end.
pub fn next(code: i32, stopped: bool, history: History, max_restarts: usize) -> Next {
    let leave = |why: &str| Next::Leave(Some(why.to_owned()));
    match code {
        0 | 3 => Next::Leave(None),
        _ if stopped => Next::Leave(None),
        2 => leave("not started again: bad configuration or data does not heal"),
        4 => leave("not started again: it would come to the same loss"),
        6 => leave("not started again: it would run out of memory again (docs/large-models.md has the remedies)"),
        _ if max_restarts == 0 => Next::Leave(None),
        _ if !history.spoke => leave("not started again: mpirun could not start the ranks"),
        _ if history.restarts >= max_restarts => {
            Next::Leave(Some(format!("not started again: {} is the most (--max-restarts)", times(max_restarts))))
        }
        _ if history.fruitless >= FRUITLESS => Next::Leave(Some(format!(
            "not started again: {FRUITLESS} starts in a row ended before a new checkpoint, so it comes no further"
        ))),
        _ => Next::Again(pause(history.restarts)),
    }
}

/// 2, 4, 8 ... seconds, at most a minute: a host may have to come back.
fn pause(restarts: usize) -> Duration {
    Duration::from_secs(2 << restarts.min(5)).min(Duration::from_secs(60))
}

fn times(n: usize) -> String {
    if n == 1 { "1 restart".into() } else { format!("{n} restarts") }
}

/// The newest complete checkpoint of a run folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    pub step: u64,
    /// A run that replaced another one may write the same step again.
    written: Option<SystemTime>,
}

impl Newest {
    /// Looks into a run folder.
    pub fn of(run: &Path) -> Option<Newest> {
        let (step, mark) = run_dir::newest_complete(run)?;
        Some(Newest { step, written: mark.metadata().and_then(|data| data.modified()).ok() })
    }
}

/// `--resume` of a start after a fault. From the newest checkpoint, but never from one that was there before the job
/// (`of_this_job` says whether one of its own is) if the job was told not to take it: `overwrite` then still stands.
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

    const FIRST: History = History { restarts: 0, fruitless: 1, spoke: true };

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
        let after = |restarts, fruitless| next(137, false, History { restarts, fruitless, spoke: true }, 9);
        assert_eq!(after(2, 0), Next::Again(Duration::from_secs(8)));
        assert_eq!(after(8, 1), Next::Again(Duration::from_secs(60)));
        let Next::Leave(Some(why)) = next(1, false, History { spoke: false, ..FIRST }, 9) else { panic!() };
        assert!(why.contains("could not start the ranks"), "{why}");
        let Next::Leave(Some(why)) = after(9, 0) else { panic!() };
        assert!(why.contains("9 restarts is the most"), "{why}");
        let Next::Leave(Some(why)) = after(1, 2) else { panic!() };
        assert!(why.contains("2 starts in a row"), "{why}");
    }

    #[test]
    fn the_newest_complete_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(Newest::of(run.path()), None);
        for (name, complete) in [("checkpoint-5", true), ("checkpoint-20", true), ("checkpoint-100", false)] {
            std::fs::create_dir(run.path().join(name)).unwrap();
            if complete {
                std::fs::write(run.path().join(name).join("COMPLETE"), "").unwrap();
            }
        }
        let newest = Newest::of(run.path()).unwrap();
        assert_eq!((newest.step, Newest::of(run.path())), (20, Some(newest)));
    }

    #[test]
    fn a_start_after_a_fault_goes_on() {
        assert_eq!(resume("auto", false, false), "auto");
        assert_eq!(resume("none", true, true), "auto");
        assert_eq!(resume("none", false, false), "auto");
        assert_eq!(resume("none", false, true), "none", "an older run in the folder is still to be replaced");
        assert_eq!(resume("elsewhere/checkpoint-7", false, false), "elsewhere/checkpoint-7");
        assert_eq!(resume("elsewhere/checkpoint-7", true, false), "auto");
    }
}
