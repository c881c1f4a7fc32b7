//! MPI by its C functions, for the one thread that makes all MPI calls: [`World`] cannot leave the thread that
//! opened it. `rsmpi`'s safe interface borrows the buffers of operations under way for a scope, which a queue of
//! operations between threads cannot offer.

use super::super::Op;
use super::super::job::{Action, Element, Header, Job};
use crate::error::{Error, Result};
use ::mpi::ffi as sys;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::mem::size_of;
use std::ptr::{null_mut, without_provenance};

/// How much an all-reduce or broadcast moves at a time: in segments of this size Open MPI's shared memory transport
/// reduced 47 MB between two ranks in 10 ms, in one piece in 18 ms.
const SEGMENT_BYTES: usize = 4 << 20;

/// MPI counts are C ints.
const MAX_COUNT: usize = c_int::MAX as usize;

/// `MPI_IN_PLACE`, which the bindings lack because it is a cast in a macro: `(void *) 1` in Open MPI, whose handles
/// are pointers, and `(void *) -1` in the MPICH family, whose handles are ints.
const IN_PLACE: *const c_void = {
    let open_mpi = size_of::<sys::MPI_Comm>() != size_of::<c_int>();
    without_provenance(if open_mpi { 1 } else { usize::MAX })
};

/// What a rank has not yet said in a [`Gather`].
const SILENCE: i64 = i64::MIN;

/// MPI, initialised, on the thread that did it.
pub struct World {
    pub rank: usize,
    pub size: usize,
    pub local_rank: usize,
    pub local_size: usize,
    /// For what ranks say before an operation.
    gates: sys::MPI_Comm,
    /// For roll calls, which some ranks may never join.
    calls: sys::MPI_Comm,
    /// Not to be sent to another thread.
    thread: PhantomData<*mut ()>,
}

/// Which of the communicators for small messages.
#[derive(Clone, Copy)]
pub enum Channel {
    Gates,
    Calls,
}

