//! MPI's C functions for the one thread that makes all MPI calls: [`World`] cannot be sent to another thread. `rsmpi`'s
//! safe interface borrows the buffers of operations for a scope, which a queue of operations between threads cannot
//! provide.

mod work;

use super::super::job::Place;
use crate::error::{Error, Result};
use ::mpi::ffi as sys;
use std::cell::RefCell;
use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::rc::Rc;

/// Marks a rank's missing message in a [`Gather`].
const SILENCE: i64 = i64::MIN;

/// Initialized MPI, on the thread that initialized it.
pub struct World {
    /// All ranks.
    pub group: Rc<Group>,
}

/// A group of ranks: all, or a part of them.
pub struct Group {
    pub place: Place,
    /// The group's rank with local rank 0 on this host.
    pub host_leader: usize,
    /// The group's ranks in the world.
    pub members: Vec<usize>,
    /// For operations.
    comm: sys::MPI_Comm,
    /// For messages before an operation.
    gates: sys::MPI_Comm,
    /// For roll calls, which some ranks may never join.
    calls: sys::MPI_Comm,
    /// Receive buffer for values to add to ours: allocated once, with an alignment for any element.
    scratch: RefCell<Vec<u64>>,
    /// Not Send.
    thread: PhantomData<*mut ()>,
}

/// Selects a communicator for small messages.
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
    /// Initializes MPI on this thread, once per process.
    ///
    /// # Errors
    /// If MPI cannot start, or was started before.
    pub fn open() -> Result<World> {
        // SAFETY: plain C calls with pointers to live variables; the constants are MPI's own.
        unsafe {
            let mut before = 0;
            check("MPI_Initialized", sys::MPI_Initialized(&mut before))?;
            if before != 0 {
                return Err(Error::other("MPI was already initialized in this process: connect only once"));
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
            let (rank, _) = place(world)?;
            Ok(World { group: Rc::new(Group::of(world, rank)?) })
        }
    }

    /// Ends all ranks with this exit code. Usually does not return.
    pub fn abort(&self, code: i32) {
        // SAFETY: MPI is initialised, and this is its thread.
        unsafe { sys::MPI_Abort(sys::RSMPI_COMM_WORLD, code) };
    }

    /// Finalizes MPI; all ranks must call it.
    pub fn close(self) -> Result<()> {
        // SAFETY: MPI is initialised, this is its thread, and nothing is under way.
        unsafe { check("MPI_Finalize", sys::MPI_Finalize()) }
    }
}

impl Group {
    /// Returns the group of a communicator, in which all its ranks call this. `world_rank` is this rank in the world.
    ///
    /// # Safety
    /// A valid communicator, on MPI's thread.
    unsafe fn of(comm: sys::MPI_Comm, world_rank: usize) -> Result<Group> {
        // SAFETY: plain C calls with pointers to live variables, whose sizes are those of the communicators.
        unsafe {
            let (rank, size) = place(comm)?;
            let (one, t, key) = (1, sys::RSMPI_INT64_T, rank as c_int);
            let mut members = vec![0i64; size];
            let (mine, all) = (world_rank as i64, members.as_mut_ptr().cast());
            check("MPI_Allgather", sys::MPI_Allgather((&raw const mine).cast(), one, t, all, one, t, comm))?;
            let mut host = sys::RSMPI_COMM_NULL;
            let shared = sys::RSMPI_COMM_TYPE_SHARED;
            check("MPI_Comm_split_type", sys::MPI_Comm_split_type(comm, shared, key, sys::RSMPI_INFO_NULL, &mut host))?;
            let (local_rank, local_world) = place(host)?;
            let mut leader = rank as i64;
            check("MPI_Bcast", sys::MPI_Bcast((&raw mut leader).cast(), one, t, 0, host))?;
            check("MPI_Comm_free", sys::MPI_Comm_free(&mut host))?;
            let (mut gates, mut calls) = (sys::RSMPI_COMM_NULL, sys::RSMPI_COMM_NULL);
            check("MPI_Comm_dup", sys::MPI_Comm_dup(comm, &mut gates))?;
            check("MPI_Comm_dup", sys::MPI_Comm_dup(comm, &mut calls))?;
            Ok(Group {
                place: Place { rank, world: size, local_rank, local_world },
                host_leader: leader as usize,
                members: members.into_iter().map(|rank| rank as usize).collect(),
                comm,
                gates,
                calls,
                scratch: RefCell::default(),
                thread: PhantomData,
            })
        }
    }

