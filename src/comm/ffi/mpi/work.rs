//! Runs operations that all ranks have reached.
//!
//! Uses MPI's collectives where possible. MPI has no half types, and its reduce-scatter cannot leave the result in
//! place in the buffer; for these, each rank receives the others' values of its part ([`Group::exchange`]) and adds
//! them ([`fold`]): with the minimum number of bytes and a single rounding.

use super::{Group, check};
use crate::comm::Op;
use crate::comm::fold::{Value, fold};
use crate::comm::job::{Action, Element, Header, Job};
use crate::error::Result;
use ::mpi::ffi as sys;
use half::{bf16, f16};
use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::ops::Range;
use std::ptr::{null_mut, without_provenance};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Segment size of an operation: in segments of this size Open MPI's shared memory transport reduced 47 MB between two
/// ranks in 10 ms, in one piece in 18 ms.
const SEGMENT_BYTES: usize = 4 << 20;

/// Size of the exchanged pieces: small enough that received values are still in the cache when they are added (47 MB of
/// bf16 and f32 between two ranks: 5 and 6 ms per reduce-scatter), but not smaller than an efficient message.
const EXCHANGE_BYTES: usize = 1 << 20;
const LEAST_BYTES: usize = 64 << 10;

/// MPI counts are C ints.
const MAX_COUNT: usize = c_int::MAX as usize;

/// `MPI_IN_PLACE`, which the bindings lack because it is a cast in a macro: `(void *) 1` in Open MPI, whose handles
/// are pointers, and `(void *) -1` in the MPICH family, whose handles are ints.
const IN_PLACE: *const c_void = {
    let open_mpi = size_of::<sys::MPI_Comm>() != size_of::<c_int>();
    without_provenance(if open_mpi { 1 } else { usize::MAX })
};

impl Group {
    /// Runs one operation together with all other ranks; returns when this rank's buffers hold the result.
    pub fn perform(&self, job: &Job) -> Result<()> {
        let Header { action, element, elements } = job.header;
        let (buffer, size) = (job.buffer.data_ptr().cast::<u8>(), element.size());
        let shard = job.shard.as_ref().map_or(null_mut(), |shard| shard.data_ptr().cast::<u8>());
        // SAFETY: `Job` has checked that buffer and shard are contiguous CPU memory of `elements` and `elements / size`
        // elements that do not overlap except in place, and holds them; the gate before has checked that all ranks
        // call this alike.
        unsafe {
            match action {
                Action::Finish | Action::Split => Ok(()),
                Action::AllReduce(op) if matches!(element, Element::F16 | Element::Bf16) => {
                    segments(elements, self.piece(element) * self.place.world)
                        .try_for_each(|at| self.all_reduce_halves(op, element, buffer.add(at.start * size), at.len()))
                }
                Action::AllReduce(op) => segments(elements, SEGMENT_BYTES / size)
                    .try_for_each(|at| self.all_reduce(op, element, buffer.add(at.start * size), at.len())),
                Action::Broadcast { root } => segments(elements, SEGMENT_BYTES / size)
                    .try_for_each(|at| self.broadcast(root, element, buffer.add(at.start * size), at.len())),
                Action::ReduceScatter => {
                    let n = elements / self.place.world;
                    let part = |rank: usize| buffer.add(rank * n * size);
                    if !job.in_place(self.place.rank) {
                        shard.copy_from_nonoverlapping(part(self.place.rank), n * size);
                    }
                    segments(n, self.piece(element)).try_for_each(|at| {
                        let theirs = |rank: usize| (part(rank).add(at.start * size).cast_const(), at.len());
                        self.exchange(Op::Sum, element, theirs, shard.add(at.start * size))
                    })
                }
                Action::AllGather => {
                    let n = elements / self.place.world;
                    let mine = buffer.add(self.place.rank * n * size);
                    if !job.in_place(self.place.rank) {
                        shard.copy_to_nonoverlapping(mine, n * size);
                    }
                    if n <= MAX_COUNT {
                        let (n, kind, comm) = (n as c_int, datatype(element), self.comm);
                        let to = buffer.cast::<c_void>();
                        return check("MPI_Allgather", sys::MPI_Allgather(IN_PLACE, n, kind, to, n, kind, comm));
                    }
                    (0..self.place.world).try_for_each(|root| {
                        segments(n, SEGMENT_BYTES / size).try_for_each(|at| {
                            self.broadcast(root, element, buffer.add((root * n + at.start) * size), at.len())
                        })
                    })
                }
            }
        }
    }

    /// Reduces `n` values at `at` by MPI.
    unsafe fn all_reduce(&self, op: Op, element: Element, at: *mut u8, n: usize) -> Result<()> {
        // SAFETY: the caller gives `n` values that are ours alone.
        unsafe {
            let op = match op {
                Op::Sum => sys::RSMPI_SUM,
                Op::Max => sys::RSMPI_MAX,
            };
            let (kind, comm) = (datatype(element), self.comm);
            check("MPI_Allreduce", sys::MPI_Allreduce(IN_PLACE, at.cast(), n as c_int, kind, op, comm))
        }
    }

