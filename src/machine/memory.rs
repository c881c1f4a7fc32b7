//! Memory that ranks of a host share, and what the system lets a process have.

use super::disk::{Space, space};
use crate::error::Result;
use rustix::process::{Resource, getrlimit};
use std::path::Path;

/// Where shm_open(3) puts its files: NCCL and Open MPI use it between the ranks of a host.
pub const SHARED: &str = "/dev/shm";

/// The size of the host's shared memory.
///
/// # Errors
/// When there is none.
pub fn shared() -> Result<Space> {
    space(Path::new(SHARED))
}

/// Soft limits of this process (getrlimit(2)); `None` where there is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may be locked: what a network card reads and writes by itself.
    pub locked_bytes: Option<u64>,
    /// Files and sockets open at a time.
    pub open_files: Option<u64>,
}

/// The limits of this process.
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
