//! Who holds which part of the flat units, and how the ranks' gradients become one: ZeRO (arXiv 1910.02054).
//!
//! | [`Zero`] | a rank holds whole | its shard only |
//! |---|---|---|
//! | 0 | weights, gradients, optimizer state | |
//! | 1 | weights, gradients | optimizer state |
//! | 2 | weights | gradients, optimizer state |
//! | 3 | | weights, gradients, optimizer state |
//!
//! [`Weights`] gathers what a stage computes with and publishes what an update changed, [`Gradients`] reduces. All of it
//! works on [`crate::nn::layout::Unit`]s and knows no model. On one rank a shard is the whole, and the same code runs.

pub mod gradients;
pub mod rows;
pub mod weights;

pub use gradients::Gradients;
pub use rows::Rows;
pub use weights::Weights;

use crate::comm::Collective;
use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::Unit;
use std::ops::Range;
use tch::Tensor;

/// What is sharded over the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zero(u8);

impl Zero {
    /// All stages.
    pub const ALL: [Zero; 4] = [Zero(0), Zero(1), Zero(2), Zero(3)];

    /// Stage 0 to 3; `None` above.
    pub fn new(stage: u8) -> Option<Self> {
        (stage <= 3).then_some(Zero(stage))
    }

    /// Its number.
    pub fn stage(self) -> u8 {
        self.0
    }

    /// Whether each rank keeps the optimizer state of its shard only, and updates that.
    pub fn shards_state(self) -> bool {
        self.0 >= 1
    }

    /// Whether a whole gradient lives only until it is reduced.
    pub fn shards_gradients(self) -> bool {
        self.0 >= 2
    }

    /// Whether whole weights live only while their stage runs.
    pub fn shards_weights(self) -> bool {
        self.0 >= 3
    }

    /// The elements of a unit that `rank` updates.
    pub fn owned(self, unit: &Unit, rank: usize, world: usize) -> Range<i64> {
        if self.shards_state() { unit.shard_of(rank) } else { 0..unit.shard * world as i64 }
    }
}

/// The whole of a unit from the ranks' `owned` parts (all of it, where nothing is sharded): on every rank that has a part
/// to give, but meant for one that writes it down. All ranks call it.
///
/// # Errors
/// A dead or late rank; out of memory.
pub fn whole(comm: &dyn Collective, zero: Zero, owned: &Tensor, what: &str) -> Result<Tensor> {
    if !zero.shards_state() {
        return Ok(owned.shallow_clone());
    }
    let size = [owned.size()[0] * comm.world() as i64];
    let whole = memory::during(Use::Communication, || Tensor::f_zeros(size, (owned.kind(), owned.device())))?;
    comm.start_all_gather(owned, &whole, what)?.wait()?;
    Ok(whole)
}
