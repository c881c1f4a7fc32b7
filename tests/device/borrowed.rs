//! Weights that several blocks use: a table tied to the head, a table whose rows several blocks look up, a layer that
//! runs again at once and later. Whatever is
//! sharded, recomputed or rounded, their gradients are those of one plain backward of the same function, and an update
//! reaches all their uses.

use crate::common::device::{device, tolerance};
use crate::common::reference::{alone, touched};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tch::{Device, Kind, Reduction, Tensor};
use trainer::comm::{Collective, threads};
use trainer::data::batch::{Batch, Labels};
use trainer::data::ragged::Sequences;
use trainer::data::{Dataset, Extents};
use trainer::metrics::Metrics;
use trainer::models::hf_names::HfNames;
use trainer::models::{Backbone, Boundary, Reads};
use trainer::nn::linear::HeadInput;
use trainer::nn::param_builder::ParamSpec;
use trainer::nn::{ComputeMode, Cost, Ctx, Init, ParamBuilder, ParamId, Params, Pass};
use trainer::ops::cross_entropy::Projection;
use trainer::parallel::{Gradients, Weights, Zero};
use trainer::tasks::{Model, Results, Task};
use trainer::train::blockwise::{Blockwise, Recompute};

const VOCABULARY: i64 = 11;
const WIDTH: i64 = 6;
/// The layers `a a b a`: blocks 1 to 4.
const LAYERS: usize = 4;
/// The one that looks up the second table again.
const AGAIN: usize = 2;

/// Block 0 looks up two tables, and hands `[x, memory]` on; a layer is `tanh(x W) + gate * memory`. `memory` passes
/// through every boundary as it is. The first table is the head's matrix too; the second is looked up again in one layer.
struct Toy {
    words: ParamId,
    places: ParamId,
    bias: ParamId,
    layers: Vec<(ParamId, ParamId)>,
    json: Value,
}

impl Toy {
    fn new(b: &mut ParamBuilder) -> Self {
        let init = Init::Normal { std: 0.4 };
        let words = b.weight("words", &[VOCABULARY, WIDTH], init);
        let places = b.vocabulary("places", VOCABULARY, WIDTH, init);
        let bias = b.vector("bias", WIDTH, init);
        let mut layer = |name: &str, block| {
            b.block(block, |b| b.scope(name, |b| (b.weight("w", &[WIDTH, WIDTH], init), b.vector("gate", WIDTH, init))))
        };
        let (first, other) = (layer("a", 1), layer("b", 3));
        for block in [2, 4] {
            b.block(block, |b| [first.0, first.1].map(|id| b.borrow(id)));
        }
        b.block(AGAIN, |b| b.borrow_rows(places));
        Toy { words, places, bias, layers: vec![first, first, other, first], json: Value::Null }
    }
}

impl Backbone for Toy {
    fn blocks(&self) -> usize {
        1 + LAYERS
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block == 0 {
            let words = ctx.rows(self.words, &batch.tokens);
            let places = ctx.rows(self.places, &batch.segments);
            let x = words * places + ctx.param(self.bias);
            let memory = x.sin();
            return vec![x, memory];
        }
        let (w, gate) = self.layers[block - 1];
        let mut x = input[0].matmul(ctx.param(w)).tanh() + &input[1] * ctx.param(gate);
        if block == AGAIN {
            x += ctx.rows(self.places, &(&batch.segments + 1)).sin();
        }
        vec![x, input[1].shallow_clone()]
    }

    fn summary(&self, hidden: &Boundary, batch: &Batch, _: &mut Ctx) -> Tensor {
        hidden[0].index_select(0, batch.sequences.first()) * hidden[1].index_select(0, batch.sequences.first())
    }

    fn features(&self, hidden: &Boundary, _: &mut Ctx) -> Tensor {
        hidden[0].shallow_clone()
    }

    fn vocabulary(&self, _: &Tensor, _: &mut Ctx) -> Projection {
        unreachable!("its task has no vocabulary")
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: WIDTH, std: 0.4, bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        Some(8)
    }

    fn vocab_size(&self) -> usize {
        VOCABULARY as usize
    }

