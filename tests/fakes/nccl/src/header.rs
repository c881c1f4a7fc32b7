//! The part of an operation that must be equal on all ranks.

use crate::element::{Element, Operator};
use crate::failure::Failure;
use std::fmt::{self, Display};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast { root: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Index among the communicator's operations, from 0.
    pub sequence: u64,
    pub action: Action,
    pub element: Element,
    pub operator: Operator,
    /// Count as in the call: with shards, the elements of one.
    pub count: usize,
    /// Index in its group, and the group's size.
    pub place: (usize, usize),
}

impl Header {
    pub const BYTES: usize = 64;

    pub fn new(action: Action, element: Element, operator: Operator, count: usize) -> Header {
        Header { sequence: 0, action, element, operator, count, place: (0, 1) }
    }

    /// Encodes the header for the exchange between ranks: equal if and only if the headers are.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let (action, root) = match self.action {
            Action::AllReduce => (0, 0),
            Action::ReduceScatter => (1, 0),
            Action::AllGather => (2, 0),
            Action::Broadcast { root } => (3, root),
        };
        let (element, operator) = (self.element as usize, self.operator as usize);
        let words = [self.sequence as usize, action, root, element, operator, self.count, self.place.0, self.place.1];
        let mut bytes = [0; Self::BYTES];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = (word as u64).to_le_bytes();
        }
        bytes
    }

    /// The inverse; `None` for invalid bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Header> {
        let words: Vec<usize> =
            bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word) as usize).collect();
        let &[sequence, action, root, element, operator, count, index, group] = &words[..] else { return None };
        let action = match action {
            0 => Action::AllReduce,
            1 => Action::ReduceScatter,
            2 => Action::AllGather,
            3 => Action::Broadcast { root },
            _ => return None,
        };
        let element = Element::read(element.try_into().ok()?).ok()?;
        let operator = Operator::read(operator.try_into().ok()?).ok()?;
        Some(Header { sequence: sequence as u64, action, element, operator, count, place: (index, group) })
    }

    /// Returns an error if the ranks, in rank order, have not called the same operation.
    pub fn disagreement(headers: &[Header]) -> Option<Failure> {
        let first = headers.first()?;
        if headers.iter().all(|header| header == first) {
            return None;
        }
        let sides: Vec<String> =
            headers.iter().enumerate().map(|(rank, header)| format!("rank {rank}: {header}")).collect();
        let text = format!("the ranks differ in collective {}: {}", first.sequence, sides.join("; "));
        Some(Failure::usage(text))
    }
}

impl Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.action, self.operator) {
            (Action::AllReduce, Operator::Sum) => write!(f, "all-reduce (sum)")?,
            (Action::AllReduce, Operator::Max) => write!(f, "all-reduce (max)")?,
            (Action::ReduceScatter, _) => write!(f, "reduce-scatter")?,
            (Action::AllGather, _) => write!(f, "all-gather")?,
            (Action::Broadcast { root }, _) => write!(f, "broadcast from rank {root}")?,
        }
        write!(f, " of {} {}", self.count, self.element.name())?;
        if matches!(self.action, Action::ReduceScatter | Action::AllGather) {
            write!(f, " a rank")?;
        }
        match self.place {
            (_, 1) => Ok(()),
            (index, group) => write!(f, ", {} of {group} in its group", index + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_journey_and_tell_their_differences() {
        let header = Header::new(Action::Broadcast { root: 3 }, Element::Bf16, Operator::Sum, 7);
        let grouped = Header { sequence: 9, place: (1, 4), ..header };
        for header in [header, grouped] {
            assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
        }
        assert_eq!(Header::from_bytes(&[0xff; Header::BYTES]), None);
        assert!(Header::disagreement(&[header, header]).is_none());
        let text = Header::disagreement(&[grouped, Header { count: 8, ..grouped }]).unwrap().text;
        let sides =
            "rank 0: broadcast from rank 3 of 7 bf16, 2 of 4 in its group; rank 1: broadcast from rank 3 of 8 bf16";
        assert!(text.contains("collective 9") && text.contains(sides), "{text}");
    }
}
