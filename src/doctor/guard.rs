//! Some MPI libraries end the process inside `MPI_Init` when they do not understand who started it: Open MPI does under
//! another MPI's launcher, and under an `srun` whose PMI it was not built with. Then a process of its own tries first,
//! and this one is left to explain.

use super::facts::Launch;
use crate::comm::exit_now;
use crate::comm::mpi::library_version;
use crate::error::Kind;
use std::process::{Command, ExitStatus};

/// Marks the process that tries.
const INNER: &str = "TRAINER_DOCTOR_INNER";

/// Where MPI may end this process: runs the same command as a child, and leaves with its exit code once it has spoken.
/// Returns where there is nothing to fear, or with the reason why MPI cannot be started here.
pub fn try_first(launch: &Launch) -> Option<String> {
    if !is_risky(launch, &library_version()) || std::env::var_os(INNER).is_some() {
        return None;
    }
    let child = std::env::current_exe().and_then(|program| {
        // What the launcher handed down, open files included, is the child's too: to MPI it is the rank.
        Command::new(program).args(std::env::args_os().skip(1)).env(INNER, "1").status()
    });
    match child {
        Ok(status) if has_spoken(status) => exit_now(status.code().unwrap_or_default()),
        Ok(status) => Some(format!(
            "a process that tried it was ended by the MPI library ({status}), whose own words stand above"
        )),
        Err(e) => Some(format!("no process could be started to try it: {e}")),
    }
}

/// Open MPI finds its ranks by PMIx. What else announces ranks is not its own launcher.
fn is_risky(launch: &Launch, library: &str) -> bool {
    launch.mpi && !launch.pmix && library.starts_with("Open MPI")
}

/// Whether these are the doctor's own last words: MPI's own exit code is 1, or a signal.
fn has_spoken(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| code == 0 || Kind::from_exit_code(code) != Kind::Other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_another_launcher_is_risky() {
        let launch = |mpi, pmix| Launch { mpi, pmix, ..Launch::default() };
        assert!(is_risky(&launch(true, false), "Open MPI v4.1.4"));
        assert!(!is_risky(&launch(true, true), "Open MPI v4.1.4"));
        assert!(!is_risky(&launch(false, false), "Open MPI v4.1.4"));
        assert!(!is_risky(&launch(true, false), "MPICH Version: 4.0.2"));
    }

    #[test]
    fn the_end_of_a_process_tells_who_ended_it() {
        let ended = |raw| has_spoken(ExitStatus::from_raw(raw));
        assert!(ended(0) && ended(2 << 8) && ended(5 << 8));
        assert!(!ended(1 << 8) && !ended(9));
    }
}
