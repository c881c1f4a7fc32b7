//! Some MPI libraries end the process inside `MPI_Init` when the launcher does not match: Open MPI does so under
//! another MPI's launcher, and under an `srun` whose PMI it was not built with. So a child process tries first, and
//! this process remains to report the cause.

use super::facts::Launch;
use crate::comm::exit_now;
use crate::comm::mpi::library_version;
use crate::error::Kind;
use std::process::{Command, ExitStatus};

/// Environment variable that marks the child process.
const INNER: &str = "TRAINER_DOCTOR_INNER";

/// If MPI may end this process, runs the same command as a child, and exits with its exit code once it has reported.
/// Returns `None` if there is no risk, or the reason why MPI cannot be started.
pub fn try_first(launch: &Launch) -> Option<String> {
    if !is_risky(launch, &library_version()) || std::env::var_os(INNER).is_some() {
        return None;
    }
    let child = std::env::current_exe().and_then(|program| {
        // The child inherits everything from the launcher, including open files: to MPI it is the rank.
        Command::new(program).args(std::env::args_os().skip(1)).env(INNER, "1").status()
    });
    match child {
        Ok(status) if has_reported(status) => exit_now(status.code().unwrap_or_default()),
        Ok(status) => {
            Some(format!("the MPI library ended the process that tried it ({status}); see its message above"))
        }
        Err(e) => Some(format!("no process could be started to try it: {e}")),
    }
}

/// Open MPI connects its ranks by PMIx. Other variables come from another launcher.
fn is_risky(launch: &Launch, library: &str) -> bool {
    launch.mpi && !launch.pmix && library.starts_with("Open MPI")
}

/// Whether the exit code is the doctor's: MPI's own is 1 or a signal.
fn has_reported(status: ExitStatus) -> bool {
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
    fn the_exit_status_shows_who_ended_the_process() {
        let ended = |raw| has_reported(ExitStatus::from_raw(raw));
        assert!(ended(0) && ended(2 << 8) && ended(5 << 8));
        assert!(!ended(1 << 8) && !ended(9));
    }
}