    fn segments(&self) -> usize {
        1
    }

    fn cost(&self, _: usize, x: &Extents, how: &ComputeMode) -> Cost {
        Cost::keep(how.element() * x.own.tokens * WIDTH as f64)
    }

    fn head_cost(&self, _: Reads, _: &Extents, _: &ComputeMode) -> Cost {
        Cost::default()
    }

    fn hf_names(&self) -> HfNames {
        HfNames { prefix: "", headless: false, params: Vec::new(), legacy: &[] }
    }

    fn architecture(&self) -> String {
        "Toy".into()
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}

/// Which token it is, by the words' own table and a bias; without them the summary itself is the answer.
struct Tied(Option<[ParamId; 2]>);

impl Task for Tied {
    fn kind(&self) -> &'static str {
        "tied"
    }

    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let summary = backbone.summary(hidden, batch, ctx);
        vec![self.0.map_or_else(
            || summary.shallow_clone(),
            |[words, bias]| summary.matmul(&ctx.param(words).tr()) + ctx.param(bias),
        )]
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Classes(labels) = &batch.labels else { panic!("classes") };
        vec![logits[0].to_kind(Kind::Float).cross_entropy_loss::<Tensor>(labels, None, Reduction::None, -100, 0.0)]
    }

    fn answers(&self, logits: &Boundary, _: &Batch) -> Tensor {
        logits[0].view(-1)
    }

    fn answer_size(&self, _: &Dataset, _: usize) -> usize {
        if self.0.is_some() { VOCABULARY as usize } else { WIDTH as usize }
    }

    fn metrics(&self, _: &Results) -> Metrics {
        Vec::new()
    }

    fn predictions(&self, _: &Results, _: bool) -> Vec<Map<String, Value>> {
        Vec::new()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }
}

/// The model with its head tied to the words or without weights, and its parameters, of which `frozen` are not trained.
fn model(tied: bool, frozen: &[&str]) -> (Model, Vec<ParamSpec>) {
    let mut b = ParamBuilder::new();
    let toy = Toy::new(&mut b);
    let words = toy.words;
    let (model, mut specs) = Model::new(b, Box::new(toy), |_, b| {
        let tie = |b: &mut ParamBuilder| {
            b.borrow(words);
            [words, b.vector("out", VOCABULARY, Init::Normal { std: 0.4 })]
        };
        Box::new(Tied(tied.then(|| tie(b))))
    });
    for spec in &mut specs {
        spec.trainable = !frozen.contains(&spec.name.as_str());
    }
    (model, specs)
}

/// Seven sequences in micro-batches of at most two, as rank `rank` of `world` gets them: with three ranks the last has
/// one micro-batch where the first has two.
fn batches(world: usize, rank: usize) -> Vec<Batch> {
    let samples: Vec<u32> = (0..7).skip(rank).step_by(world).collect();
    samples.chunks(2).map(batch).collect()
}

fn batch(samples: &[u32]) -> Batch {
    let lengths: Vec<i64> = samples.iter().map(|s| 1 + i64::from(s % 3)).collect();
    let tokens: Vec<i64> = samples.iter().zip(&lengths).flat_map(|(&s, &n)| (0..n).map(move |i| token(s, i))).collect();
    let labels: Vec<i64> = samples.iter().map(|&s| i64::from(s * 5) % WIDTH).collect();
    let mut batch = Batch {
        contrast: OnceLock::new(),
        segments: Tensor::from_slice(&tokens),
        tokens: Tensor::from_slice(&tokens),
        ids: tokens,
        sequences: Sequences::new(lengths),
        labels: Labels::Classes(Tensor::from_slice(&labels)),
        samples: samples.to_vec(),
        widths: vec![1; samples.len()],
        decoder: None,
        weights: vec![1.0],
        class_weights: None,
        example_weights: None,
        label_smoothing: 0.0,
        noise: None,
        taught: None,
        score_positions: None,
    };
    batch.upload(Vec::new(), device()).unwrap().wait().unwrap();
    batch
}

fn token(sample: u32, at: i64) -> i64 {
    (3 * i64::from(sample) + 4 * at) % 8 // Not all of the vocabulary.
}

