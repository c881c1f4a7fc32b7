//! Checked requests for collectives: the operation, its buffers, and the comparison between ranks.

use super::Op;
use crate::error::{Error, Result};
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};
use tch::{Device, Kind as Type, Tensor};

/// The operations, which must be equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Every rank gets the reduced buffer.
    AllReduce(Op),
    /// Every rank gets its shard of the sum.
    ReduceScatter,
    /// Every rank gets all shards.
    AllGather,
    /// Every rank gets `root`'s buffer.
    Broadcast { root: usize },
    /// The last operation, without data: used by the backends in [`super::Collective::finish`].
    Finish,
    /// Divides the group ([`super::Collective::split`]): used by the MPI backend.
    Split,
}

impl Action {
    pub const OF_A_STEP: [Action; 3] = [Action::AllReduce(Op::Sum), Action::ReduceScatter, Action::AllGather];

    pub fn name(self) -> &'static str {
        match self {
            Action::AllReduce(_) => "all-reduce",
            Action::ReduceScatter => "reduce-scatter",
            Action::AllGather => "all-gather",
            Action::Broadcast { .. } => "broadcast",
            Action::Finish => "finish",
            Action::Split => "split",
        }
    }
}

/// The supported dtypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F64,
    I64,
    U8,
    F16,
    Bf16,
}

impl Element {
    const ALL: [Element; 6] = [Element::F32, Element::F64, Element::I64, Element::U8, Element::F16, Element::Bf16];

    fn of(tensor: &Tensor) -> Option<Element> {
        Some(match tensor.f_kind().ok()? {
            Type::Float => Element::F32,
            Type::Double => Element::F64,
            Type::Int64 => Element::I64,
            Type::Uint8 => Element::U8,
            Type::Half => Element::F16,
            Type::BFloat16 => Element::Bf16,
            _ => return None,
        })
    }

    /// Size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::U8 => 1,
        }
    }
}

/// The part of a job that must be equal on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub action: Action,
    pub element: Element,
    /// Number of elements of the whole buffer, with all shards.
    pub elements: usize,
}

impl Header {
    /// Number of integers of an encoded header; the first is never negative.
    pub const WORDS: usize = 3;

    /// Encodes the header, which the ranks exchange before an operation.
    pub fn encode(&self) -> [i64; Self::WORDS] {
        let action = match self.action {
            Action::AllReduce(Op::Sum) => 0,
            Action::AllReduce(Op::Max) => 1,
            Action::ReduceScatter => 2,
            Action::AllGather => 3,
            Action::Finish => 4,
            Action::Split => 5,
            Action::Broadcast { root } => 8 + root as i64,
        };
        [action, self.element as i64, self.elements as i64]
    }

    /// The inverse of [`Header::encode`]; `None` for invalid values.
    pub fn decode(words: &[i64]) -> Option<Header> {
        let &[action, element, elements] = words else { return None };
        let action = match action {
            0 => Action::AllReduce(Op::Sum),
            1 => Action::AllReduce(Op::Max),
            2 => Action::ReduceScatter,
            3 => Action::AllGather,
            4 => Action::Finish,
            5 => Action::Split,
            root if root >= 8 => Action::Broadcast { root: (root - 8) as usize },
            _ => return None,
        };
        let element = *Element::ALL.get(usize::try_from(element).ok()?)?;
        Some(Header { action, element, elements: usize::try_from(elements).ok()? })
    }
}

impl Header {
    /// Returns the bytes of the buffer; twice for an all-reduce, which is a reduce-scatter and an all-gather.
    fn traffic(&self) -> u64 {
        let times = match self.action {
            Action::AllReduce(_) => 2,
            Action::Finish | Action::Split => 0,
            _ => 1,
        };
        times * (self.elements * self.element.size()) as u64
    }
}

/// A rank's position in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub rank: usize,
    pub world: usize,
    /// The same among the ranks of the group that are on this rank's host.
    pub local_rank: usize,
    pub local_world: usize,
}

impl Place {
    /// The only rank of a group.
    pub const ALONE: Place = Place { rank: 0, world: 1, local_rank: 0, local_world: 1 };

    /// Returns this rank's part of the bytes that leave its host in a ring over the hosts, one after another: of each
    /// of `world` parts of the buffer all but one, on one connection for all ranks of the host in the group.
    fn between_hosts(&self, header: &Header) -> u64 {
        let Place { world, local_world, .. } = *self;
        if world == local_world {
            return 0;
        }
        (u128::from(header.traffic()) * (world - 1) as u128 / (world * local_world) as u128) as u64
    }
}

static TRAFFIC: AtomicU64 = AtomicU64::new(0);
static BETWEEN_HOSTS: AtomicU64 = AtomicU64::new(0);

