//! Declaration of a model's parameters: names, shapes, blocks and initialization, in order.

use crate::nn::rng;
use std::sync::{Arc, OnceLock};
use tch::{Device, Kind, Tensor};

/// A parameter of the model: its index in declaration order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub(super) usize);

impl ParamId {
    /// The position in declaration order, the same on every rank.
    pub fn index(self) -> usize {
        self.0
    }
}

/// The initialization of a weight that no file provides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with mean 0, a function of (seed, parameter name).
    Normal {
        std: f64,
    },
    /// Uniform over `[-bound, bound)`, a function of (seed, parameter name).
    Uniform {
        bound: f64,
    },
    /// The norm of each row of the weight that a DoRA adapter changes. It is computed where the weight is read; a newly
    /// initialized model has ones.
    RowNorms,
}

/// The low-rank adapter of a linear layer ([`crate::nn::lora`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The parts of the layer's output, in order: those of a fused weight, else one.
    pub pieces: Vec<Piece>,
    /// A of all adapted parts, `[parts * r, in]`.
    pub a: ParamId,
    /// B of all adapted parts, `[sum of their rows, r]`.
    pub b: ParamId,
    /// The magnitudes of DoRA, `[sum of their rows]`.
    pub magnitude: Option<ParamId>,
    pub r: i64,
    /// The factor of B A.
    pub scale: f64,
    /// Dropout on the input of A.
    pub dropout: f64,
}

/// A part of a linear layer's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub rows: i64,
    pub adapted: bool,
}

/// The place of a linear layer's adapter, which the layer and the declaration of its weight share. It is filled after
/// the model is declared, and at most once: with `None` if the weight is frozen and has no adapter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterSlot(Arc<OnceLock<Option<Adapter>>>);

impl AdapterSlot {
    /// Fills the slot.
    ///
    /// # Panics
    /// If it is filled already.
    pub fn set(&self, adapter: Option<Adapter>) {
        assert!(self.0.set(adapter).is_ok(), "a layer gets its adapter once");
    }

    pub fn adapter(&self) -> Option<&Adapter> {
        self.0.get()?.as_ref()
    }

    /// Returns whether the weight is frozen, with or without an adapter.
    pub fn freezes(&self) -> bool {
        self.0.get().is_some()
    }
}

/// The declaration of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// The native name, unique in the model: `encoder.layer.0.attention.qkv.weight`.
    pub name: String,
    pub shape: Vec<i64>,
    /// The block that owns it.
    pub block: usize,
    /// Other blocks that compute with it: a tied head, a layer used again.
    pub borrowers: Vec<usize>,
    pub init: Init,
    /// Whether weight decay applies; it does not to biases and norms.
    pub decay: bool,
    /// An embedding matrix that is used only for look-ups: its gradient is zero outside the rows of the batch's tokens,
    /// so only those are cleared, reduced and measured.
    pub row_sparse: bool,
    /// Belongs to a head that may be newly initialized if the file lacks it.
    pub newly_initialized: bool,
    /// Whether it is trained; a frozen parameter has no gradient and no optimizer state.
    pub trainable: bool,
    /// Number of steps before the first that trains it: gradual unfreezing.
    pub starts: u64,
    /// The factor of the scheduled learning rate.
    pub rate: f64,
    /// The weight decay if [`ParamSpec::decay`]; `None` for that of the run.
    pub weight_decay: Option<f64>,
    /// Whether it is a linear layer's weight that is kept in int8, for inference on a CPU.
    pub int8: bool,
    /// Of a linear layer's weight: where its adapter is.
    pub linear: Option<AdapterSlot>,
    /// Belongs to an adapter.
    pub adapter: bool,
}

impl ParamSpec {
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Returns newly initialized values on the CPU, f32 of its shape, a function of (seed, name).
    pub fn initialize(&self, seed: u64) -> Tensor {
        let shape = self.shape.as_slice();
        match self.init {
            Init::Zeros => Tensor::zeros(shape, (Kind::Float, Device::Cpu)),
            Init::Ones | Init::RowNorms => Tensor::ones(shape, (Kind::Float, Device::Cpu)),
            Init::Normal { std } => {
                let key = rng::key(seed, &[rng::hash_name(&self.name)]);
                Tensor::from_slice(&rng::normal(key, self.numel() as usize, std)).view(shape)
            }
            Init::Uniform { bound } => {
                let key = rng::key(seed, &[rng::hash_name(&self.name)]);
                Tensor::from_slice(&rng::uniform(key, self.numel() as usize, bound)).view(shape)
            }
        }
    }
}

/// Declares the parameters of a model in order, with dotted names.
#[derive(Debug, Default)]
pub struct ParamBuilder {
    specs: Vec<ParamSpec>,
    path: Vec<String>,
    block: usize,
    newly_initialized: bool,
}

