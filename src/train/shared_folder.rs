//! Checks that all ranks see the folder in which rank 0 writes.

use crate::comm::Collective;
use crate::error::{Context, Error, Result};
use crate::machine::host_name;
use std::fs;
use std::path::Path;
use std::process;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The file that rank 0 writes for the others to see.
const MARK: &str = ".shared";

/// Time to wait until a network file system shows a new file.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks that every rank sees in `folder` what rank 0 has written there. All ranks call it.
///
/// # Errors
/// Exit 2 on every rank, naming the first rank that does not, and its host; the system's error on rank 0.
pub fn check(comm: &dyn Collective, folder: &Path) -> Result<()> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mark = format!("{}\n{} {}", host_name(), process::id(), since.as_nanos());
    let path = folder.join(MARK);
    let written = if comm.is_main() { fs::write(&path, &mark).context(path.display()) } else { Ok(()) };
    comm.agree(written, "writing to the output folder")?;
    let mark = comm.broadcast_bytes(mark.into_bytes(), 0, "the mark of the output folder")?;
    let seen = if comm.is_main() { Ok(()) } else { look(comm.rank(), folder, &mark) };
    let seen = comm.agree(seen, "looking for the output folder");
    if comm.is_main() {
        // A mark that stays does no harm.
        _ = fs::remove_file(&path);
    }
    seen
}

fn look(rank: usize, folder: &Path, mark: &[u8]) -> Result<()> {
    let start = Instant::now();
    loop {
        // Reading the parent makes a network file system ask its server again.
        _ = folder.parent().map(fs::read_dir);
        if fs::read(folder.join(MARK)).is_ok_and(|found| found == mark) {
            return Ok(());
        }
        if start.elapsed() >= PATIENCE {
            let main = String::from_utf8_lossy(mark);
            return Err(Error::input(format!(
                "rank {rank} on {}: {} is not the folder of rank 0 on {}: with checkpoint.writers = \"all\" all hosts \
                 must share output_dir; otherwise set checkpoint.writers = \"rank0\"",
                host_name(),
                folder.display(),
                main.lines().next().unwrap_or_default()
            )));
        }
        thread::sleep(Duration::from_millis(100));
    }
}
