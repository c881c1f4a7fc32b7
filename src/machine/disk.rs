//! The file system of a folder: its type, free space, and write speed.

use crate::error::{Context, Result};
use rustix::fs::statvfs;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Size of one write.
const CHUNK: usize = 4 << 20;

/// The size of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// Bytes available to an unprivileged user.
    pub free: u64,
}

/// Returns the space of the file system of `folder` (statvfs(3)).
///
/// # Errors
/// If the folder does not exist or cannot be queried.
pub fn space(folder: &Path) -> Result<Space> {
    let found = statvfs(folder).map_err(std::io::Error::from).context(folder.display())?;
    Ok(Space { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
}

/// Returns the type of the file system of `folder`: `ext4`, `nfs4`, `lustre`, `tmpfs`.
pub fn kind(folder: &Path) -> Option<String> {
    let folder = fs::canonicalize(folder).ok()?;
    kind_in(&fs::read_to_string("/proc/self/mountinfo").ok()?, &folder)
}

/// Finds it in the format of proc_pid_mountinfo(5): the longest mount point above the folder; of two mounts at the same
/// path, the later one, which hides the other.
fn kind_in(mounts: &str, folder: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, system) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?.replace("\\040", " ");
        let kind = system.split(' ').next()?.to_owned();
        folder.starts_with(&point).then(|| (Path::new(&point).components().count(), kind))
    };
    Some(mounts.lines().filter_map(mount).max_by_key(|&(depth, _)| depth)?.1)
}

/// Returns the folder, or its nearest parent that exists.
pub fn nearest_existing(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    whole.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_path_buf()
}

/// Result of writing a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Written {
    pub bytes: u64,
    /// Seconds until fsync(2) returned.
    pub seconds: f64,
}

/// Writes a file of at most `bytes` to `path`, flushes it to the device, and removes it. Writes as much as it can flush
/// within about `time_limit` at the speed of the first 4 MiB, and these in any case.
pub fn write_speed(path: &Path, bytes: u64, time_limit: Duration) -> Result<Written> {
    let written = write(path, bytes, time_limit).context(path.display());
    _ = fs::remove_file(path);
    written
}

fn write(path: &Path, bytes: u64, time_limit: Duration) -> std::io::Result<Written> {
    // Not zeros, for which some file systems allocate no blocks.
    let chunk: Vec<u8> = (0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut file = File::create_new(path)?;
    let (since, mut done, mut most) = (Instant::now(), 0, bytes);
    while done < most && (done == 0 || since.elapsed() < time_limit) {
        let n = chunk.len().min((most - done) as usize);
        file.write_all(&chunk[..n])?;
        if done == 0 {
            // More would be in memory long before it is on a slow disk, where the last flush has no limit.
            file.sync_data()?;
            most = bytes.min(affordable(n as u64, since.elapsed(), time_limit));
        }
        done += n as u64;
    }
    file.sync_all()?;
    Ok(Written { bytes: done, seconds: since.elapsed().as_secs_f64() })
}

/// Returns the bytes for which there is time, if `bytes` take `time`.
fn affordable(bytes: u64, time: Duration, limit: Duration) -> u64 {
    (bytes as f64 * limit.as_secs_f64() / time.as_secs_f64().max(1e-6)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_gets_less_to_write() {
        let seconds = Duration::from_secs_f64;
        assert_eq!(affordable(4 << 20, seconds(0.5), seconds(3.0)), 24 << 20);
        assert_eq!(affordable(4 << 20, seconds(12.0), seconds(3.0)), 1 << 20, "what is written is all");
        assert!(affordable(4 << 20, Duration::ZERO, seconds(3.0)) > 64 << 20);
        // However slow: the first part is written, and nothing after it.
        let folder = tempfile::tempdir().unwrap();
        let written = write_speed(&folder.path().join("file"), 64 << 20, Duration::from_nanos(1)).unwrap();
        assert_eq!(written.bytes, CHUNK as u64);
    }

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                      25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw\n\
                      90 27 0:50 / /home rw - nfs4 server:/home rw\n\
                      91 27 0:51 / /home rw - lustre server:/l rw\n\
                      92 27 0:52 / /my\\040disk rw - xfs /dev/sdb rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path));
        assert_eq!(kind("/home/me/runs").as_deref(), Some("lustre"));
        assert_eq!(kind("/homes").as_deref(), Some("ext4"));
        assert_eq!(kind("/my disk/a").as_deref(), Some("xfs"));
        assert_eq!(kind_in("", Path::new("/")), None);
    }

    #[test]
    fn a_folder_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(folder.path()).unwrap();
        assert!(space.total >= space.free && space.free > 0, "{space:?}");
        assert!(kind(folder.path()).is_some());
        let written = write_speed(&folder.path().join("file"), 5 << 20, Duration::from_secs(60)).unwrap();
        assert_eq!(written.bytes, 5 << 20);
        assert!(written.seconds > 0.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(nearest_existing(&folder.path().join("runs/mine")), folder.path());
        assert!(super::space(&folder.path().join("nowhere")).is_err());
    }
}
