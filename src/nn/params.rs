//! Ordered, named parameters, stored as views into one flat buffer a stage.
//!
//! A model declares its parameters with a [`ParamBuilder`]; [`Params::new`] then lays every stage out:
//!
//! ```text
//! weights of stage s   [ decayed ............ | not decayed ... ]   f32, contiguous
//! gradients            the same layout
//! ```
//!
//! so that a hyper-parameter group is a contiguous range, a collective takes a whole stage, and an optimizer call a
//! whole group. The layout is a pure function of the ordered specs: ranks compare [`Params::fingerprint`].

use crate::error::Result;
use crate::ffi;
use crate::nn::rng;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// A parameter of the model: its index in declaration order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

impl ParamId {
    /// The position in declaration order, the same on every rank.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How a weight that no file gives starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with mean 0, drawn from (seed, parameter name).
    Normal {
        std: f64,
    },
}

/// What a model says of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The native name, unique in the model: `encoder.layer.0.attention.qkv.weight`.
    pub name: String,
    pub shape: Vec<i64>,
    /// The stage that owns it.
    pub stage: usize,
    pub init: Init,
    /// Whether weight decay applies: not to biases and norms.
    pub decay: bool,
    /// A vocabulary table that nothing but look-ups use: its gradient is zero outside the rows of the batch's tokens, so
    /// only those are cleared, reduced and measured.
    pub row_sparse: bool,
    /// Belongs to a head that may start fresh when the file lacks it.
    pub fresh: bool,
}

impl ParamSpec {
    /// The number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Collects the parameters of a model in order, with dotted names.
#[derive(Debug, Default)]
pub struct ParamBuilder {
    specs: Vec<ParamSpec>,
    path: Vec<String>,
    stage: usize,
    fresh: bool,
}

impl ParamBuilder {
    /// An empty declaration, at stage 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares what `body` declares under `name.`.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let value = body(self);
        self.path.pop();
        value
    }

    /// Declares what `body` declares as owned by `stage`.
    pub fn stage<T>(&mut self, stage: usize, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.stage, stage);
        let value = body(self);
        self.stage = before;
        value
    }

    /// Declares what `body` declares as a head, which may start fresh.
    pub fn fresh<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.fresh, true);
        let value = body(self);
        self.fresh = before;
        value
    }

    /// A matrix, decayed.
    pub fn weight(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.add(name, shape, init, true, false)
    }

    /// A bias or a norm's scale, not decayed.
    pub fn vector(&mut self, name: &str, size: i64, init: Init) -> ParamId {
        self.add(name, &[size], init, false, false)
    }

    /// A vocabulary table `[rows, width]` that only look-ups of the batch's tokens use.
    pub fn vocabulary(&mut self, name: &str, rows: i64, width: i64, init: Init) -> ParamId {
        self.add(name, &[rows, width], init, true, true)
    }

    fn add(&mut self, name: &str, shape: &[i64], init: Init, decay: bool, row_sparse: bool) -> ParamId {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        let name = path.join(".");
        debug_assert!(self.specs.iter().all(|s| s.name != name), "parameter {name} is declared twice");
        let (stage, fresh) = (self.stage, self.fresh);
        self.specs.push(ParamSpec { name, shape: shape.to_vec(), stage, init, decay, row_sparse, fresh });
        ParamId(self.specs.len() - 1)
    }

    /// The declared parameters, in order.
    pub fn finish(self) -> Vec<ParamSpec> {
        self.specs
    }
}

/// A contiguous range of a stage's buffers with the same hyper-parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub decay: bool,
    pub range: Range<i64>,
}

/// One stage's weights and gradients.
#[derive(Debug)]
pub struct FlatStage {
    /// f32 `[n]`.
    pub weights: Tensor,
    /// f32 `[n]`, the same layout; empty until [`Params::with_gradients`].
    pub grads: Tensor,
    pub groups: Vec<Group>,
    /// The parameters of this stage, in the order of the buffer.
    pub members: Vec<ParamId>,
}

/// A model's parameters.
#[derive(Debug)]
pub struct Params {
    specs: Vec<ParamSpec>,
    stages: Vec<FlatStage>,
    ranges: Vec<Range<i64>>,
    views: Vec<Tensor>,
    grads: Vec<Tensor>,
}

impl Params {
    /// Lays `specs` out on `device`. The weights are not set yet: [`Params::init`] or a checkpoint does that.
    pub fn new(specs: Vec<ParamSpec>, device: Device) -> Self {
        Self::of_kind(specs, Kind::Float, device)
    }

