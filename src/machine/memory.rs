//! Shared memory of a host, and the limits of a process.

use super::disk::{Space, space};
use crate::error::Result;
use rustix::process::{Resource, getrlimit};
use std::path::Path;

/// Folder of shm_open(3), which NCCL and Open MPI use between the ranks of a host.
pub const SHARED: &str = "/dev/shm";

/// Returns the size of the host's shared memory.
///
/// # Errors
/// If there is none.
pub fn shared() -> Result<Space> {
    space(Path::new(SHARED))
}

/// Soft limits of this process (getrlimit(2)); `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be locked, which a network card accesses directly.
    pub locked_bytes: Option<u64>,
    /// Maximum number of open files and sockets.
    pub open_files: Option<u64>,
}

/// Returns the limits of this process.
pub fn limits() -> Limits {
    let soft = |resource| getrlimit(resource).current;
    Limits { locked_bytes: soft(Resource::Memlock), open_files: soft(Resource::Nofile) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_tells() {
        assert!(limits().open_files.is_none_or(|files| files > 0));
        if Path::new(SHARED).is_dir() {
            assert!(shared().unwrap().total > 0);
        }
    }
}
