//! A rank's handle of a communicator.

use crate::collective::{Collective, Span};
use crate::driver;
use crate::failure::{Code, Failure, Outcome, hang, locked};
use crate::header::Header;
use crate::mesh::{Id, Mesh};
use crate::settings::{Fault, goes_wrong};
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

static OPEN: LazyLock<Mutex<HashMap<usize, Arc<Communicator>>>> = LazyLock::new(Mutex::default);

/// Assigns a handle to a communicator, which is never reused.
pub fn register(comm: Communicator) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0x1000);
    let handle = NEXT.fetch_add(0x10, Ordering::Relaxed);
    locked(&OPEN).insert(handle, Arc::new(comm));
    handle
}

pub fn get(handle: usize) -> Outcome<Arc<Communicator>> {
    locked(&OPEN).get(&handle).cloned().ok_or_else(|| unknown(handle))
}

pub fn remove(handle: usize) -> Outcome<Arc<Communicator>> {
    locked(&OPEN).remove(&handle).ok_or_else(|| unknown(handle))
}

fn unknown(handle: usize) -> Failure {
    Failure::argument(format!("{handle:#x} is not an open communicator"))
}

pub struct Communicator {
    rank: usize,
    world: usize,
    mesh: Mutex<Mesh>,
    called: AtomicU64,
    finished: AtomicU64,
    failure: Mutex<Option<Failure>>,
    flights: Mutex<Vec<Flight>>,
}

/// The memory of an operation that the null stream has not been observed to wait for.
struct Flight {
    header: Header,
    send: Span,
    recv: Span,
    stream: usize,
    /// Number of its work item in its stream, from 1.
    work: u64,
}

impl Communicator {
    pub fn open(id: &Id, rank: c_int, world: c_int) -> Outcome<Communicator> {
        let place = usize::try_from(rank).ok().zip(usize::try_from(world).ok()).filter(|(rank, world)| rank < world);
        let (rank, world) = place.ok_or_else(|| Failure::argument(format!("rank {rank} of {world}")))?;
        let device = driver::current_device()?;
        if goes_wrong(Fault::InitHangs, rank, 0) {
            hang();
        }
        Ok(Communicator {
            rank,
            world,
            mesh: Mutex::new(Mesh::meet(id, rank, world, device)?),
            called: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            failure: Mutex::default(),
            flights: Mutex::default(),
        })
    }

    /// Connects the ranks of this communicator that have the same color, in the order of `key`, to a new one. The first of
    /// them makes the id. All ranks call it, with nothing under way.
    pub fn split(&self, color: c_int, key: c_int) -> Outcome<Communicator> {
        let under_way = self.called.load(Ordering::Relaxed) - self.finished.load(Ordering::Acquire);
        if under_way > 0 {
            return Err(Failure::usage(format!("divided with {under_way} collectives under way")));
        }
        let mine = [color.to_le_bytes(), key.to_le_bytes()].concat();
        let id = Id::new().to_bytes();
        let told = [mine.as_slice(), id.as_slice()].concat();
        let heard = locked(&self.mesh).exchange(|_| &told, |_| told.len());
        let heard = heard.map_err(|e| Failure::system("dividing the ranks", &e))?;
        let number = |bytes: &[u8], at: usize| c_int::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let mut ranks: Vec<usize> = (0..self.world).filter(|&rank| number(&heard[rank], 0) == color).collect();
        ranks.sort_by_key(|&rank| (number(&heard[rank], 4), rank));
        let place = ranks.iter().position(|&rank| rank == self.rank).unwrap_or(0);
        Communicator::open(&Id::from_bytes(&heard[ranks[0]][8..])?, place as c_int, ranks.len() as c_int)
    }

    /// Starts a call: from now on the buffers belong to the operation.
    ///
    /// # Safety
    /// As [`Collective::prepare`]: `send` and `recv` are as large as the call says.
    pub unsafe fn call(&self, header: Header, send: usize, recv: usize, stream: usize) -> Outcome<Collective> {
        // One call at a time, as NCCL requires, so the number is unique.
        let header = Header { sequence: self.called.load(Ordering::Relaxed), ..header };
        let state = driver::stream_state(stream)?;
        let (send, recv) = Collective::spans(&header, send, recv, (self.rank, self.world))?;
        if goes_wrong(Fault::CallFails, self.rank, header.sequence) {
            return Err(Failure::new(
                Code::SystemError,
                format!("collective {}, {header}: as asked for", header.sequence),
            ));
        }
        if goes_wrong(Fault::CallHangs, self.rank, header.sequence) {
            hang();
        }
        let mut flights = locked(&self.flights);
        flights.retain(|flight| flight.stream != stream || flight.work > state.landed);
        let clash = |f: &&Flight| f.recv.overlaps(recv) || f.recv.overlaps(send) || f.send.overlaps(recv);
        if let Some(Flight { header: earlier, .. }) = flights.iter().find(clash) {
            return Err(Failure::usage(format!(
                "collective {}, {header}: its buffer is still that of collective {}, {earlier}: the computing stream did \
                 not wait for it",
                header.sequence, earlier.sequence
            )));
        }
        self.called.fetch_add(1, Ordering::Relaxed);
        flights.push(Flight { header, send, recv, stream, work: state.pushed + 1 });
        // SAFETY: the caller's word.
        Ok(unsafe { Collective::prepare(header, send, recv) })
    }

    /// Queues called operations in their stream as one work item.
    pub fn launch(self: &Arc<Self>, mut group: Vec<Collective>, stream: usize) -> Outcome<()> {
        let size = group.len();
        group.iter_mut().enumerate().for_each(|(index, one)| one.header.place = (index, size));
        let Some(first) = group.first() else { return Ok(()) };
        if !driver::stream_state(stream)?.follows {
            return Err(Failure::usage(format!(
                "collective {}, {}: the communication stream does not wait for the computing stream: no event recorded \
                 there since the collective before",
                first.header.sequence, first.header
            )));
        }
        let comm = self.clone();
        driver::push(stream, Box::new(move || group.iter().for_each(|one| comm.run(one))))
    }

    /// Runs in the stream; does not return after a failure.
    fn run(&self, one: &Collective) {
        let (header, sequence) = (one.header, one.header.sequence);
        if goes_wrong(Fault::CollectiveHangs, self.rank, sequence) {
            hang();
        }
        if goes_wrong(Fault::AsyncError, self.rank, sequence) {
            self.fail(Failure::new(Code::RemoteError, format!("collective {sequence}, {header}: as asked for")));
        }
        let ran = one.run(&mut locked(&self.mesh));
        match ran {
            Ok(Ok(())) => _ = self.finished.fetch_add(1, Ordering::Release),
            Ok(Err(failure)) => self.fail(failure),
            // A rank has exited: the kernels of the others spin.
            Err(_) => hang(),
        }
    }

    fn fail(&self, failure: Failure) -> ! {
        failure.tell();
        *locked(&self.failure) = Some(failure);
        hang()
    }

    pub fn async_error(&self) -> c_int {
        locked(&self.failure).as_ref().map_or(0, |failure| failure.code as c_int)
    }

    /// Closes the communicator together with all ranks.
    pub fn close(&self) -> Outcome<()> {
        let under_way = self.called.load(Ordering::Relaxed) - self.finished.load(Ordering::Acquire);
        if under_way > 0 {
            return Err(Failure::usage(format!("closed with {under_way} collectives under way")));
        }
        let goodbye = locked(&self.mesh).exchange(|_| b"goodbye", |_| b"goodbye".len());
        goodbye.map(drop).map_err(|e| Failure::system("closing", &e))
    }
}
