//! Facts about this host: its GPUs, its cores and their NUMA nodes, its connections.
//!
//! Nothing here uses libtorch, CUDA or MPI, so that looking costs nothing and disturbs nobody.

pub mod cpus;
pub mod gpus;
pub mod network;
