//! The unsafe half of `comm`: MPI's and NCCL's C functions and a few system calls, each behind a safe function.

pub(super) mod cuda;
pub mod driver;
pub(super) mod library;
pub(super) mod mpi;
pub(super) mod nccl;
pub(super) mod process;
