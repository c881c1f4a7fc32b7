//! The group of ranks that the process belongs to.

use crate::comm::select::{self, Backend};
use crate::comm::{Collective, cores};
use crate::config;
use crate::error::Result;
use crate::ffi::device::allow_tf32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The group of this process; used to abort the job on an error.
pub(super) static GROUP: OnceLock<Arc<dyn Collective>> = OnceLock::new();

/// Joins the other ranks, if a launcher started any, so that all exit together with the error: a rank that exits first
/// could end rank 0 before it has reported the reason.
pub fn join_to_leave() {
    // Without the group, each rank exits on its own.
    _ = connect(Backend::Auto, Duration::from_secs(60), None);
}

/// Returns the group that this process has joined, if any.
pub fn group() -> Option<&'static Arc<dyn Collective>> {
    GROUP.get()
}

/// Joins the ranks and binds the process to its part of the host's cores.
pub(super) fn connect(backend: Backend, timeout: Duration, threads: Option<usize>) -> Result<Arc<dyn Collective>> {
    // Before the threads of the backend start: they inherit the binding.
    let (local_rank, local_world) = cores::local_place();
    let cores = cores::use_our_cores(local_rank, local_world, threads);
    tch::set_num_threads(cores.threads as i32);
    // TF32 is off unless a run enables it, whatever environment variables of libtorch are set.
    allow_tf32(false)?;
    let comm = select::connect(backend, timeout).map_err(|e| {
        // Every rank refuses this alike, before it has joined the others.
        if backend == Backend::Solo {
            join_to_leave();
            return e.shared();
        }
        e
    })?;
    _ = GROUP.set(Arc::clone(&comm));
    // rayon's pool tokenizes; libtorch's pool does the rest.
    _ = rayon::ThreadPoolBuilder::new().num_threads(cores.threads).build_global();
    Ok(comm)
}

/// Converts the setting of the configuration, which uses no other module.
pub(super) fn backend(setting: config::Backend) -> Backend {
    match setting {
        config::Backend::Auto => Backend::Auto,
        config::Backend::Solo => Backend::Solo,
        config::Backend::Mpi => Backend::Mpi,
        config::Backend::Nccl => Backend::Nccl,
    }
}
