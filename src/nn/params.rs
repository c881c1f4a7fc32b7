//! Ordered, named parameters as views into the flat buffers of a [`Layout`].
//!
//! [`Params::new`] allocates the buffers of what a [`ParamBuilder`](crate::nn::ParamBuilder) has declared, and makes
//! the tensors that layers compute with. A buffer need not have memory all the time: ranks that shard the weights fill
//! it just before a block runs, and free it after.

use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::nn::layout::Layout;
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
        Ok(Params { specs, layout, flats, views, kind })
    }

    /// All ids, in declaration order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
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