    /// Returns the group of the ranks with this color, in the order of `key`. All ranks of this one call it.
    pub fn split(&self, color: usize, key: usize) -> Result<Group> {
        // SAFETY: our communicator, on its thread; a pointer to a live variable. The new one has the error handler of
        // this one, and lives until MPI is finalized.
        unsafe {
            let mut comm = sys::RSMPI_COMM_NULL;
            check("MPI_Comm_split", sys::MPI_Comm_split(self.comm, color as c_int, key as c_int, &mut comm))?;
            Group::of(comm, self.members[self.place.rank])
        }
    }

    /// Starts to gather every rank's `words` (none of them i64::MIN).
    pub fn gather(self: &Rc<Self>, channel: Channel, words: &[i64]) -> Result<Gather> {
        let mut gather = Gather {
            mine: words.to_vec(),
            all: vec![SILENCE; words.len() * self.place.world],
            // SAFETY: a constant of the library.
            request: unsafe { sys::RSMPI_REQUEST_NULL },
            open: false,
            group: Rc::clone(self),
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

    /// Lets MPI make progress for other ranks while this one is idle.
    pub fn progress(&self) {
        let mut flag = 0;
        // SAFETY: a probe with wildcards on our own communicator.
        unsafe {
            sys::MPI_Iprobe(sys::RSMPI_ANY_SOURCE, sys::RSMPI_ANY_TAG, self.calls, &mut flag, sys::RSMPI_STATUS_IGNORE)
        };
    }
}

/// Returns the MPI library's version text. Can be called before MPI starts, by any thread (MPI-4.0, section 9.1.1).
pub fn library_version() -> String {
    let mut text = [0u8; 16384]; // more than any MPI_MAX_LIBRARY_VERSION_STRING
    let mut length = 0;
    // SAFETY: the buffer is long enough.
    unsafe { sys::MPI_Get_library_version(text.as_mut_ptr().cast(), &mut length) };
    String::from_utf8_lossy(&text[..length.clamp(0, 16384) as usize]).trim_matches(['\0', ' ', '\n']).to_owned()
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

/// A gather of every rank's words under way.
pub struct Gather {
    mine: Vec<i64>,
    all: Vec<i64>,
    request: sys::MPI_Request,
    open: bool,
    pub group: Rc<Group>,
}

impl Gather {
    /// Whether all ranks have sent theirs.
    pub fn test(&mut self) -> Result<bool> {
        let mut flag = 1;
        if self.open {
            // SAFETY: a request of ours that is not complete; its memory is alive.
            unsafe { check("MPI_Test", sys::MPI_Test(&mut self.request, &mut flag, sys::RSMPI_STATUS_IGNORE))? };
            self.open = flag == 0;
        }
        Ok(flag != 0)
    }

    /// Returns each rank's words. Before [`Gather::test`] is true, `None` for missing ones.
    pub fn heard(&self) -> Vec<Option<Vec<i64>>> {
        let n = self.mine.len();
        let word = |at: usize| {
            // SAFETY: in bounds. MPI may be writing there: hence volatile, and only for a message to people.
            unsafe { self.all.as_ptr().add(at).read_volatile() }
        };
        (0..self.group.place.world)
            .map(|rank| {
                let words: Vec<i64> = (rank * n..(rank + 1) * n).map(word).collect();
                (!words.contains(&SILENCE)).then_some(words)
            })
            .collect()
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        if self.open {
            // MPI may still write to the buffer.
            std::mem::forget(std::mem::take(&mut self.all));
            std::mem::forget(std::mem::take(&mut self.mine));
        }
    }
}