impl ParamBuilder {
    /// Returns an empty declaration, at block 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares the parameters of `body` under `name.`.
    pub fn scope<T>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(name.to_owned());
        let value = body(self);
        self.path.pop();
        value
    }

    /// Declares the parameters of `body` as owned by block `block`.
    pub fn block<T>(&mut self, block: usize, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.block, block);
        let value = body(self);
        self.block = before;
        value
    }

    /// Declares the parameters of `body` as a head, which may be newly initialized.
    pub fn newly_initialized<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.newly_initialized, true);
        let value = body(self);
        self.newly_initialized = before;
        value
    }

    /// Declares a matrix, with weight decay.
    pub fn weight(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.add(name, shape, init, true, false)
    }

    /// Declares a linear layer's matrix `[outputs, inputs]`, with weight decay, and the place of its adapter.
    pub fn linear(&mut self, name: &str, shape: &[i64], init: Init) -> (ParamId, AdapterSlot) {
        let (id, slot) = (self.weight(name, shape, init), AdapterSlot::default());
        self.specs[id.0].linear = Some(slot.clone());
        (id, slot)
    }

    /// Declares a bias or a norm's scale, without weight decay.
    pub fn vector(&mut self, name: &str, size: i64, init: Init) -> ParamId {
        self.add(name, &[size], init, false, false)
    }

    /// Declares a bias matrix, without weight decay.
    pub fn bias_table(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.add(name, shape, init, false, false)
    }

    /// Declares an embedding matrix `[rows, width]` that is used only for look-ups of the batch's tokens.
    pub fn vocabulary(&mut self, name: &str, rows: i64, width: i64, init: Init) -> ParamId {
        self.add(name, &[rows, width], init, true, true)
    }

    /// Declares the parameters of `body` as owned by the first of `blocks` and borrowed by the others.
    ///
    /// # Panics
    /// If `blocks` is empty.
    pub fn shared<T>(&mut self, blocks: &[usize], body: impl FnOnce(&mut Self) -> T) -> T {
        let declared = self.specs.len();
        let value = self.block(blocks[0], body);
        for &block in &blocks[1..] {
            self.block(block, |b| (declared..b.specs.len()).for_each(|id| b.borrow(ParamId(id))));
        }
        value
    }

    /// Declares a tensor of the file that is kept as it is and never trained.
    pub fn constant(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        let id = self.add(name, shape, init, false, false);
        self.specs[id.0].trainable = false;
        id
    }

    /// Lets the builder's block compute with a parameter of an earlier one: they share the weight and its gradient.
    pub fn borrow(&mut self, id: ParamId) {
        let (block, spec) = (self.block, &mut self.specs[id.0]);
        assert!(!spec.row_sparse, "{}: a borrowed table is not looked up only: declare it by weight()", spec.name);
        spec.borrowers.push(block);
    }

    /// Lets the builder's block look up rows of an earlier block's embedding matrix, which stays row-sparse.
    pub fn borrow_rows(&mut self, id: ParamId) {
        self.specs[id.0].borrowers.push(self.block);
    }

    fn add(&mut self, name: &str, shape: &[i64], init: Init, decay: bool, row_sparse: bool) -> ParamId {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        let name = path.join(".");
        debug_assert!(self.specs.iter().all(|s| s.name != name), "parameter {name} is declared twice");
        let (block, newly_initialized) = (self.block, self.newly_initialized);
        self.specs.push(ParamSpec {
            name,
            shape: shape.to_vec(),
            block,
            borrowers: Vec::new(),
            init,
            decay,
            row_sparse,
            newly_initialized,
            trainable: true,
            starts: 0,
            rate: 1.0,
            weight_decay: None,
            int8: false,
            linear: None,
            adapter: false,
        });
        ParamId(self.specs.len() - 1)
    }

    /// Returns the declared parameters, in order.
    pub fn finish(self) -> Vec<ParamSpec> {
        self.specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also in release builds: the gradient of such a weight would be lost silently.
    #[test]
    #[should_panic(expected = "words: a borrowed table is not looked up only")]
    fn a_vocabulary_is_not_lent() {
        let mut b = ParamBuilder::new();
        let words = b.vocabulary("words", 7, 5, Init::Zeros);
        b.block(1, |b| b.borrow(words));
    }

    #[test]
    fn all_of_a_shared_part_is_lent() {
        let mut b = ParamBuilder::new();
        b.vector("before", 3, Init::Zeros);
        b.shared(&[2, 3, 5], |b| [b.weight("w", &[2, 2], Init::Zeros), b.vector("b", 2, Init::Zeros)]);
        b.vector("after", 3, Init::Zeros);
        let places: Vec<_> = b.finish().into_iter().map(|spec| (spec.name, spec.block, spec.borrowers)).collect();
        let of = |name: &str, block, borrowers: &[usize]| (name.to_owned(), block, borrowers.to_vec());
        assert_eq!(places, [of("before", 0, &[]), of("w", 2, &[3, 5]), of("b", 2, &[3, 5]), of("after", 0, &[])]);
    }
}
