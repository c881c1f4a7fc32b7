//! The state of a unit: named flat buffers in the unit's layout.

use crate::error::Result;
use crate::optim::gradient::{narrow, overlap};
use std::ops::Range;
use tch::{Kind, Tensor};

/// One kind of state of a unit: an f32 value of each element in some ranges of the unit, of which a rank has what is in
/// its shard.
#[derive(Debug)]
pub struct Held {
    /// The prefix of parameter names in a checkpoint.
    pub name: &'static str,
    /// Ranges of the unit, ascending.
    pub covers: Vec<Range<i64>>,
    /// The elements of the unit that the rank updates.
    owned: Range<i64>,
    /// f32 `[n]`, the owned elements of the ranges, one after another.
    buffer: Tensor,
}

impl Held {
    /// Allocates zeros for the ranges of a unit of which `weights` `[n]` are the elements `owned`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(name: &'static str, covers: Vec<Range<i64>>, owned: Range<i64>, weights: &Tensor) -> Result<Self> {
        let size: i64 = covers.iter().map(|range| overlap(range, &owned)).map(|range| range.end - range.start).sum();
        let buffer = Tensor::f_zeros([size], (Kind::Float, weights.device()))?;
        Ok(Held { name, covers, owned, buffer })
    }

    /// Returns what the rank has, each range of the unit with its values.
    pub fn targets(&self) -> Vec<(Range<i64>, Tensor)> {
        let mut first = 0;
        let of = |range: &Range<i64>| {
            let range = overlap(range, &self.owned);
            let size = range.end - range.start;
            let part = self.buffer.narrow(0, first, size);
            first += size;
            (range, part)
        };
        self.covers.iter().map(of).filter(|(range, _)| !range.is_empty()).collect()
    }

    /// Returns the values of a range that the rank has, sharing memory.
    pub fn part(&self, range: &Range<i64>) -> Option<Tensor> {
        let holds = |(held, _): &(Range<i64>, Tensor)| held.start <= range.start && range.end <= held.end;
        self.targets().into_iter().find(holds).map(|(held, part)| narrow(&part, range, held.start))
    }

    /// Returns whether the state is of all elements of this range.
    pub fn has(&self, range: &Range<i64>) -> bool {
        self.covers.iter().any(|held| held.start <= range.start && range.end <= held.end)
    }

    /// Returns the values of all owned elements `[n]`, zero where there is no state, for gathering.
    ///
    /// # Errors
    /// Out of memory.
    pub fn spread(&self) -> Result<Tensor> {
        let size = self.owned.end - self.owned.start;
        if self.buffer.size() == [size] {
            return Ok(self.buffer.shallow_clone());
        }
        let all = Tensor::f_zeros([size], (Kind::Float, self.buffer.device()))?;
        for (range, part) in self.targets() {
            narrow(&all, &range, self.owned.start).f_copy_(&part)?;
        }
        Ok(all)
    }

    pub fn bytes(&self) -> u64 {
        4 * self.buffer.numel() as u64
    }
}
