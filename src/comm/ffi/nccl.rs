//! NCCL's C functions, loaded at run time.

use super::super::Op;
use super::super::job::{Action, Element, Job};
use super::cuda::Gpu;
use super::library::{Library, functions};
use crate::error::{Error, Kind, Result};
use crate::ffi::device;
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t as DataType, ncclRedOp_t as RedOp, ncclUniqueId};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};

const UNHANDLED_CUDA_ERROR: c_int = 1; // ncclUnhandledCudaError
const REMOTE_ERROR: c_int = 6; // ncclRemoteError
const IN_PROGRESS: c_int = 7; // ncclInProgress

pub const ID_BYTES: usize = size_of::<ncclUniqueId>();

// Results are ints here, because newer libraries return codes unknown to the bindings' enum.
functions!(Functions {
    fn ncclGetVersion(*mut c_int) -> c_int;
    fn ncclGetUniqueId(*mut ncclUniqueId) -> c_int;
    fn ncclCommInitRank(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> c_int;
    fn ncclCommDestroy(ncclComm_t) -> c_int;
    fn ncclCommGetAsyncError(ncclComm_t, *mut c_int) -> c_int;
    fn ncclGetErrorString(c_int) -> *const c_char;
    fn ncclGetLastError(ncclComm_t) -> *const c_char;
    fn ncclGroupStart() -> c_int;
    fn ncclGroupEnd() -> c_int;
    fn ncclAllReduce(*const c_void, *mut c_void, usize, DataType, RedOp, ncclComm_t, cudaStream_t) -> c_int;
    fn ncclReduceScatter(*const c_void, *mut c_void, usize, DataType, RedOp, ncclComm_t, cudaStream_t) -> c_int;
    fn ncclAllGather(*const c_void, *mut c_void, usize, DataType, ncclComm_t, cudaStream_t) -> c_int;
    fn ncclBroadcast(*const c_void, *mut c_void, usize, DataType, c_int, ncclComm_t, cudaStream_t) -> c_int;
});

// Since NCCL 2.18.
functions!(Splitting {
    fn ncclCommSplit(ncclComm_t, c_int, c_int, *mut ncclComm_t, *mut c_void) -> c_int;
});

/// The first version with `ncclCommSplit`.
const SPLITS_FROM: i32 = 21800;

/// The loaded library.
pub struct Nccl(Functions, Option<Splitting>);

impl Nccl {
    /// # Errors
    /// The names of missing functions.
    pub fn load(library: Library) -> Result<Nccl, Vec<&'static str>> {
        Functions::load(library).map(|functions| Nccl(functions, Splitting::load(library).ok()))
    }

    /// Returns the function that divides a communicator, if this version has it.
    fn splitting(&self) -> Option<&Splitting> {
        self.1.as_ref().filter(|_| self.version().is_ok_and(|version| version >= SPLITS_FROM))
    }

    /// Returns the version as `major * 10000 + minor * 100 + patch`.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: a pointer to a live variable.
        self.check("ncclGetVersion", None, unsafe { (self.0.ncclGetVersion)(&mut version) })?;
        Ok(version)
    }

    /// Creates a unique id by which ranks connect. This rank listens for them.
    pub fn unique_id(&self) -> Result<Vec<u8>> {
        let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
        // SAFETY: a pointer to a live variable.
        self.check("ncclGetUniqueId", None, unsafe { (self.0.ncclGetUniqueId)(&mut id) })?;
        Ok(id.internal.iter().map(|&c| c as u8).collect())
    }

    fn check(&self, call: &str, comm: Option<ncclComm_t>, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: both return null or C strings; a null communicator is allowed.
        let (meaning, detail) = unsafe {
            (text((self.0.ncclGetErrorString)(code)), text((self.0.ncclGetLastError)(comm.unwrap_or(null_mut()))))
        };
        let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
        let text = format!("{call} failed: {meaning} (NCCL error {code}){detail}");
        Err(match code {
            // An error of this rank's GPU: only CUDA's text has the kind.
            UNHANDLED_CUDA_ERROR => device::error(&text),
            REMOTE_ERROR => Error::peer(text),
            _ => Error::other(text),
        })
    }
}

