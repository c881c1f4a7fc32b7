//! Sharding of the flat units over the ranks, and reduction of gradients: ZeRO (arXiv 1910.02054).
//!
//! | [`Zero`] | whole on each rank | its shard only |
//! |---|---|---|
//! | 0 | weights, gradients, optimizer state | |
//! | 1 | weights, gradients | optimizer state |
//! | 2 | weights | gradients, optimizer state |
//! | 3 | | weights, gradients, optimizer state |
//!
//! [`Weights`] gathers the weights of a block and publishes updates; [`Gradients`] reduces. Both work on
//! [`crate::nn::layout::Unit`]s and know no model. [`Groups`] are the ranks among which they shard. On one rank the shard is the whole unit, and the same code runs.

pub mod gradients;
pub mod groups;
pub mod offload;
pub mod rows;
mod sums;
pub mod weights;

pub use gradients::Gradients;
pub use groups::Groups;
pub use offload::Offload;
pub use rows::Rows;
pub use weights::{Masters, Weights};

use crate::comm::Collective;
use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::Unit;
use std::ops::Range;
use tch::Tensor;

/// The ZeRO stage: what is sharded over the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Zero(u8);

impl Zero {
    pub const ALL: [Zero; 4] = [Zero(0), Zero(1), Zero(2), Zero(3)];

    /// Returns stage 0 to 3; `None` above.
    pub fn new(stage: u8) -> Option<Self> {
        (stage <= 3).then_some(Zero(stage))
    }

    pub fn stage(self) -> u8 {
        self.0
    }

    /// Whether each rank keeps and updates only the optimizer state of its shard.
    pub fn shards_state(self) -> bool {
        self.0 >= 1
    }

    /// Whether a whole gradient exists only until it is reduced.
    pub fn shards_gradients(self) -> bool {
        self.0 >= 2
    }

    /// Whether whole weights exist only while their block runs.
    pub fn shards_weights(self) -> bool {
        self.0 >= 3
    }

    /// Returns the elements of a unit that `rank` updates.
    pub fn owned(self, unit: &Unit, rank: usize, world: usize) -> Range<i64> {
        if self.shards_state() { unit.shard_of(rank) } else { 0..unit.shard * world as i64 }
    }
}

/// Gathers a whole unit from the ranks' `owned` parts (the whole unit if nothing is sharded). Every rank gets it; only
/// the rank that writes it needs it. All ranks call it.
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