/// Returns the bytes of this process's collectives so far, counted as in arXiv 1910.02054 (section 7): the buffer size,
/// twice for an all-reduce. The traffic over a rank's link is `(world - 1) / world` of it.
pub fn traffic() -> u64 {
    TRAFFIC.load(Ordering::Relaxed)
}

/// Returns the bytes that this process's collectives have sent to other hosts so far, if they are rings: `2 (n - 1) / n`
/// of the buffer of an all-reduce over n ranks, half of that in other operations, divided by the ranks of the group on
/// this host, which share its connection to the next one.
pub fn between_hosts() -> u64 {
    BETWEEN_HOSTS.load(Ordering::Relaxed)
}

impl Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action.name())?;
        match self.action {
            Action::AllReduce(Op::Sum) => write!(f, " (sum)")?,
            Action::AllReduce(Op::Max) => write!(f, " (max)")?,
            Action::ReduceScatter | Action::AllGather => {}
            Action::Broadcast { root } => write!(f, " from rank {root}")?,
            Action::Finish | Action::Split => return Ok(()),
        }
        write!(f, " of {} {}", self.elements, format!("{:?}", self.element).to_lowercase())
    }
}

/// One operation of one rank: the header, the memory, and a name for messages.
pub(super) struct Job {
    pub header: Header,
    /// The whole buffer, as separate tensors (same memory, no autograd).
    pub buffer: Tensor,
    /// This rank's shard, for reduce-scatter and all-gather.
    pub shard: Option<Tensor>,
    pub what: String,
}

impl Job {
    /// Creates a job after checking its buffers: contiguous, with a supported dtype, on `device`, shards of the right
    /// size, and a shard either separate from the buffer or exactly this rank's part of it.
    pub fn new(
        action: Action,
        buffer: &Tensor,
        shard: Option<&Tensor>,
        what: &str,
        place: Place,
        device: Device,
    ) -> Result<Job> {
        let Place { rank, world, .. } = place;
        let fail = |why: String| Err(Error::other(format!("rank {rank}: {what}: {why}")));
        let Some(element) = Element::of(buffer) else {
            return fail(format!("a buffer of type {:?} cannot be sent between ranks", buffer.f_kind()));
        };
        let header = Header { action, element, elements: buffer.numel() };
        for tensor in std::iter::once(buffer).chain(shard) {
            if !tensor.is_contiguous() {
                return fail(format!("{header}: the buffer is not contiguous (shape {:?})", tensor.size()));
            }
            if tensor.device() != device {
                return fail(format!("{header}: the buffer is on {:?}, expected {device:?}", tensor.device()));
            }
        }
        if let Action::Broadcast { root } = action
            && root >= world
        {
            return fail(format!("{header}: there are only {world} ranks"));
        }
        let job = Job { header, buffer: buffer.data(), shard: shard.map(Tensor::data), what: what.to_string() };
        if let Some(shard) = shard {
            let n = shard.numel();
            if Element::of(shard) != Some(element) || n * world != buffer.numel() {
                return fail(format!(
                    "{header}: a shard of {n} elements of type {:?} does not fit {world} ranks",
                    shard.kind()
                ));
            }
            let (start, at) = (buffer.data_ptr() as usize, shard.data_ptr() as usize);
            let overlaps = at < start + buffer.numel() * element.size() && start < at + n * element.size();
            if n > 0 && overlaps && !job.in_place(rank) {
                return fail(format!("{header}: the shard overlaps the buffer but is not this rank's part of it"));
            }
        }
        if world > 1 {
            TRAFFIC.fetch_add(header.traffic(), Ordering::Relaxed);
            BETWEEN_HOSTS.fetch_add(place.between_hosts(&header), Ordering::Relaxed);
        }
        Ok(job)
    }

    /// Returns the last operation of a group, without data.
    pub fn finish() -> Job {
        Job::named("leaving the group")
    }

    /// Returns a job without buffers, only for the journal.
    pub fn named(what: &str) -> Job {
        let header = Header { action: Action::Finish, element: Element::U8, elements: 0 };
        let buffer = Tensor::zeros([0], (Type::Uint8, Device::Cpu));
        Job { header, buffer, shard: None, what: what.to_string() }
    }

    /// Whether the shard is this rank's part of the buffer.
    pub fn in_place(&self, rank: usize) -> bool {
        self.shard.as_ref().is_some_and(|shard| {
            let offset = rank * shard.numel() * self.header.element.size();
            shard.data_ptr() as usize == self.buffer.data_ptr() as usize + offset
        })
    }
}

impl Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.header.action == Action::Finish {
            return write!(f, "\"{}\"", self.what);
        }
        let megabytes = (self.header.elements * self.header.element.size()) as f64 / 1e6;
        write!(f, "\"{}\", {} ({megabytes:.1} MB)", self.what, self.header)
    }
}

