//! The group of ranks that the process belongs to.

use crate::comm::select::{self, Backend};
use crate::comm::{Collective, cores};
use crate::config;
use crate::error::Result;
use crate::ffi::device::allow_tf32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// This process's end of the group, for whoever has to take the job down.
pub(super) static GROUP: OnceLock<Arc<dyn Collective>> = OnceLock::new();

/// Joins the other ranks, where a launcher started any, so that all of them leave together with what is wrong: a rank
/// that left first could take rank 0 down before it has said why.
pub fn join_to_leave() {
    // Without the group each rank leaves by itself.
    _ = connect(Backend::Auto, Duration::from_secs(60), None);
}

/// The group that this process has joined, if it has.
pub fn group() -> Option<&'static Arc<dyn Collective>> {
    GROUP.get()
}

/// Joins the ranks and takes this rank's share of the cores.
pub(super) fn connect(backend: Backend, timeout: Duration, threads: Option<usize>) -> Result<Arc<dyn Collective>> {
    // Before the collectives' own threads start: they inherit the binding.
    let (local_rank, local_world) = cores::local_place();
    let cores = cores::use_our_cores(local_rank, local_world, threads);
    tch::set_num_threads(cores.threads as i32);
    // Products of fp32 are exact unless a run sets otherwise, whatever variables of libtorch's say.
    allow_tf32(false)?;
    let comm = select::connect(backend, timeout).map_err(|e| {
        // Refused on every rank alike, before any of them has met the others.
        if backend == Backend::Solo {
            join_to_leave();
            return e.shared();
        }
        e
    })?;
    _ = GROUP.set(Arc::clone(&comm));
    // One pool does all the work: ours for tokenising, libtorch's for the rest.
    _ = rayon::ThreadPoolBuilder::new().num_threads(cores.threads).build_global();
    Ok(comm)
}

/// The setting as the collectives know it: the configuration names no other module.
pub(super) fn backend(setting: config::Backend) -> Backend {
    match setting {
        config::Backend::Auto => Backend::Auto,
        config::Backend::Solo => Backend::Solo,
        config::Backend::Mpi => Backend::Mpi,
        config::Backend::Nccl => Backend::Nccl,
    }
}
