//! Ordered, named parameters as views into the flat buffers of a [`Layout`].
//!
//! [`Params::new`] allocates the buffers of what a [`ParamBuilder`](crate::nn::ParamBuilder) has declared, and makes
//! the tensors that layers compute with. A buffer need not have memory all the time: ranks that shard the weights fill
//! it just before a block runs, and free it after.

use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::{Layout, Unit};
use crate::nn::param_builder::{ParamId, ParamSpec};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// A model's parameters.
#[derive(Debug)]
pub struct Params {
    specs: Vec<ParamSpec>,
    layout: Layout,
    flats: Vec<Tensor>,
    views: Vec<Tensor>,
    kind: Kind,
    /// Units that the current step trains.
    trained: Vec<bool>,
}

impl Params {
    /// Allocates buffers of `kind` on `device` for `specs` and `world` ranks. The weights are zero until they are
    /// loaded; with `empty` the buffers have no memory yet ([`memory::resize_storage`] allocates it).
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(specs: Vec<ParamSpec>, world: usize, kind: Kind, device: Device, empty: bool) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let layout = Layout::new(&specs, world);
        let mut flats = Vec::new();
        let mut views: Vec<Tensor> = specs.iter().map(|_| Tensor::new()).collect();
        for (index, unit) in layout.units().iter().enumerate() {
            let size = [layout.padded(index)];
            let flat = memory::during(Use::Weights, || match empty {
                true => Tensor::f_empty(size, (kind, device)),
                false => Tensor::f_zeros(size, (kind, device)),
            })?;
            for &id in &unit.members {
                let view = slice(&flat, &layout.place(id).1, &specs[id.0].shape);
                views[id.0] = view.set_requires_grad(specs[id.0].trainable);
            }
            if empty {
                // Views are made of allocated storage, and stay valid when it is freed.
                memory::resize_storage(&flat, 0)?;
            }
            flats.push(flat);
        }
        let trained = layout.units().iter().map(Unit::is_trained).collect();
        Ok(Params { specs, layout, flats, views, kind, trained })
    }

    /// Starts a step, counted from 1: weights that are trained later have no gradient in it. Before the first call, all
    /// trained weights have one.
    pub fn begin_step(&mut self, step: u64) {
        for (unit, trained) in self.layout.units().iter().zip(&mut self.trained) {
            let now = unit.is_trained() && unit.starts < step;
            if std::mem::replace(trained, now) != now {
                unit.members.iter().for_each(|id| self.views[id.0] = self.views[id.0].set_requires_grad(now));
            }
        }
    }

    /// Returns whether the current step trains a unit.
    pub fn trains(&self, unit: usize) -> bool {
        self.trained[unit]
    }

    /// Returns the earliest block with weights that the current step trains, where backward ends; the number of blocks
    /// if it trains nothing.
    pub fn first_trained_block(&self) -> usize {
        let trained = self.layout.units().iter().zip(&self.trained).filter(|(_, trained)| **trained);
        trained.filter_map(|(unit, _)| unit.blocks.first().copied()).min().unwrap_or_else(|| self.layout.blocks())
    }

    /// All ids, in declaration order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// The declarations of all parameters.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// The tensor that layers compute with; a leaf if it is trained.
    pub fn view(&self, id: ParamId) -> &Tensor {
        &self.views[id.0]
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether linear layers have adapters; then nothing else is trained but what is saved with them.
    pub fn has_adapters(&self) -> bool {
        self.specs.iter().any(|spec| spec.adapter)
    }

    /// A unit's buffer, `[padded]`.
    pub fn flat(&self, unit: usize) -> &Tensor {
        &self.flats[unit]
    }

    /// The dtype of weights, activations and their gradients.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn device(&self) -> Device {
        self.flats.first().map_or(Device::Cpu, Tensor::device)
    }

    /// Number of parameters (elements, not tensors).
    pub fn numel(&self) -> i64 {
        self.specs.iter().map(ParamSpec::numel).sum()
    }

    /// Returns the parameters of a unit, each with its part of `whole`, a buffer with the unit's layout.
    pub fn members<'a>(&'a self, unit: usize, whole: &'a Tensor) -> impl Iterator<Item = (ParamId, Tensor)> + 'a {
        let part = |&id: &ParamId| (id, slice(whole, &self.layout.place(id).1, &self.spec(id).shape));
        self.layout.units()[unit].members.iter().map(part)
    }
}

/// Returns the elements `range` of a flat buffer as `shape`, sharing memory, detached from autograd.
pub fn slice(flat: &Tensor, range: &Range<i64>, shape: &[i64]) -> Tensor {
    part(flat, range).view(shape).detach()
}

/// Returns the elements `range` of a flat buffer, sharing memory, detached from autograd.
pub fn part(flat: &Tensor, range: &Range<i64>) -> Tensor {
    flat.detach().narrow(0, range.start, range.end - range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, ParamBuilder};

    /// Weights that are trained later have no gradient before, and backward ends at the first that has one.
    #[test]
    fn a_step_trains_what_has_started() {
        let mut b = ParamBuilder::new();
        let ids: Vec<ParamId> =
            (0..4).map(|block| b.block(block, |b| b.weight(&block.to_string(), &[2, 2], Init::Zeros))).collect();
        let mut specs = b.finish();
        for (spec, starts) in specs.iter_mut().zip([4, 0, 2, 0]) {
            spec.starts = starts;
        }
        specs[1].trainable = false;
        let mut params = Params::new(specs, 1, Kind::Float, Device::Cpu, false).unwrap();
        let trained = |params: &Params| ids.iter().map(|&id| params.view(id).requires_grad()).collect::<Vec<_>>();
        assert_eq!((trained(&params), params.first_trained_block()), (vec![true, false, true, true], 0));
        for (step, wanted, first) in [
            (1, [false, false, false, true], 3),
            (2, [false, false, false, true], 3),
            (3, [false, false, true, true], 2),
            (5, [true, false, true, true], 0),
            (3, [false, false, true, true], 2),
        ] {
            params.begin_step(step);
            assert_eq!((trained(&params), params.first_trained_block()), (wanted.to_vec(), first), "step {step}");
            let units = (0..4).map(|unit| params.trains(unit)).collect::<Vec<_>>();
            assert_eq!(units, wanted);
        }
    }
}