    unsafe fn broadcast(&self, root: usize, element: Element, at: *mut u8, n: usize) -> Result<()> {
        let root = root as c_int;
        // SAFETY: the caller gives `n` values that are ours alone.
        unsafe {
            let (kind, comm) = (datatype(element), self.comm);
            check("MPI_Bcast", sys::MPI_Bcast(at.cast(), n as c_int, kind, root, comm))
        }
    }

    /// Reduces `n` half-precision values at `at`: each rank its part, which the others then receive.
    unsafe fn all_reduce_halves(&self, op: Op, element: Element, at: *mut u8, n: usize) -> Result<()> {
        let (size, step) = (element.size(), n.div_ceil(self.place.world));
        let part = |rank: usize| (rank * step).min(n)..((rank + 1) * step).min(n);
        let counts: Vec<c_int> = (0..self.place.world).map(|rank| part(rank).len() as c_int).collect();
        let displacements: Vec<c_int> = (0..self.place.world).map(|rank| part(rank).start as c_int).collect();
        // SAFETY: the caller gives `n` values that are ours alone; the parts lie in them.
        unsafe {
            let theirs = |rank: usize| (at.add(part(rank).start * size).cast_const(), part(rank).len());
            self.exchange(op, element, theirs, at.add(part(self.place.rank).start * size))?;
            let (kind, comm) = (datatype(element), self.comm);
            let (counts, displacements) = (counts.as_ptr(), displacements.as_ptr());
            let code = sys::MPI_Allgatherv(IN_PLACE, 0, kind, at.cast(), counts, displacements, kind, comm);
            check("MPI_Allgatherv", code)
        }
    }

    /// Returns the number of values of each rank's part per exchange.
    fn piece(&self, element: Element) -> usize {
        (EXCHANGE_BYTES / self.place.world).max(LEAST_BYTES) / element.size()
    }

    /// Sends each other rank its part of our values, `theirs(rank)`, and reduces the received values with ours at
    /// `mine`, in place.
    unsafe fn exchange(
        &self,
        op: Op,
        element: Element,
        theirs: impl Fn(usize) -> (*const u8, usize),
        mine: *mut u8,
    ) -> Result<()> {
        const TAG: c_int = 0;
        if self.place.world == 1 {
            return Ok(());
        }
        let n = theirs(self.place.rank).1;
        let bytes = n * element.size();
        let mut scratch = self.scratch.borrow_mut();
        let words = ((self.place.world - 1) * bytes).div_ceil(size_of::<u64>());
        if scratch.len() < words {
            scratch.resize(words, 0);
        }
        let others = scratch.as_mut_ptr().cast::<u8>();
        for step in 1..self.place.world {
            let (to, from) = (
                (self.place.rank + step) % self.place.world,
                (self.place.rank + self.place.world - step) % self.place.world,
            );
            let (part, m) = theirs(to);
            let slot = if from < self.place.rank { from } else { from - 1 };
            // SAFETY: the caller gives `m` values at `part`; there is a slot of `n` for each other rank.
            unsafe {
                let (kind, comm) = (datatype(element), self.comm);
                let into = others.add(slot * bytes).cast();
                let (to, from, status) = (to as c_int, from as c_int, sys::RSMPI_STATUS_IGNORE);
                let code = sys::MPI_Sendrecv(
                    part.cast(),
                    m as c_int,
                    kind,
                    to,
                    TAG,
                    into,
                    n as c_int,
                    kind,
                    from,
                    TAG,
                    comm,
                    status,
                );
                check("MPI_Sendrecv", code)?;
            }
        }
        // SAFETY: the caller gives `n` values at `mine`; each other rank's `n` have come.
        unsafe {
            match element {
                Element::F32 => self.fold::<f32>(op, mine, others, n),
                Element::F64 => self.fold::<f64>(op, mine, others, n),
                Element::I64 => self.fold::<i64>(op, mine, others, n),
                Element::U8 => self.fold::<u8>(op, mine, others, n),
                Element::F16 => self.fold::<f16>(op, mine, others, n),
                Element::Bf16 => self.fold::<bf16>(op, mine, others, n),
            }
        }
        Ok(())
    }

    unsafe fn fold<T: Value>(&self, op: Op, mine: *mut u8, others: *const u8, n: usize) {
        // SAFETY: the caller gives `n` values of this type, and as many of each other rank, apart from them.
        unsafe {
            let others = from_raw_parts(others.cast::<T>(), (self.place.world - 1) * n);
            fold(op, self.place.rank, from_raw_parts_mut(mine.cast::<T>(), n), others);
        }
    }
}

/// Splits `0..n` into ranges of at most `step`.
fn segments(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step).map(move |at| at..n.min(at + step))
}

/// Returns MPI's type of these values; half types are sent as 16-bit integers.
fn datatype(element: Element) -> sys::MPI_Datatype {
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
