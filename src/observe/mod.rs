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
pub mod whole_file;

use crate::error::{Error, Result};
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

/// Why a text could not be written by [`print()`].
static UNPRINTED: OnceLock<String> = OnceLock::new();

/// Writes to standard output. A file there that cannot grow is reported by [`printed`]; a closed pipe (`| head`) or
/// terminal is ignored.
pub fn print(text: &str) {
    let mut out = io::stdout();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Some(why) = written.err().and_then(|e| loss(&e)) {
        _ = UNPRINTED.set(why);
    }
}

/// Returns the message for an output that lacks what was to be written to it.
fn loss(e: &io::Error) -> Option<String> {
    let cannot_grow = matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded);
    cannot_grow.then(|| format!("standard output: {e}"))
}

/// Checks that all texts were written by [`print()`].
///
/// # Errors
/// Exit 1: standard output is a file on a full disk, or at the limit of `ulimit -f`. Only the rank that prints knows
/// it; the others have done their work, so that all exit together.
pub fn printed() -> Result<()> {
    UNPRINTED.get().map_or(Ok(()), |why| Err(Error::other(why).shared()))
}

/// Returns this process's rank from the launcher's environment, before ranks are connected: 0 without a launcher.
pub fn rank_of_environment() -> usize {
    ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_grow_is_told_from_a_reader_that_has_gone() {
        for (number, says) in
            [(libc::ENOSPC, "No space left"), (libc::EFBIG, "File too large"), (libc::EDQUOT, "quota")]
        {
            let message = loss(&io::Error::from_raw_os_error(number)).unwrap();
            assert!(message.starts_with("standard output: ") && message.contains(says), "{message}");
        }
        for number in [libc::EPIPE, libc::EIO] {
            assert_eq!(loss(&io::Error::from_raw_os_error(number)), None);
        }
    }
}