    /// The same with weights and gradients of `kind`.
    pub fn of_kind(specs: Vec<ParamSpec>, kind: Kind, device: Device) -> Self {
        let _guard = tch::no_grad_guard();
        let count = specs.iter().map(|s| s.stage + 1).max().unwrap_or(0);
        let mut ranges = vec![0..0; specs.len()];
        let mut stages = Vec::with_capacity(count);
        for stage in 0..count {
            let mut members: Vec<ParamId> =
                (0..specs.len()).filter(|&i| specs[i].stage == stage).map(ParamId).collect();
            // Row-sparse tables come first, so that the dense rest of a stage is one range.
            members.sort_by_key(|id| (!specs[id.0].decay, !specs[id.0].row_sparse, id.0));
            let mut groups: Vec<Group> = Vec::new();
            let mut end = 0;
            for id in &members {
                let (start, spec) = (end, &specs[id.0]);
                end += spec.numel();
                ranges[id.0] = start..end;
                match groups.last_mut() {
                    Some(group) if group.decay == spec.decay => group.range.end = end,
                    _ => groups.push(Group { decay: spec.decay, range: start..end }),
                }
            }
            let weights = Tensor::zeros([end], (kind, device));
            let grads = Tensor::zeros([0], (kind, device));
            stages.push(FlatStage { weights, grads, groups, members });
        }
        let views = specs
            .iter()
            .zip(&ranges)
            .map(|(spec, range)| slice(&stages[spec.stage].weights, range, &spec.shape))
            .collect();
        Params { specs, stages, ranges, views, grads: Vec::new() }
    }

    /// Makes the gradient buffers, zeroed, and turns every parameter into a leaf that accumulates into them.
    ///
    /// # Errors
    /// Out of memory.
    pub fn with_gradients(mut self) -> Result<Self> {
        for stage in &mut self.stages {
            stage.grads = stage.weights.f_zeros_like()?;
        }
        for (i, spec) in self.specs.iter().enumerate() {
            let grad = slice(&self.stages[spec.stage].grads, &self.ranges[i], &spec.shape);
            self.views[i] = self.views[i].set_requires_grad(true);
            ffi::set_grad(&self.views[i], &grad)?;
            self.grads.push(grad);
        }
        Ok(self)
    }

    /// Fills these parameters by their [`Init`], drawn from (seed, name).
    pub fn init<'a>(&self, seed: u64, ids: impl IntoIterator<Item = &'a ParamId>) {
        for &id in ids {
            let spec = self.spec(id);
            let mut weight = self.weight(id);
            match spec.init {
                Init::Zeros => _ = weight.zero_(),
                Init::Ones => _ = weight.fill_(1.0),
                Init::Normal { std } => {
                    let values = rng::normal(rng::key(seed, &[rng::hash_name(&spec.name)]), spec.numel() as usize, std);
                    weight.copy_(&Tensor::from_slice(&values).view(spec.shape.as_slice()));
                }
            }
        }
    }

    /// All ids, in declaration order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// What was declared.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// The tensor that layers compute with (a leaf when gradients are on).
    pub fn view(&self, id: ParamId) -> &Tensor {
        &self.views[id.0]
    }

    /// The weight outside of autograd, sharing memory: for loading, saving and in-place updates.
    pub fn weight(&self, id: ParamId) -> Tensor {
        self.views[id.0].detach()
    }

    /// The gradient, a view into its stage's buffer.
    ///
    /// # Panics
    /// Without [`Params::with_gradients`].
    pub fn grad(&self, id: ParamId) -> &Tensor {
        &self.grads[id.0]
    }

    /// Where the parameter lies in its stage's buffers.
    pub fn range(&self, id: ParamId) -> Range<i64> {
        self.ranges[id.0].clone()
    }

    /// The stages, in the order of the forward pass.
    pub fn stages(&self) -> &[FlatStage] {
        &self.stages
    }

    /// The number of parameters (elements, not tensors).
    pub fn numel(&self) -> i64 {
        self.specs.iter().map(ParamSpec::numel).sum()
    }

    /// A hash of the layout, to be compared between ranks.
    pub fn fingerprint(&self) -> u64 {
        let text: String = self
            .specs
            .iter()
            .zip(&self.ranges)
            .map(|(s, r)| format!("{} {:?} {} {} {r:?};", s.name, s.shape, s.stage, s.decay))
            .collect();
        rng::hash_name(&text)
    }
}

/// `shape` over the elements `range` of a flat buffer, sharing memory, outside of autograd.
pub fn slice(flat: &Tensor, range: &Range<i64>, shape: &[i64]) -> Tensor {
    flat.detach().narrow(0, range.start, range.end - range.start).view(shape).detach()
}
