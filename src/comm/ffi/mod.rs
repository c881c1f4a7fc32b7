//! The unsafe part of `comm`: C functions of MPI and NCCL and a few system calls, each behind a safe function.

pub(super) mod cuda;
pub mod driver;
pub(super) mod library;
pub(super) mod mpi;
pub(super) mod nccl;
pub(super) mod process;
