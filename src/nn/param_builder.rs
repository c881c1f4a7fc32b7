//! Declaration of a model's parameters: names, shapes, blocks and initialization, in order.

use crate::nn::rng;
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
    /// Other stages that compute with it: a tied head, a layer used again.
    pub borrowers: Vec<usize>,
    pub init: Init,
    /// Whether weight decay applies: not to biases and norms.
    pub decay: bool,
    /// A vocabulary table that nothing but look-ups use: its gradient is zero outside the rows of the batch's tokens, so
    /// only those are cleared, reduced and measured.
    pub row_sparse: bool,
    /// Belongs to a head that may start fresh when the file lacks it.
    pub fresh: bool,
    /// Whether it is trained; what is not has no gradient and no optimizer state.
    pub trainable: bool,
}

impl ParamSpec {
    /// The number of elements.
    pub fn numel(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Fresh values on the CPU, f32 of its shape, drawn from (seed, name).
    pub fn draw(&self, seed: u64) -> Tensor {
        let shape = self.shape.as_slice();
        match self.init {
            Init::Zeros => Tensor::zeros(shape, (Kind::Float, Device::Cpu)),
            Init::Ones => Tensor::ones(shape, (Kind::Float, Device::Cpu)),
            Init::Normal { std } => {
                let key = rng::key(seed, &[rng::hash_name(&self.name)]);
                Tensor::from_slice(&rng::normal(key, self.numel() as usize, std)).view(shape)
            }
        }
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

    /// A table of biases, not decayed.
    pub fn bias_table(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        self.add(name, shape, init, false, false)
    }

    /// A vocabulary table `[rows, width]` that only look-ups of the batch's tokens use.
    pub fn vocabulary(&mut self, name: &str, rows: i64, width: i64, init: Init) -> ParamId {
        self.add(name, &[rows, width], init, true, true)
    }

    /// Declares what `body` declares as owned by the first of `stages` and borrowed by the others.
    ///
    /// # Panics
    /// Without a stage.
    pub fn shared<T>(&mut self, stages: &[usize], body: impl FnOnce(&mut Self) -> T) -> T {
        let declared = self.specs.len();
        let value = self.stage(stages[0], body);
        for &stage in &stages[1..] {
            self.stage(stage, |b| (declared..b.specs.len()).for_each(|id| b.borrow(ParamId(id))));
        }
        value
    }

    /// A tensor of the file that is kept as it is: never trained.
    pub fn constant(&mut self, name: &str, shape: &[i64], init: Init) -> ParamId {
        let id = self.add(name, shape, init, false, false);
        self.specs[id.0].trainable = false;
        id
    }

    /// The builder's stage computes with a parameter of an earlier one: their weight is one, and so is its gradient.
    pub fn borrow(&mut self, id: ParamId) {
        let (stage, spec) = (self.stage, &mut self.specs[id.0]);
        assert!(!spec.row_sparse, "{}: a borrowed table is not looked up only: declare it by weight()", spec.name);
        spec.borrowers.push(stage);
    }

    /// The builder's stage looks up rows of an earlier one's table: it stays one that only look-ups use.
    pub fn borrow_rows(&mut self, id: ParamId) {
        self.specs[id.0].borrowers.push(self.stage);
    }

    fn add(&mut self, name: &str, shape: &[i64], init: Init, decay: bool, row_sparse: bool) -> ParamId {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        let name = path.join(".");
        debug_assert!(self.specs.iter().all(|s| s.name != name), "parameter {name} is declared twice");
        let (stage, fresh) = (self.stage, self.fresh);
        self.specs.push(ParamSpec {
            name,
            shape: shape.to_vec(),
            stage,
            borrowers: Vec::new(),
            init,
            decay,
            row_sparse,
            fresh,
            trainable: true,
        });
        ParamId(self.specs.len() - 1)
    }

    /// The declared parameters, in order.
    pub fn finish(self) -> Vec<ParamSpec> {
        self.specs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In release builds too: the gradient of such a weight would be lost without a word.
    #[test]
    #[should_panic(expected = "words: a borrowed table is not looked up only")]
    fn a_vocabulary_is_not_lent() {
        let mut b = ParamBuilder::new();
        let words = b.vocabulary("words", 7, 5, Init::Zeros);
        b.stage(1, |b| b.borrow(words));
    }

    #[test]
    fn all_of_a_shared_part_is_lent() {
        let mut b = ParamBuilder::new();
        b.vector("before", 3, Init::Zeros);
        b.shared(&[2, 3, 5], |b| [b.weight("w", &[2, 2], Init::Zeros), b.vector("b", 2, Init::Zeros)]);
        b.vector("after", 3, Init::Zeros);
        let places: Vec<_> = b.finish().into_iter().map(|spec| (spec.name, spec.stage, spec.borrowers)).collect();
        let of = |name: &str, stage, borrowers: &[usize]| (name.to_owned(), stage, borrowers.to_vec());
        assert_eq!(places, [of("before", 0, &[]), of("w", 2, &[3, 5]), of("b", 2, &[3, 5]), of("after", 0, &[])]);
    }
}
