//! Grouped calls: calls between `ncclGroupStart` and `ncclGroupEnd` on a thread are launched as one.

use crate::collective::Collective;
use crate::communicator::{self, Communicator};
use crate::failure::{Failure, Outcome};
use crate::header::Header;
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::Arc;

#[derive(Default)]
struct Group {
    depth: usize,
    /// The communicator and the stream of all calls.
    place: Option<(Arc<Communicator>, usize)>,
    called: Vec<Collective>,
    failure: Option<Failure>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

pub fn start() {
    GROUP.with_borrow_mut(|group| group.depth += 1);
}

/// Launches the calls, unless one has failed.
pub fn end() -> Outcome<()> {
    let group = GROUP.with_borrow_mut(|group| {
        group.depth = group.depth.checked_sub(1).ok_or_else(|| Failure::usage("no group was started"))?;
        Ok(if group.depth == 0 { std::mem::take(group) } else { Group::default() })
    })?;
    match (group.failure, group.place) {
        (Some(failure), _) => Err(failure),
        (None, Some((comm, stream))) => comm.launch(group.called, stream),
        (None, None) => Ok(()),
    }
}

/// Adds a call; outside a group it is launched at once.
///
/// # Safety
/// As [`Collective::prepare`]: `send` and `recv` are as large as the call says.
pub unsafe fn add(header: Header, send: *const c_void, recv: *mut c_void, comm: usize, stream: usize) -> Outcome<()> {
    let comm = communicator::get(comm)?;
    // SAFETY: the caller's word.
    let called = unsafe { comm.call(header, send as usize, recv as usize, stream) };
    GROUP.with_borrow_mut(|group| {
        if group.depth == 0 {
            return comm.launch(vec![called?], stream);
        }
        let (known, at) = group.place.get_or_insert_with(|| (comm.clone(), stream));
        let same = Arc::ptr_eq(known, &comm) && *at == stream;
        let stranger = || Failure::usage("the fake NCCL takes groups of one communicator and one stream");
        match called.and_then(|called| if same { Ok(called) } else { Err(stranger()) }) {
            Ok(called) => group.called.push(called),
            Err(failure) => return Err(group.failure.insert(failure).clone()),
        }
        Ok(())
    })
}
