//! Facts about this host: its GPUs and the ways between them, its cores and their NUMA nodes, its disks and its
//! shared memory.
//!
//! Nothing here uses libtorch, CUDA or MPI, so that looking costs nothing and disturbs nobody.

pub mod cpus;
pub mod disk;
pub mod gpus;
pub mod links;
pub mod memory;

/// The name that this host gives itself.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
