//! Facts about this host: GPUs and the links between them, cores and their NUMA nodes, disks, shared memory.
//!
//! Nothing here uses libtorch, CUDA or MPI, so that queries are cheap and have no side effects.

pub mod cpus;
pub mod disk;
pub mod gpus;
pub mod links;
pub mod memory;

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