/// Values by name.
type Values = BTreeMap<String, Tensor>;

/// The same function in one graph and in f64: the mean loss over all seven sequences, and the gradients.
fn plain(values: &Values, tied: bool) -> (f64, Values) {
    let leaf = |t: &Tensor| t.to_kind(Kind::Double).copy().set_requires_grad(true);
    let leaves: Values = values.iter().map(|(name, t)| (name.clone(), leaf(t))).collect();
    let batch = batch(&(0..7).collect::<Vec<_>>());
    let of = |name: &str| &leaves[name];
    let mut x = of("words").index_select(0, &batch.tokens) * of("places").index_select(0, &batch.tokens) + of("bias");
    let memory = x.sin();
    for (layer, block) in ["a", "a", "b", "a"].into_iter().zip(1..) {
        x = x.matmul(of(&format!("{layer}.w"))).tanh() + &memory * of(&format!("{layer}.gate"));
        if block == AGAIN {
            x += of("places").index_select(0, &(&batch.tokens + 1)).sin();
        }
    }
    let first = batch.sequences.first();
    let summary = x.index_select(0, first) * memory.index_select(0, first);
    let logits = if tied { summary.matmul(&of("words").tr()) + of("out") } else { summary };
    let Labels::Classes(labels) = &batch.labels else { panic!("classes") };
    let loss = logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    loss.backward();
    (loss.double_value(&[]), leaves.iter().map(|(name, t)| (name.clone(), t.grad())).collect())
}

#[derive(Debug, Clone, Copy)]
struct Case {
    world: usize,
    zero: Zero,
    recompute: Recompute,
    kind: Kind,
    reduce: Kind,
    tied: bool,
    frozen: &'static [&'static str],
}

/// Takes two steps of plain gradient descent on one rank; each time the loss and the gradients are those of [`plain`].
fn run_rank(case: Case, comm: Arc<dyn Collective>) {
    let Case { world, zero, recompute, kind, reduce, tied, frozen } = case;
    let fp32 = tolerance(Kind::Float);
    let (rank, tolerance) = (comm.rank(), if kind == Kind::Float { fp32.gradient } else { 8e-2 });
    let (model, specs) = model(tied, frozen);
    let params = Params::new(specs, world, kind, device(), zero.shards_weights()).unwrap();
    let mut weights = Weights::new(&params, Arc::clone(&comm), zero, true).unwrap();
    for unit in 0..params.layout().units().len() {
        let whole = Tensor::zeros([params.layout().padded(unit)], (Kind::Float, device()));
        for (id, mut part) in params.members(unit, &whole) {
            part.copy_(&params.spec(id).initialize(7));
        }
        weights.set(&params, unit, &whole).unwrap();
    }
    let mut gradients = Gradients::new(&params, Arc::clone(&comm), zero, reduce).unwrap();
    let blockwise = Blockwise { model: &model, params: &params, recompute, watch: None };
    let mine = batches(world, rank);
    let micro_batches = (0..world).map(|rank| batches(world, rank).len()).max().unwrap();

    for step in 0..2 {
        let (loss, wanted) = plain(&values(&params, &weights), tied);
        let tokens: Vec<i64> = Vec::try_from(&batch(&(0..7).collect::<Vec<_>>()).tokens).unwrap();
        let ids = tokens.iter().flat_map(|&token| [token, token + 1]).collect();
        gradients.begin(&params, touched(ids)).unwrap();
        let mut sum = [0.0];
        for index in 0..micro_batches {
            let forward = blockwise.forward(&mut weights, mine.get(index), Pass::default()).unwrap();
            sum[0] += forward.loss_sums().map_or(0.0, |sums| sums.double_value(&[0]));
            forward.backward(&mut weights, &mut gradients, &[1.0 / 7.0], index + 1 == micro_batches).unwrap();
        }
        gradients.finish(&params).unwrap();
        comm.all_reduce_f64(&mut sum, trainer::comm::Op::Sum, "loss").unwrap();
        assert!((sum[0] / 7.0 / loss - 1.0).abs() < tolerance, "{case:?}, step {step}: {} and {loss}", sum[0] / 7.0);

        let mut squares = 0.0;
        for (index, unit) in params.layout().units().iter().enumerate() {
            let Some(whole) = gradients.whole(index, unit).unwrap() else {
                assert!(unit.members.iter().all(|&id| frozen.contains(&params.spec(id).name.as_str())));
                continue;
            };
            for (id, gradient) in params.members(index, &whole) {
                let wanted = &wanted[&params.spec(id).name];
                let (difference, norm) = ((gradient - wanted).norm(), wanted.norm());
                let (difference, norm) = (difference.double_value(&[]), norm.double_value(&[]));
                let name = &params.spec(id).name;
                assert!(norm > 1e-3, "{name}: {norm}");
                assert!(difference < tolerance * norm, "{case:?}, step {step}: {name} off by {difference} of {norm}");
                squares += norm * norm;
            }
            // What the update of the next step reads is left behind, and nothing else.
            let master = weights.master(index).unwrap();
            let _guard = tch::no_grad_guard();
            _ = master
                .shallow_clone()
                .f_sub_(&(gradients.owned(index, unit).unwrap().to_kind(Kind::Float) * 0.5))
                .unwrap();
            weights.publish(&params, index, "updated weights").unwrap();
        }
        weights.settle().unwrap();
        let mut total = [gradients.squares(&params).unwrap().double_value(&[0])];
        comm.all_reduce_f64(&mut total, trainer::comm::Op::Sum, "gradient norm").unwrap();
        let norm = total[0].sqrt();
        assert!((norm / squares.sqrt() - 1.0).abs() < tolerance, "{case:?}: {norm} and {}", squares.sqrt());
        for index in 0..params.layout().units().len() {
            assert_eq!(params.flat(index).data_ptr().is_null(), zero.shards_weights(), "{case:?}: unit {index}");
        }
    }
}