fn check(call: &str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let mut text = [0u8; 4096]; // more than any MPI_MAX_ERROR_STRING
    let mut length = 0;
    // SAFETY: the buffer is long enough.
    unsafe { sys::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    let text = String::from_utf8_lossy(&text[..length.clamp(0, 4096) as usize]).into_owned();
    Err(Error::peer(format!("{call} failed with code {code}: {text}")))
}

impl World {
    /// Initialises MPI on this thread. Once per process.
    ///
    /// # Errors
    /// When MPI cannot start, or was started before.
    pub fn open() -> Result<World> {
        // SAFETY: plain C calls with pointers to live variables; the constants are MPI's own.
        unsafe {
            let mut before = 0;
            check("MPI_Initialized", sys::MPI_Initialized(&mut before))?;
            if before != 0 {
                return Err(Error::other("MPI was already initialised in this process: connect only once"));
            }
            let mut level = 0;
            check(
                "MPI_Init_thread",
                sys::MPI_Init_thread(null_mut(), null_mut(), sys::RSMPI_THREAD_FUNNELED, &mut level),
            )?;
            let world = sys::RSMPI_COMM_WORLD;
            check("MPI_Comm_set_errhandler", sys::MPI_Comm_set_errhandler(world, sys::RSMPI_ERRORS_RETURN))?;
            if level < sys::RSMPI_THREAD_FUNNELED {
                return Err(Error::other(
                    "this MPI was built without thread support (it grants no MPI_THREAD_FUNNELED)",
                ));
            }
            let (rank, size) = place(world)?;
            let mut host = sys::RSMPI_COMM_NULL;
            let split = sys::MPI_Comm_split_type(
                world,
                sys::RSMPI_COMM_TYPE_SHARED,
                rank as c_int,
                sys::RSMPI_INFO_NULL,
                &mut host,
            );
            check("MPI_Comm_split_type", split)?;
            let (local_rank, local_size) = place(host)?;
            check("MPI_Comm_free", sys::MPI_Comm_free(&mut host))?;
            let (mut gates, mut calls) = (sys::RSMPI_COMM_NULL, sys::RSMPI_COMM_NULL);
            check("MPI_Comm_dup", sys::MPI_Comm_dup(world, &mut gates))?;
            check("MPI_Comm_dup", sys::MPI_Comm_dup(world, &mut calls))?;
            Ok(World { rank, size, local_rank, local_size, gates, calls, thread: PhantomData })
        }
    }

    /// Starts to collect every rank's `words` (none of them the smallest i64).
    pub fn gather(&self, channel: Channel, words: &[i64]) -> Result<Gather<'_>> {
        let mut gather = Gather {
            mine: words.to_vec(),
            all: vec![SILENCE; words.len() * self.size],
            // SAFETY: a constant of the library.
            request: unsafe { sys::RSMPI_REQUEST_NULL },
            open: false,
            world: self,
        };
        let comm = match channel {
            Channel::Gates => self.gates,
            Channel::Calls => self.calls,
        };
        let n = words.len() as c_int;
        // SAFETY: both vectors keep their memory until the request completes: `Gather` neither grows them nor, when
        // dropped early, frees them.
        unsafe {
            let (from, to) = (gather.mine.as_ptr().cast(), gather.all.as_mut_ptr().cast());
            let (t, request) = (sys::RSMPI_INT64_T, &mut gather.request);
            check("MPI_Iallgather", sys::MPI_Iallgather(from, n, t, to, n, t, comm, request))?;
        }
        gather.open = true;
        Ok(gather)
    }

    /// Lets MPI work on what other ranks wait for while this one has nothing to do.
    pub fn progress(&self) {
        let mut flag = 0;
        // SAFETY: a probe with wildcards on our own communicator.
        unsafe {
            sys::MPI_Iprobe(sys::RSMPI_ANY_SOURCE, sys::RSMPI_ANY_TAG, self.calls, &mut flag, sys::RSMPI_STATUS_IGNORE)
        };
    }

    /// Does one operation, together with all other ranks; returns when this rank's buffers hold the result.
    pub fn perform(&self, job: &Job) -> Result<()> {
        let Header { action, element, elements } = job.header;
        // SAFETY: `Job` has checked that buffer and shard are contiguous CPU memory of `elements` and
        // `elements / size` elements, and holds them; the gate before has checked that all ranks call this alike.
        unsafe {
            let buffer = job.buffer.data_ptr();
            let comm = sys::RSMPI_COMM_WORLD;
            let segments = |n: usize| {
                let step = SEGMENT_BYTES / element.size();
                (0..n).step_by(step).map(move |at| (at * element.size(), step.min(n - at) as c_int))
            };
            match action {
                Action::Finish => Ok(()),
                Action::AllReduce(op) => {
                    let (kind, op) = (reducible(element)?, operator(op));
                    segments(elements).try_for_each(|(at, n)| {
                        check("MPI_Allreduce", sys::MPI_Allreduce(IN_PLACE, buffer.byte_add(at), n, kind, op, comm))
                    })
                }
                Action::Broadcast { root } => segments(elements).try_for_each(|(at, n)| {
                    check("MPI_Bcast", sys::MPI_Bcast(buffer.byte_add(at), n, movable(element), root as c_int, comm))
                }),
                Action::ReduceScatter => {
                    let (kind, op) = (reducible(element)?, operator(Op::Sum));
                    let shard = job.shard.as_ref().map_or(null_mut(), |shard| shard.data_ptr());
                    let n = elements / self.size;
                    let part = |rank: usize| buffer.byte_add(rank * n * element.size());
                    // Shard by shard to its owner: the only form that can work in place.
                    (0..self.size).try_for_each(|owner| {
                        segments(n).try_for_each(|(at, n)| {
                            let from = part(owner).byte_add(at).cast_const();
                            let (from, to) = match owner == self.rank {
                                true if job.in_place(owner) => (IN_PLACE, from.cast_mut()),
                                true => (from, shard.byte_add(at)),
                                false => (from, null_mut()),
                            };
                            check("MPI_Reduce", sys::MPI_Reduce(from, to, n, kind, op, owner as c_int, comm))
                        })
                    })
                }
                Action::AllGather => {
                    let kind = movable(element);
                    let n = elements / self.size;
                    let part = |rank: usize| buffer.byte_add(rank * n * element.size());
                    let shard = job.shard.as_ref().map_or(null_mut(), |shard| shard.data_ptr());
                    if n <= MAX_COUNT {
                        let from = if job.in_place(self.rank) { IN_PLACE } else { shard.cast_const() };
                        let n = n as c_int;
                        return check("MPI_Allgather", sys::MPI_Allgather(from, n, kind, buffer, n, kind, comm));
                    }
                    if !job.in_place(self.rank) {
                        shard.cast::<u8>().copy_to_nonoverlapping(part(self.rank).cast(), n * element.size());
                    }
                    (0..self.size).try_for_each(|owner| {
                        segments(n).try_for_each(|(at, n)| {
                            check("MPI_Bcast", sys::MPI_Bcast(part(owner).byte_add(at), n, kind, owner as c_int, comm))
                        })
                    })
                }
            }
        }
    }

    /// Ends all ranks with this exit code. Usually does not return.
    pub fn abort(&self, code: i32) {
        // SAFETY: MPI is initialised, and this is its thread.
        unsafe { sys::MPI_Abort(sys::RSMPI_COMM_WORLD, code) };
    }

    /// Leaves MPI; all ranks have to.
    pub fn close(self) -> Result<()> {
        // SAFETY: MPI is initialised, this is its thread, and nothing is under way.
        unsafe { check("MPI_Finalize", sys::MPI_Finalize()) }
    }
}