/// Reads a C string owned by the library.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and by the caller's word a C string.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().trim().to_string()
}

/// One rank's handle of an NCCL communicator.
pub struct Communicator {
    nccl: Arc<Nccl>,
    rank: usize,
    /// `None` without a GPU: only to get NCCL's error.
    gpu: Option<Arc<Gpu>>,
    /// `None` when closed. NCCL requires one call at a time.
    comm: Mutex<Option<Handle>>,
}

#[derive(Clone, Copy)]
struct Handle(ncclComm_t);

// SAFETY: NCCL communicators are not tied to a thread.
unsafe impl Send for Handle {}

impl Communicator {
    /// Connects to the other ranks; returns when all are connected. `gpu` is this rank's.
    ///
    /// # Errors
    /// NCCL's errors: no driver, two ranks on one GPU, no network between hosts.
    pub fn open(nccl: Arc<Nccl>, gpu: Option<Arc<Gpu>>, id: &[u8], rank: usize, world: usize) -> Result<Communicator> {
        if id.len() != ID_BYTES {
            return Err(Error::other(format!("an NCCL id has {ID_BYTES} bytes, not {}", id.len())));
        }
        let mut unique = ncclUniqueId { internal: [0; ID_BYTES] };
        unique.internal.iter_mut().zip(id).for_each(|(to, &from)| *to = from as c_char);
        let mut comm = null_mut();
        // SAFETY: a pointer to a live variable; the rest by value.
        let mut init = || unsafe {
            let code = (nccl.0.ncclCommInitRank)(&mut comm, world as c_int, unique, rank as c_int);
            nccl.check("ncclCommInitRank", None, code)
        };
        match &gpu {
            Some(gpu) => gpu.inside(|_| init())?,
            None => init()?,
        }
        Ok(Communicator { nccl, rank, gpu, comm: Mutex::new(Some(Handle(comm))) })
    }

    /// Returns the communicator of the ranks with the same color, in the order of `key`, with `rank` for this one; all
    /// ranks of this one call it with nothing under way. `None` if this NCCL cannot divide: then connect anew.
    pub fn split(&self, color: usize, key: usize, rank: usize) -> Result<Option<Communicator>> {
        let Some(splitting) = self.nccl.splitting() else { return Ok(None) };
        let mut part = null_mut();
        self.with(|_, comm| {
            // SAFETY: an open communicator, a pointer to a live variable, and null for the default configuration.
            let code = unsafe {
                (splitting.ncclCommSplit)(comm, color as c_int, key as c_int, &mut part, null_mut::<c_void>())
            };
            self.nccl.check("ncclCommSplit", Some(comm), code)
        })?;
        let (nccl, gpu) = (Arc::clone(&self.nccl), self.gpu.clone());
        Ok(Some(Communicator { nccl, rank, gpu, comm: Mutex::new(Some(Handle(part))) }))
    }

    /// Returns a unique id by which other ranks connect to a new communicator.
    pub fn unique_id(&self) -> Result<Vec<u8>> {
        self.nccl.unique_id()
    }

    /// Connects another group of ranks by the same library and GPU, as [`Communicator::open`].
    pub fn connect_part(&self, id: &[u8], rank: usize, world: usize) -> Result<Communicator> {
        Communicator::open(Arc::clone(&self.nccl), self.gpu.clone(), id, rank, world)
    }

