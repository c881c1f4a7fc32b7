//! A fake NCCL (`libnccl.so.2`) on the fake CUDA driver with the functions that `src/comm/ffi/nccl.rs` calls, which run
//! on host memory between the processes of one machine.
//!
//! An operation is queued in its stream and runs there; operations of one group run as one work item. Sums are computed
//! in rank order, rounding after each addition: every rank gets the same bits.
//!
//! The fake checks what works only by luck with CUDA:
//! 1. *Order.* Each operation's kind, dtype, count, root and position in its group are compared over the ranks.
//! 2. *Buffers.* From the call on, the result buffer contains signaling NaNs (for integers, bytes of ones), and the input
//!    is copied: reading too early yields NaN, and writing too early is detected when the operation runs. A buffer must
//!    not be passed to a second operation before the null stream has waited for the first.
//! 3. *Streams.* The stream must have been made to wait for the null stream since the previous operation. Otherwise a
//!    collective may run before its input is computed.
//!
//! An error of the first kind, and a modified buffer, is an asynchronous error, and the stream stops for good, as after
//! a GPU fault; the others are errors of the call. Like NCCL, it does not report a rank that dies.
//!
//! Environment:
//! - `FAKE_NCCL_VERSION`: result of `ncclGetVersion`; default 22907.
//! - `FAKE_NCCL_FAULT`: fault to inject, `KIND` or `KIND:N` at the Nth collective of the communicator, from 0:
//!   `init-hangs`, `call-fails:N`, `call-hangs:N` (the host never returns), `async-error:N`, `collective-hangs:N` (the
//!   stream never continues).
//! - `FAKE_NCCL_FAULT_RANK`: only on this rank; default all.

mod collective;
mod communicator;
mod driver;
mod element;
mod failure;
mod group;
mod header;
mod mesh;
mod settings;

use communicator::Communicator;
use element::{Element, Operator};
use failure::{Failure, Outcome, code_of};
use header::{Action, Header};
use mesh::Id;
use std::ffi::{c_char, c_int, c_void};

type Handle = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId {
    internal: [u8; 128],
}

/// # Safety
/// `version` is null or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's word.
    code_of("ncclGetVersion", unsafe { fill(version, settings::version()) })
}

/// # Safety
/// `id` is null or points to a unique id.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    // SAFETY: the caller's word.
    code_of("ncclGetUniqueId", unsafe { fill(id, UniqueId { internal: Id::new().to_bytes() }) })
}

/// # Safety
/// `comm` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut Handle, world: c_int, id: UniqueId, rank: c_int) -> c_int {
    let open = || {
        let id = Id::from_bytes(&id.internal)?;
        let handle = communicator::register(Communicator::open(&id, rank, world)?);
        // SAFETY: the caller's word.
        unsafe { fill(comm, handle as Handle) }
    };
    code_of("ncclCommInitRank", open())
}

/// # Safety
/// `part` is null or points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    comm: Handle,
    color: c_int,
    key: c_int,
    part: *mut Handle,
    _config: *mut c_void,
) -> c_int {
    let split = || {
        if settings::version() < 21800 {
            return Err(Failure::usage("ncclCommSplit is in NCCL 2.18 and newer"));
        }
        let handle = communicator::register(communicator::get(comm as usize)?.split(color, key)?);
        // SAFETY: the caller's word.
        unsafe { fill(part, handle as Handle) }
    };
    code_of("ncclCommSplit", split())
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommDestroy(comm: Handle) -> c_int {
    code_of("ncclCommDestroy", communicator::remove(comm as usize).and_then(|comm| comm.close()))
}

/// # Safety
/// `error` is null or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: Handle, error: *mut c_int) -> c_int {
    let found = communicator::get(comm as usize);
    // SAFETY: the caller's word.
    code_of("ncclCommGetAsyncError", found.and_then(|comm| unsafe { fill(error, comm.async_error()) }))
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    failure::text(code).as_ptr()
}

/// Returns the text of this process's last error, whatever the communicator.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(_comm: Handle) -> *const c_char {
    failure::last().as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    group::start();
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    code_of("ncclGroupEnd", group::end())
}

/// # Safety
/// `send` and `recv` are `count` elements each; nobody else touches them until the stream has come past this point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllReduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    operator: c_int,
    comm: Handle,
    stream: Handle,
) -> c_int {
    let header = Header::read(Action::AllReduce, kind, Operator::read(operator), count);
    // SAFETY: the caller's word.
    code_of("ncclAllReduce", header.and_then(|h| unsafe { group::add(h, send, recv, comm as usize, stream as usize) }))
}

/// # Safety
/// `send` is `count` elements for each rank, `recv` is `count`; nobody else touches them until the stream has come past
/// this point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclReduceScatter(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    operator: c_int,
    comm: Handle,
    stream: Handle,
) -> c_int {
    let header = Header::read(Action::ReduceScatter, kind, Operator::read(operator), count);
    let add = |h| unsafe { group::add(h, send, recv, comm as usize, stream as usize) }; // SAFETY: the caller's word.
    code_of("ncclReduceScatter", header.and_then(add))
}

/// # Safety
/// `send` is `count` elements, `recv` is `count` for each rank; nobody else touches them until the stream has come past
/// this point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclAllGather(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    comm: Handle,
    stream: Handle,
) -> c_int {
    let header = Header::read(Action::AllGather, kind, Ok(Operator::Sum), count);
    // SAFETY: the caller's word.
    code_of("ncclAllGather", header.and_then(|h| unsafe { group::add(h, send, recv, comm as usize, stream as usize) }))
}

/// # Safety
/// `recv` is `count` elements, and so is `send` on the rank `root`; nobody else touches them until the stream has come
/// past this point.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclBroadcast(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    kind: c_int,
    root: c_int,
    comm: Handle,
    stream: Handle,
) -> c_int {
    let root = usize::try_from(root).map_err(|_| Failure::argument(format!("the root {root}")));
    let header = root.and_then(|root| Header::read(Action::Broadcast { root }, kind, Ok(Operator::Sum), count));
    // SAFETY: the caller's word.
    code_of("ncclBroadcast", header.and_then(|h| unsafe { group::add(h, send, recv, comm as usize, stream as usize) }))
}

/// Writes a value to the caller's pointer.
///
/// # Safety
/// `place` is null or valid for a write.
unsafe fn fill<T>(place: *mut T, value: T) -> Outcome<()> {
    if place.is_null() {
        return Err(Failure::argument("a null pointer for the answer"));
    }
    // SAFETY: the caller's word.
    unsafe { place.write(value) };
    Ok(())
}

impl Header {
    fn read(action: Action, kind: c_int, operator: Outcome<Operator>, count: usize) -> Outcome<Header> {
        Ok(Header::new(action, Element::read(kind)?, operator?, count))
    }
}