/// Returns the error if the ranks did not start the same operation: `members` of the world, in the order of `headers`.
pub(super) fn disagreement(headers: &[Header], members: &[usize], sequence: u64, what: &str) -> Option<Error> {
    let mut groups: Vec<(Header, Vec<usize>)> = Vec::new();
    for (&rank, header) in members.iter().zip(headers) {
        match groups.iter_mut().find(|(known, _)| known == header) {
            Some((_, ranks)) => ranks.push(rank),
            None => groups.push((*header, vec![rank])),
        }
    }
    if groups.len() < 2 {
        return None;
    }
    let sides: Vec<String> = groups.iter().map(|(header, ranks)| format!("{}: {header}", name_ranks(ranks))).collect();
    Some(Error::peer(format!(
        "the ranks do not agree on collective {sequence} (here \"{what}\"): {}. Check that all ranks run the same \
         program with the same configuration and data",
        sides.join("; ")
    )))
}

/// Formats "rank 3", "ranks 0, 2, 3"; of many ranks only the first few.
pub fn name_ranks(ranks: &[usize]) -> String {
    const SHOWN: usize = 16;
    let mut text: Vec<String> = ranks.iter().take(SHOWN).map(usize::to_string).collect();
    if ranks.len() > SHOWN {
        text.push(format!("and {} more", ranks.len() - SHOWN));
    }
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, text.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_journey() {
        let actions = [
            Action::AllReduce(Op::Sum),
            Action::AllReduce(Op::Max),
            Action::ReduceScatter,
            Action::AllGather,
            Action::Broadcast { root: 0 },
            Action::Broadcast { root: 511 },
            Action::Finish,
            Action::Split,
        ];
        for action in actions {
            for element in Element::ALL {
                let header = Header { action, element, elements: 1 << 40 };
                assert_eq!(Header::decode(&header.encode()), Some(header));
            }
        }
        assert_eq!(Header::decode(&[i64::MIN, 0, 0]), None);
        assert_eq!(Header::decode(&[0, 6, 0]), None);
    }

    #[test]
    fn disagreement_names_both_sides() {
        let small = Header { action: Action::AllReduce(Op::Sum), element: Element::F32, elements: 4 };
        let large = Header { elements: 5, ..small };
        assert!(disagreement(&[small, small], &[0, 1], 0, "x").is_none());
        let text = disagreement(&[small, large, small], &[0, 1, 2], 7, "x").unwrap().to_string();
        assert!(text.contains("ranks 0, 2: all-reduce (sum) of 4 f32; rank 1: all-reduce (sum) of 5 f32"), "{text}");
        let text = disagreement(&[small, large], &[1, 3], 7, "x").unwrap().to_string();
        assert!(text.contains("rank 1: all-reduce (sum) of 4 f32; rank 3: all-reduce (sum) of 5 f32"), "{text}");
    }

    #[test]
    fn bytes_between_hosts_are_those_of_a_ring() {
        let place = |world, local_world| Place { rank: 0, world, local_rank: 0, local_world };
        let reduce = Header { action: Action::AllReduce(Op::Sum), element: Element::F32, elements: 1000 };
        let gather = Header { action: Action::AllGather, ..reduce };
        // Two ranks on each of two hosts: 3/4 of 4000 bytes leave a host, twice in an all-reduce.
        assert_eq!((place(4, 2).between_hosts(&gather), place(4, 2).between_hosts(&reduce)), (1500, 3000));
        assert_eq!((place(2, 1).between_hosts(&reduce), place(2, 2).between_hosts(&reduce)), (4000, 0));
    }

    #[test]
    fn bad_buffers_are_refused() {
        let new = |buffer: &Tensor, shard: Option<&Tensor>| {
            let place = Place { rank: 1, world: 2, local_rank: 1, local_world: 2 };
            Job::new(Action::AllGather, buffer, shard, "test", place, Device::Cpu)
                .map(|_| ())
                .map_err(|e| e.to_string())
        };
        let buffer = Tensor::zeros([8], (Type::Float, Device::Cpu));
        assert_eq!(new(&buffer, Some(&buffer.narrow(0, 4, 4))), Ok(()));
        assert!(new(&buffer, Some(&buffer.narrow(0, 0, 4))).unwrap_err().contains("overlaps"));
        assert!(new(&buffer, Some(&buffer.narrow(0, 4, 3))).unwrap_err().contains("does not fit 2 ranks"));
        assert!(new(&buffer.view([2, 4]).transpose(0, 1), None).unwrap_err().contains("not contiguous"));
        assert!(new(&buffer.to_kind(Type::Bool), None).unwrap_err().contains("cannot be sent"));
    }
}