    fn with<T>(&self, work: impl FnOnce(&Functions, ncclComm_t) -> Result<T>) -> Result<T> {
        let comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Handle(comm)) = *comm else { return Err(Error::other("the NCCL communicator is closed")) };
        match &self.gpu {
            Some(gpu) => gpu.inside(|_| work(&self.nccl.0, comm)),
            None => work(&self.nccl.0, comm),
        }
    }

    /// Queues operations in the GPU's stream, several as one group.
    pub fn enqueue(&self, jobs: &[Job]) -> Result<()> {
        let [one] = jobs else {
            // Hold the lock for the whole group, which belongs to this thread until its end.
            return self.with(|nccl, comm| {
                // SAFETY: no preconditions.
                self.nccl.check("ncclGroupStart", None, unsafe { (nccl.ncclGroupStart)() })?;
                let called = jobs.iter().try_for_each(|job| self.call(nccl, comm, job));
                // SAFETY: the group was started above. It ends in any case, or this thread's next call would join it.
                let ended = self.nccl.check("ncclGroupEnd", Some(comm), unsafe { (nccl.ncclGroupEnd)() });
                let names = || jobs.iter().map(Job::to_string).collect::<Vec<_>>().join(" + ");
                called.and(ended.map_err(|e| e.context(format!("rank {}: {}", self.rank, names()))))
            });
        };
        self.with(|nccl, comm| self.call(nccl, comm, one))
    }

    fn call(&self, nccl: &Functions, comm: ncclComm_t, job: &Job) -> Result<()> {
        let stream: cudaStream_t = self.gpu.as_ref().map_or(null_mut(), |gpu| gpu.stream()).cast();
        let kind = data_type(job.header.element);
        let (n, buffer) = (job.header.elements, job.buffer.data_ptr());
        let shard = job.shard.as_ref().map_or(null_mut(), |shard| shard.data_ptr());
        let shard_n = job.shard.as_ref().map_or(0, |shard| shard.numel());
        // SAFETY: `Job` has checked that buffer and shard are contiguous memory of this GPU and of these sizes; the
        // caller keeps them until the stream has come past this point.
        let code = unsafe {
            match job.header.action {
                Action::AllReduce(op) => (nccl.ncclAllReduce)(buffer, buffer, n, kind, operator(op), comm, stream),
                Action::ReduceScatter => {
                    (nccl.ncclReduceScatter)(buffer, shard, shard_n, kind, RedOp::ncclSum, comm, stream)
                }
                Action::AllGather => (nccl.ncclAllGather)(shard, buffer, shard_n, kind, comm, stream),
                Action::Broadcast { root } => {
                    (nccl.ncclBroadcast)(buffer, buffer, n, kind, root as c_int, comm, stream)
                }
                Action::Finish | Action::Split => 0,
            }
        };
        self.nccl.check("NCCL", Some(comm), code).map_err(|e| e.context(format!("rank {}: {job}", self.rank)))
    }

    /// Returns an asynchronous error of NCCL, such as a broken connection to another host.
    pub fn async_error(&self) -> Result<()> {
        // Another thread inside NCCL holds the lock, perhaps forever: skip the check.
        let Ok(comm) = self.comm.try_lock() else { return Ok(()) };
        let Some(Handle(comm)) = *comm else { return Ok(()) };
        let mut error = 0;
        // SAFETY: an open communicator and a live variable.
        unsafe {
            self.nccl.check("ncclCommGetAsyncError", None, (self.nccl.0.ncclCommGetAsyncError)(comm, &mut error))?;
        }
        match error {
            IN_PROGRESS => Ok(()),
            _ => self.nccl.check("a collective", Some(comm), error).map_err(|e| match error {
                UNHANDLED_CUDA_ERROR => e,
                // Errors after connecting come from the network or from the other rank.
                _ => e.with_kind(Kind::Peer),
            }),
        }
    }

    /// Closes it; all ranks call it with nothing under way. It may wait for the others.
    pub fn close(&self) -> Result<()> {
        let Some(Handle(comm)) = self.comm.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        // SAFETY: it was open and has no other user.
        let destroy = || unsafe { self.nccl.check("ncclCommDestroy", None, (self.nccl.0.ncclCommDestroy)(comm)) };
        match &self.gpu {
            Some(gpu) => gpu.inside(|_| destroy()),
            None => destroy(),
        }
    }
}

fn operator(op: Op) -> RedOp {
    match op {
        Op::Sum => RedOp::ncclSum,
        Op::Max => RedOp::ncclMax,
    }
}

fn data_type(element: Element) -> DataType {
    match element {
        Element::F32 => DataType::ncclFloat32,
        Element::F64 => DataType::ncclFloat64,
        Element::I64 => DataType::ncclInt64,
        Element::U8 => DataType::ncclUint8,
        Element::F16 => DataType::ncclFloat16,
        Element::Bf16 => DataType::ncclBfloat16,
    }
}