/// Rank and size.
unsafe fn place(comm: sys::MPI_Comm) -> Result<(usize, usize)> {
    let (mut rank, mut size) = (0, 0);
    // SAFETY: the caller gives a valid communicator.
    unsafe {
        check("MPI_Comm_rank", sys::MPI_Comm_rank(comm, &mut rank))?;
        check("MPI_Comm_size", sys::MPI_Comm_size(comm, &mut size))?;
    }
    Ok((rank as usize, size as usize))
}

fn operator(op: Op) -> sys::MPI_Op {
    // SAFETY: constants of the library.
    unsafe {
        match op {
            Op::Sum => sys::RSMPI_SUM,
            Op::Max => sys::RSMPI_MAX,
        }
    }
}

/// The type for copying.
fn movable(element: Element) -> sys::MPI_Datatype {
    // SAFETY: constants of the library.
    unsafe {
        match element {
            Element::F32 => sys::RSMPI_FLOAT,
            Element::F64 => sys::RSMPI_DOUBLE,
            Element::I64 => sys::RSMPI_INT64_T,
            Element::U8 => sys::RSMPI_UINT8_T,
            Element::F16 | Element::Bf16 => sys::RSMPI_UINT16_T,
        }
    }
}

/// The type for arithmetic; MPI has none for half precision.
fn reducible(element: Element) -> Result<sys::MPI_Datatype> {
    match element {
        Element::F16 | Element::Bf16 => {
            Err(Error::other(format!("MPI cannot reduce {element:?} values: convert the buffer to f32 first")))
        }
        _ => Ok(movable(element)),
    }
}

/// A collection of every rank's words under way.
pub struct Gather<'a> {
    mine: Vec<i64>,
    all: Vec<i64>,
    request: sys::MPI_Request,
    open: bool,
    world: &'a World,
}

impl Gather<'_> {
    /// Whether all ranks have spoken.
    pub fn test(&mut self) -> Result<bool> {
        let mut flag = 1;
        if self.open {
            // SAFETY: a request of ours that is not complete; its memory is alive.
            unsafe { check("MPI_Test", sys::MPI_Test(&mut self.request, &mut flag, sys::RSMPI_STATUS_IGNORE))? };
            self.open = flag == 0;
        }
        Ok(flag != 0)
    }

    /// What each rank said. Before [`Gather::test`] is true, `None` for those not heard of so far.
    pub fn heard(&self) -> Vec<Option<Vec<i64>>> {
        let n = self.mine.len();
        let word = |at: usize| {
            // SAFETY: in bounds. MPI may be writing there: hence volatile, and only for a message to people.
            unsafe { self.all.as_ptr().add(at).read_volatile() }
        };
        (0..self.world.size)
            .map(|rank| {
                let words: Vec<i64> = (rank * n..(rank + 1) * n).map(word).collect();
                (!words.contains(&SILENCE)).then_some(words)
            })
            .collect()
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        if self.open {
            // MPI may still write there.
            std::mem::forget(std::mem::take(&mut self.all));
            std::mem::forget(std::mem::take(&mut self.mine));
        }
    }
}