/// All weights as they are computed with.
fn values(params: &Params, weights: &Weights) -> Values {
    let mut values = Values::new();
    for unit in 0..params.layout().units().len() {
        let whole = weights.whole(params, unit).unwrap();
        values.extend(params.members(unit, &whole).map(|(id, t)| (params.spec(id).name.clone(), t.copy())));
    }
    values
}

fn check(case: Case) {
    if device() != Device::Cpu {
        // Threads' collectives are on the CPU: a GPU has one rank.
        if case.world == 1 {
            run_rank(case, alone());
        }
        return;
    }
    let run = |comm| std::thread::spawn(move || run_rank(case, comm));
    let ranks: Vec<_> = threads::group(case.world, Duration::from_secs(20)).into_iter().map(run).collect();
    // All of them first: the first to fail is not always the first to be asked.
    let ended: Vec<_> = ranks.into_iter().map(|rank| rank.join()).collect();
    assert!(ended.iter().all(Result::is_ok), "{case:?}");
}

#[test]
fn gradients_are_those_of_one_plain_backward() {
    tch::set_num_threads(1);
    let frozen: [&[&str]; 4] =
        [&[], &["a.w", "b.gate"], &["words", "places", "bias"], &["places", "bias", "a.w", "a.gate"]];
    for world in [1, 2, 3] {
        for zero in Zero::ALL {
            for recompute in [Recompute::None, Recompute::All, Recompute::Every(2)] {
                for (kind, reduce) in
                    [(Kind::Float, Kind::Float), (Kind::BFloat16, Kind::Float), (Kind::BFloat16, Kind::BFloat16)]
                {
                    for frozen in frozen {
                        check(Case { world, zero, recompute, kind, reduce, tied: true, frozen });
                    }
                }
            }
        }
    }
}

/// A block may have no weights at all, and the last one too.
#[test]
fn a_head_without_weights() {
    tch::set_num_threads(1);
    for zero in Zero::ALL {
        for recompute in [Recompute::None, Recompute::All] {
            let (kind, reduce) = (Kind::Float, Kind::Float);
            check(Case { world: 2, zero, recompute, kind, reduce, tied: false, frozen: &[] });
        }
    }
}
