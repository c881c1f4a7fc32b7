//! One operation and its buffers, from the call until the stream runs it.

use crate::element::Element;
use crate::failure::{Failure, Outcome};
use crate::header::{Action, Header};
use crate::mesh::Mesh;
use std::io;

/// Memory of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub bytes: usize,
}

impl Span {
    pub fn overlaps(self, other: Span) -> bool {
        self.bytes > 0
            && other.bytes > 0
            && self.start < other.start + other.bytes
            && other.start < self.start + self.bytes
    }

    fn copy(self) -> Vec<u8> {
        if self.bytes == 0 {
            return Vec::new();
        }
        // SAFETY: by `Collective::prepare`'s contract this is memory that the caller keeps.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.bytes) }.to_vec()
    }

    fn fill(self, bytes: impl Iterator<Item = u8>) {
        if self.bytes == 0 {
            return;
        }
        // SAFETY: as above, and it may be written.
        let place = unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.bytes) };
        place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }
}

/// A called operation.
pub struct Collective {
    pub header: Header,
    pub send: Span,
    pub recv: Span,
    /// Copy of the input at the call.
    input: Vec<u8>,
}

impl Collective {
    /// Returns the spans of a call, if NCCL allows them: input and result separate, or in place as in its manual.
    pub fn spans(header: &Header, send: usize, recv: usize, (rank, world): (usize, usize)) -> Outcome<(Span, Span)> {
        let bytes = header.count * header.element.size();
        let (to_send, to_recv) = match header.action {
            Action::AllReduce => (bytes, bytes),
            Action::ReduceScatter => (bytes * world, bytes),
            Action::AllGather => (bytes, bytes * world),
            Action::Broadcast { root } if root == rank => (bytes, bytes),
            Action::Broadcast { root } if root < world => (0, bytes), // only the root's input is looked at
            Action::Broadcast { .. } => return Err(Failure::argument(format!("{header}: there are {world} ranks"))),
        };
        let (from, to) = (Span { start: send, bytes: to_send }, Span { start: recv, bytes: to_recv });
        let in_place = match header.action {
            Action::AllReduce | Action::Broadcast { .. } => recv == send,
            Action::ReduceScatter => recv == send + rank * bytes,
            Action::AllGather => send == recv + rank * bytes,
        };
        if [from, to].iter().any(|span| span.bytes > 0 && span.start == 0) {
            return Err(Failure::argument(format!("{header}: a null pointer")));
        }
        if from.overlaps(to) && !in_place {
            return Err(Failure::usage(format!(
                "{header}: input and result overlap, and not as in-place operations do"
            )));
        }
        Ok((from, to))
    }

    /// Copies the input and poisons the result buffer.
    ///
    /// # Safety
    /// The spans are memory that the caller keeps, and nobody else uses, until the operation has run.
    pub unsafe fn prepare(header: Header, send: Span, recv: Span) -> Collective {
        let input = send.copy();
        recv.fill(header.element.poison().iter().copied().cycle());
        Collective { header, send, recv, input }
    }

    /// Returns an error if the buffers were used before the stream ran the operation.
    fn untouched(&self) -> Outcome<()> {
        let (header, sequence) = (self.header, self.header.sequence);
        let early = |what: &str, at: usize| {
            let element = at / header.element.size();
            Err(Failure::usage(format!(
                "collective {sequence}, {header}: {what} was written (element {element}) before the collective had \
                 finished: who wrote did not wait for it"
            )))
        };
        if let Some(at) = first_change(&self.recv.copy(), header.element) {
            return early("the buffer of the result", at);
        }
        let now = self.send.copy();
        let result = self.recv.start..self.recv.start + self.recv.bytes;
        let changed = |&at: &usize| now[at] != self.input[at] && !result.contains(&(self.send.start + at));
        if now != self.input
            && let Some(at) = (0..now.len()).find(changed)
        {
            return early("the input", at);
        }
        Ok(())
    }

    /// Runs it in the stream. The outer error is a broken connection: a rank has exited.
    pub fn run(&self, mesh: &mut Mesh) -> io::Result<Outcome<()>> {
        let bytes = self.header.to_bytes();
        let heard = mesh.exchange(|_| &bytes, |_| Header::BYTES)?;
        let headers: Option<Vec<Header>> = heard.iter().map(|bytes| Header::from_bytes(bytes)).collect();
        let Some(headers) = headers else { return Err(io::ErrorKind::InvalidData.into()) };
        if let Some(finding) = Header::disagreement(&headers) {
            return Ok(Err(finding));
        }
        let inputs = self.trade(mesh)?;
        let result = self.combine(inputs);
        Ok(self.untouched().map(|()| self.recv.fill(result.into_iter())))
    }

    /// Returns each rank's contribution to this rank's result.
    fn trade(&self, mesh: &mut Mesh) -> io::Result<Vec<Vec<u8>>> {
        let (rank, input) = (mesh.rank, &self.input[..]);
        let shard = self.header.count * self.header.element.size();
        match self.header.action {
            Action::AllReduce | Action::AllGather => mesh.exchange(|_| input, |_| shard),
            Action::ReduceScatter => mesh.exchange(|to| &input[to * shard..(to + 1) * shard], |_| shard),
            Action::Broadcast { root } => {
                mesh.exchange(|_| if rank == root { input } else { &[] }, |from| if from == root { shard } else { 0 })
            }
        }
    }

    fn combine(&self, inputs: Vec<Vec<u8>>) -> Vec<u8> {
        match self.header.action {
            Action::AllReduce | Action::ReduceScatter => {
                let mut inputs = inputs.into_iter();
                let mut result = inputs.next().unwrap_or_default();
                inputs.for_each(|input| self.header.element.reduce(self.header.operator, &mut result, &input));
                result
            }
            Action::AllGather | Action::Broadcast { .. } => inputs.concat(),
        }
    }
}

/// Returns the first byte that is not poison.
fn first_change(bytes: &[u8], element: Element) -> Option<usize> {
    let poison = element.poison();
    let chunk = bytes.chunks(poison.len()).position(|chunk| chunk != poison)?;
    Some(chunk * poison.len())
}
