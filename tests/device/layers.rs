//! Every layer of `src/nn`, forward and backward, in fp32, bf16 and fp16, against the float64 values of
//! `tests/reference/layers.py`.

use crate::common::device::{device, tolerance};
use crate::common::reference::folder;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use trainer::checkpoint::tensors::TensorFile;
use trainer::data::ragged::{Cross, Sequences};
use trainer::ffi::{self, transfer};
use trainer::nn::attention::{AttentionConfig, Mask, attention, self_attention};
use trainer::nn::blocks::{BlockConfig, PostNormBlock};
use trainer::nn::cache::Cache;
use trainer::nn::embedding::Embedding;
use trainer::nn::feed_forward::{FeedForward, FeedForwardConfig};
use trainer::nn::input_embeddings::{InputConfig, InputEmbeddings};
use trainer::nn::linear::Linear;
use trainer::nn::lm_head::{MaskedLmConfig, MaskedLmHead, Vocabulary};
use trainer::nn::norm::{Norm, NormKind};
use trainer::nn::pooler::{Picks, Pooler, PoolerConfig};
use trainer::nn::pre_norm::{PreNormBlock, PreNormConfig};
use trainer::nn::prediction_head::PredictionHeadConfig;
use trainer::nn::relative_attention::{RelativeAttention, RelativeAttentionConfig};
use trainer::nn::residual::ResidualNorm;
use trainer::nn::rng::{hash_name, mix};
use trainer::nn::rotary::{Rotary, Scaling};
use trainer::nn::self_attention::{SelfAttention, SelfAttentionConfig};
use trainer::nn::{Ctx, Init, ParamBuilder, Params, Pass};
use trainer::ops::gated::activation::Activation;

const KINDS: [Kind; 3] = [Kind::Float, Kind::BFloat16, Kind::Half];
/// Two rectangles: three sequences padded to 5, and one without padding.
const LENGTHS: &[i64] = &[3, 5, 4, 14];
const EQUAL: &[i64] = &[7, 7];
/// The encoder's tokens of each sequence.
const OTHERS: &[i64] = &[6, 2, 9, 5];
const T: i64 = 26;
const HIDDEN: i64 = 32;
const HEADS: i64 = 4;
const DIM: i64 = 8;
const VOCABULARY: i64 = 11;
const EPS: f64 = 0.0625;
const STD: f64 = 0.02;

/// Multiples of 1/128 below 1 that follow from the name: exact in every dtype, and the same as in `layers.py`.
fn values(name: &str, shape: &[i64], kind: Kind) -> Tensor {
    let key = hash_name(name);
    let value = |i: u64| (mix(key.wrapping_add(i)) % 255) as f32 - 127.0;
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u64).map(|i| value(i) / 128.0).collect();
    Tensor::from_slice(&values).view(shape).to_kind(kind).to_device(device())
}

fn ints(values: impl Iterator<Item = i64>) -> Tensor {
    Tensor::from_slice(&values.collect::<Vec<_>>()).to_device(device())
}

/// Sequences of these lengths, on the device under test.
fn sequences(lengths: &[i64]) -> Sequences {
    let mut sequences = Sequences::new(lengths.to_vec());
    transfer::upload(&mut sequences.tensors_mut(), device()).unwrap().wait().unwrap();
    sequences
}

/// The layer's function of its inputs.
type Forward = Box<dyn Fn(&mut Ctx, &[Tensor], &Sequences) -> Tensor>;
/// Declares the layer's parameters, with so much dropout.
type Declare = Box<dyn Fn(&mut ParamBuilder, f64) -> Forward>;

struct Layer {
    name: &'static str,
    lengths: &'static [i64],
    /// Name and shape of each.
    inputs: Vec<(&'static str, [i64; 2])>,
    declare: Declare,
    /// Whether it can generate: a token depends on those before it alone.
    causal: bool,
}

fn layer<F>(
    name: &'static str,
    inputs: &[(&'static str, [i64; 2])],
    declare: impl Fn(&mut ParamBuilder, f64) -> F + 'static,
) -> Layer
where
    F: Fn(&mut Ctx, &[Tensor], &Sequences) -> Tensor + 'static,
{
    let declare: Declare = Box::new(move |b, dropout| Box::new(declare(b, dropout)));
    Layer { name, lengths: LENGTHS, inputs: inputs.to_vec(), declare, causal: false }
}

const X: (&str, [i64; 2]) = ("x", [T, HIDDEN]);

fn config(kv_heads: i64, mask: Mask, dropout: f64) -> AttentionConfig {
    AttentionConfig { heads: HEADS, kv_heads, head_dim: DIM, scale: (DIM as f64).powf(-0.5), dropout, mask }
}

/// The attention kernel alone.
fn kernel(name: &'static str, lengths: &'static [i64], kv_heads: i64, mask: Mask) -> Layer {
    let qkv = ("qkv", [lengths.iter().sum(), (HEADS + 2 * kv_heads) * DIM]);
    let declare = move |_: &mut ParamBuilder, dropout: f64| {
        move |ctx: &mut Ctx, x: &[Tensor], sequences: &Sequences| {
            self_attention(ctx, &config(kv_heads, mask, dropout), &x[0], sequences, None)
        }
    };
    Layer { lengths, causal: mask.is_causal(), ..layer(name, &[qkv], declare) }
}

fn biased_kernel(name: &'static str, mask: Mask) -> Layer {
    layer(name, &[("qkv", [T, 3 * HIDDEN])], move |b, dropout| {
        let longest = LENGTHS.iter().copied().max().unwrap();
        let table = b.bias_table("bias", &[HEADS, longest, longest], Init::Zeros);
        move |ctx, x, sequences| {
            let table = ctx.param(table);
            let bias = |bucket: &trainer::data::ragged::Bucket| {
                table.narrow(1, 0, bucket.queries.longest).narrow(2, 0, bucket.keys().longest).unsqueeze(0)
            };
            self_attention(ctx, &config(HEADS, mask, dropout), &x[0], sequences, Some(&bias))
        }
    })
}

fn attention_layer(kv_heads: i64, mask: Mask, bias: bool, head_norm: Option<f64>, p: f64) -> SelfAttentionConfig {
    SelfAttentionConfig {
        hidden: HIDDEN,
        attention: config(kv_heads, mask, p),
        qkv_bias: bias,
        out_bias: bias,
        head_norm,
        std: STD,
        out_std: STD,
    }
}

fn rotary() -> Rotary {
    Rotary::new(DIM, 100.0, Scaling::None)
}

fn self_attention_layer(name: &'static str, plain: bool, head_norm: Option<f64>) -> Layer {
    let declare = move |b: &mut ParamBuilder, dropout: f64| {
        let (kv_heads, mask) = if plain { (HEADS, Mask::Bidirectional) } else { (2, Mask::Causal) };
        let layer = SelfAttention::new(b, attention_layer(kv_heads, mask, plain, head_norm, dropout));
        move |ctx: &mut Ctx, x: &[Tensor], sequences: &Sequences| {
            let angles = (!plain).then(|| rotary().angles(sequences, x[0].kind()));
            layer.forward(ctx, &x[0], sequences, angles.as_ref())
        }
    };
    Layer { causal: !plain, ..layer(name, &[X], declare) }
}

fn feed_forward(activation: Activation, gated: bool, bias: bool, dropout: f64) -> FeedForwardConfig {
    FeedForwardConfig { hidden: HIDDEN, intermediate: 24, activation, gated, bias, dropout, std: STD, out_std: STD }
}

fn norm(name: &'static str, kind: NormKind) -> Layer {
    layer(name, &[X], move |b, _| {
        let norm = Norm::new(b, "norm", kind, HIDDEN, EPS);
        move |ctx, x, _| norm.forward(ctx, &x[0])
    })
}

fn pooler(name: &'static str, picks: Picks, dense: bool) -> Layer {
    layer(name, &[X], move |b, dropout| {
        let activation = dense.then_some(Activation::Tanh);
        let config =
            PoolerConfig { hidden: HIDDEN, picks, dense, activation, dropout_before: dropout, dropout, std: STD };
        let pooler = Pooler::new(b, config);
        move |ctx, x, sequences| pooler.forward(ctx, &x[0], sequences)
    })
}

fn relative(name: &'static str, farthest: Option<i64>) -> Layer {
    layer(name, &[X], move |b, dropout| {
        let attention = config(HEADS, Mask::Bidirectional, dropout);
        let config = RelativeAttentionConfig { hidden: HIDDEN, attention, farthest, dropout, std: STD };
        let layer = RelativeAttention::new(b, config);
        move |ctx, x, sequences| layer.forward(ctx, &x[0], sequences, &ints((0..T).map(|t| t / 2 % 2)))
    })
}

fn turned(name: &'static str, scaling: Scaling) -> Layer {
    layer(name, &[("x", [T, 2 * DIM])], move |_, _| {
        let rotary = Rotary::new(DIM, 100.0, scaling);
        move |_, x, sequences| {
            let angles = rotary.angles(sequences, x[0].kind());
            angles.rotate(&x[0] * 1.0, 2)
        }
    })
}

fn pre_norm(name: &'static str, norm: NormKind, llama: bool) -> Layer {
    let declare = move |b: &mut ParamBuilder, dropout: f64| {
        let (kv_heads, activation) = if llama { (2, Activation::Silu) } else { (HEADS, Activation::GeluTanh) };
        let block = PreNormBlock::new(
            b,
            PreNormConfig {
                norm,
                norm_eps: EPS,
                attention_norm: true,
                attention: attention_layer(kv_heads, Mask::Causal, !llama, None, dropout),
                feed_forward: feed_forward(activation, llama, !llama, dropout),
                attended_dropout: dropout,
                mlp_dropout: dropout,
            },
        );
        move |ctx: &mut Ctx, x: &[Tensor], sequences: &Sequences| {
            let angles = llama.then(|| rotary().angles(sequences, x[0].kind()));
            block.forward(ctx, &x[0], sequences, angles.as_ref())
        }
    };
    Layer { causal: true, ..layer(name, &[X], declare) }
}

/// The token ids of the batch.
fn ids() -> Tensor {
    ints((0..T).map(|t| (7 * t + 3) % VOCABULARY))
}

/// The layers, by their names in `layers.py`.
fn layers() -> Vec<Layer> {
    let mut all = vec![
        layer("linear", &[X], |b, _| {
            let linear = Linear::new(b, "linear", HIDDEN, 24, STD);
            move |ctx, x, _| linear.forward(ctx, &x[0])
        }),
        layer("linear-without-bias", &[X], |b, _| {
            let linear = Linear::without_bias(b, "linear", HIDDEN, 24, STD);
            move |ctx, x, _| linear.forward(ctx, &x[0])
        }),
        layer("embedding", &[], |b, _| {
            let table = Embedding::vocabulary(b, "words", VOCABULARY, 16, STD);
            move |ctx, _, _| table.forward(ctx, &ids())
        }),
        layer("input-embeddings", &[], |b, dropout| {
            let config = InputConfig {
                vocab: VOCABULARY,
                positions: 20,
                first_position: 2,
                segments: Some(2),
                width: HIDDEN,
                norm_eps: EPS,
                dropout,
                std: STD,
                tied: false,
            };
            let embeddings = InputEmbeddings::new(b, config);
            move |ctx, _, sequences| {
                embeddings.forward(ctx, [&ids(), sequences.positions(), &ints((0..T).map(|t| t / 2 % 2))], None)
            }
        }),
        norm("layer-norm", NormKind::Layer),
        norm("layer-norm-without-bias", NormKind::LayerWithoutBias),
        norm("rms-norm", NormKind::Rms),
        layer("residual-norm", &[("y", [T, HIDDEN]), X], |b, dropout| {
            let norm = ResidualNorm::new(b, "norm", HIDDEN, EPS, dropout);
            move |ctx, x, _| norm.forward(ctx, x[0].shallow_clone(), &x[1])
        }),
        kernel("attention-bidirectional", LENGTHS, HEADS, Mask::Bidirectional),
        kernel("attention-without-padding", EQUAL, HEADS, Mask::Bidirectional),
        layer("attention-scale", &[("qkv", [T, 3 * HIDDEN])], |_, dropout| {
            let config = AttentionConfig { scale: 0.75, ..config(HEADS, Mask::Bidirectional, dropout) };
            move |ctx, x, sequences| self_attention(ctx, &config, &x[0], sequences, None)
        }),
        kernel("attention-causal", LENGTHS, HEADS, Mask::Causal),
        kernel("attention-causal-without-padding", EQUAL, HEADS, Mask::Causal),
        kernel("attention-sliding-window", LENGTHS, HEADS, Mask::SlidingWindow(3)),
        kernel("attention-bidirectional-window", LENGTHS, HEADS, Mask::BidirectionalWindow(3)),
        kernel("attention-grouped-bidirectional-window", LENGTHS, 2, Mask::BidirectionalWindow(3)),
        kernel("attention-grouped", LENGTHS, 2, Mask::Bidirectional),
        kernel("attention-grouped-causal", LENGTHS, 2, Mask::Causal),
        kernel("attention-one-key-head-sliding-window", LENGTHS, 1, Mask::SlidingWindow(3)),
        biased_kernel("attention-bias", Mask::Bidirectional),
        biased_kernel("attention-bias-causal", Mask::Causal),
        layer("attention-cross", &[("q", [T, HIDDEN]), ("kv", [22, 2 * HIDDEN])], |_, dropout| {
            let config = config(HEADS, Mask::Bidirectional, dropout);
            move |ctx, x, sequences| {
                let cross = {
                    let mut cross = Cross::new(sequences, &Sequences::new(OTHERS.to_vec()));
                    transfer::upload(&mut cross.tensors_mut(), device()).unwrap().wait().unwrap();
                    cross
                };
                let kv = x[1].chunk(2, 1);
                attention(ctx, &config, [&x[0], &kv[0], &kv[1]], cross.buckets(), None)
            }
        }),
        self_attention_layer("self-attention", true, None),
        self_attention_layer("self-attention-rotary", false, None),
        self_attention_layer("self-attention-head-norms", false, Some(EPS)),
        relative("relative-attention", None),
        relative("relative-attention-clamped", Some(3)),
        turned("rotary-default", Scaling::None),
        turned("rotary-linear", Scaling::Linear { factor: 4.0 }),
        turned("rotary-llama3", Scaling::Llama3 { factor: 4.0, low: 1.0, high: 4.0, original: 32.0 }),
        turned("rotary-yarn", {
            let attention = 0.1 * 2f64.ln() + 1.0;
            Scaling::Yarn { factor: 2.0, attention, fast: 4.0, slow: 1.0, truncate: true, original: 32.0 }
        }),
        pooler("pooler-first", Picks::First, true),
        pooler("pooler-last", Picks::Last, true),
        pooler("pooler-mean", Picks::Mean, false),
        layer("lm-head-masked", &[X], |b, _| {
            let words = Embedding::new(b, "words", VOCABULARY, 16, STD);
            let head = PredictionHeadConfig {
                hidden: HIDDEN,
                width: 16,
                bias: true,
                activation: Activation::Gelu,
                norm: NormKind::Layer,
                norm_eps: EPS,
                std: STD,
            };
            let config = MaskedLmConfig { head, vocab: VOCABULARY, bias: true, tied: false };
            let head = MaskedLmHead::new(b, config, &words);
            move |ctx, x, _| head.forward(ctx, &x[0]).logits()
        }),
        layer("lm-head-tied", &[], |b, _| {
            let words = Embedding::words(b, "words", VOCABULARY, 16, STD, true);
            let head = Vocabulary::tied(b, &words).with_bias(b, "head", VOCABULARY);
            move |ctx, _, _| {
                let rows = words.forward(ctx, &ids());
                head.forward(ctx, rows).logits()
            }
        }),
        layer("block-post-norm", &[X], |b, dropout| {
            let block = PostNormBlock::new(
                b,
                BlockConfig {
                    hidden: HIDDEN,
                    intermediate: 24,
                    attention: config(HEADS, Mask::Bidirectional, dropout),
                    activation: Activation::Gelu,
                    attended_dropout: dropout,
                    mlp_dropout: dropout,
                    norm_eps: EPS,
                    std: STD,
                },
            );
            move |ctx, x, sequences| block.forward(ctx, &x[0], sequences)
        }),
        pre_norm("block-pre-norm", NormKind::Layer, false),
        pre_norm("block-pre-norm-rms", NormKind::Rms, true),
    ];
    for (name, activation, gated) in [
        ("feed-forward-gelu", Activation::Gelu, false),
        ("feed-forward-gelu-tanh", Activation::GeluTanh, false),
        ("feed-forward-relu", Activation::Relu, false),
        ("feed-forward-silu", Activation::Silu, false),
        ("feed-forward-tanh", Activation::Tanh, false),
        ("feed-forward-silu-gated", Activation::Silu, true),
        ("feed-forward-gelu-tanh-gated", Activation::GeluTanh, true),
        ("feed-forward-gelu-gated", Activation::Gelu, true),
    ] {
        all.push(layer(name, &[X], move |b, dropout| {
            let layer = FeedForward::new(b, feed_forward(activation, gated, !gated, dropout));
            move |ctx, x, _| layer.forward(ctx, &x[0])
        }));
    }
    all
}

/// A layer on the device under test, in one dtype.
struct Ready {
    params: Params,
    forward: Forward,
    inputs: Vec<Tensor>,
}

impl Layer {
    fn ready(&self, kind: Kind, dropout: f64) -> Ready {
        let mut b = ParamBuilder::new();
        let forward = (self.declare)(&mut b, dropout);
        let params = Params::new(b.finish(), 1, kind, device(), false).unwrap();
        let named = |name: &str, shape: &[i64]| values(&format!("{}.{name}", self.name), shape, kind);
        for id in params.ids() {
            let spec = params.spec(id);
            tch::no_grad(|| params.view(id).shallow_clone().copy_(&named(&spec.name, &spec.shape)));
        }
        let inputs = self.inputs.iter().map(|(name, shape)| named(name, shape).set_requires_grad(true)).collect();
        Ready { params, forward, inputs }
    }

    /// The output, and the gradient of each input and parameter that has one, f32.
    fn run(&self, kind: Kind, dropout: f64) -> (Tensor, BTreeMap<String, Tensor>) {
        let Ready { params, forward, inputs } = self.ready(kind, dropout);
        let mut ctx = Ctx::train(&params, Pass::default(), 0);
        let output = forward(&mut ctx, &inputs, &sequences(self.lengths));
        assert_eq!(output.kind(), kind, "{}: the output's dtype", self.name);
        ffi::backward(&[&output], &[&values(&format!("{}.output", self.name), &output.size(), kind)]).unwrap();
        let named = self.inputs.iter().map(|(name, _)| (*name).to_owned()).zip(inputs.iter().map(Tensor::grad));
        let weights = params.ids().map(|id| (params.spec(id).name.clone(), params.view(id).grad()));
        let defined = named.chain(weights).filter(|(_, gradient)| gradient.defined());
        let mut gradients: BTreeMap<String, Tensor> =
            defined.map(|(name, gradient)| (name, gradient.to_kind(Kind::Float))).collect();
        for row in ctx.row_gradients() {
            let spec = params.spec(row.table);
            let zeros = || Tensor::zeros(spec.shape.as_slice(), (Kind::Float, device()));
            let sum = gradients.entry(spec.name.clone()).or_insert_with(zeros);
            *sum = sum.index_add(0, &row.ids, &row.grad.to_kind(Kind::Float));
        }
        (output.detach(), gradients)
    }
}

/// The reference values of one layer: its output, and the gradients by name.
fn wanted(file: &TensorFile, layer: &str) -> (Tensor, BTreeMap<String, Tensor>) {
    let own = file.names().into_iter().filter_map(|name| {
        let own = name.strip_prefix(&format!("{layer}/"))?.to_owned();
        Some((own, file.read(&name).unwrap()))
    });
    let mut all: BTreeMap<String, Tensor> = own.collect();
    let output = all.remove("output").unwrap_or_else(|| panic!("{layer}: not in layers.safetensors"));
    (output, all)
}

fn reference() -> TensorFile {
    TensorFile::open(&folder("layers.safetensors")).unwrap()
}

/// With dropout 0, and on the path that dropout takes, with a probability too small to drop anything.
#[test]
fn every_layer_forward_and_backward() {
    let file = reference();
    let mut wrong = Vec::new();
    for layer in layers() {
        let (output, gradients) = wanted(&file, layer.name);
        let all = gradients.values().map(|g| g.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
        for (kind, dropout) in KINDS.into_iter().flat_map(|kind| [(kind, 0.0), (kind, 1e-12)]) {
            let tolerance = tolerance(kind);
            let (our_output, our_gradients) = layer.run(kind, dropout);
            let mut results = vec![tolerance.check_output("output", &our_output, &output)];
            let names: Vec<&String> = our_gradients.keys().collect();
            if names != gradients.keys().collect::<Vec<_>>() {
                results.push(Err(format!("gradients of {names:?}, reference {:?}", gradients.keys())));
            } else {
                let pairs = our_gradients.iter().zip(gradients.values());
                results.extend(pairs.map(|((name, ours), wanted)| tolerance.check_gradient(name, ours, wanted, all)));
            }
            let path = if dropout > 0.0 { ", dropout's path" } else { "" };
            wrong.extend(
                results.into_iter().filter_map(Result::err).map(|e| format!("{} ({kind:?}{path}): {e}", layer.name)),
            );
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// No layer of the file is left out.
#[test]
fn every_reference_has_its_layer() {
    let layers = layers();
    let unknown = |name: &String| layers.iter().all(|layer| !name.starts_with(&format!("{}/", layer.name)));
    assert_eq!(reference().names().into_iter().find(unknown), None);
}

/// Token by token with the KV cache, a causal layer gives what it gives on whole sequences.
#[test]
fn causal_layers_with_the_kv_cache() {
    /// The tokens of each sequence that come one by one.
    const STEPS: i64 = 2;
    let file = reference();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for layer in layers().iter().filter(|layer| layer.causal) {
        let (output, _) = wanted(&file, layer.name);
        tried += 1;
        for kind in KINDS {
            let Ready { params, forward, inputs } = layer.ready(kind, 0.0);
            let starts = |at: usize| layer.lengths[..at].iter().sum::<i64>();
            let ends: Vec<i64> = (0..layer.lengths.len()).map(|s| starts(s) + layer.lengths[s] - STEPS).collect();
            let first = sequences(&layer.lengths.iter().map(|n| n - STEPS).collect::<Vec<_>>());
            let mut cache = Cache::new(1, &first);
            let mut step = |cache: &mut Cache, rows: Vec<i64>, sequences: &Sequences| {
                let rows = ints(rows.into_iter());
                let picked: Vec<Tensor> = inputs.iter().map(|x| x.detach().index_select(0, &rows)).collect();
                let ours = tch::no_grad(|| forward(&mut Ctx::generate(&params, cache.block(0)), &picked, sequences));
                let wanted = output.index_select(0, &rows.to_device(tch::Device::Cpu));
                wrong.extend(
                    tolerance(kind)
                        .check_output("output", &ours, &wanted)
                        .err()
                        .map(|e| format!("{} ({kind:?}, KV cache of {:?} tokens): {e}", layer.name, cache.lengths())),
                );
            };
            let prefix = ends.iter().enumerate().flat_map(|(s, &end)| starts(s)..end).collect();
            step(&mut cache, prefix, &first);
            for i in 0..STEPS {
                let sequences = cache.grow();
                step(&mut cache, ends.iter().map(|end| end + i).collect(), &sequences);
            }
        }
    }
    assert!(tried >= 6, "{tried} causal layers");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// Dropout keeps its share, scales what it keeps, and has the same mask in backward; the mask follows from the pass.
#[test]
fn dropout_is_a_function_of_the_pass() {
    const P: f64 = 0.3;
    let params = Params::new(ParamBuilder::new().finish(), 1, Kind::Float, device(), false).unwrap();
    for kind in KINDS {
        let draw = |step: u64| {
            let x = Tensor::ones([400, 500], (kind, device())).set_requires_grad(true);
            let y = Ctx::train(&params, Pass { step, ..Pass::default() }, 0).dropout(x.shallow_clone(), P);
            ffi::backward(&[&y], &[&y.ones_like()]).unwrap();
            assert!(x.grad().equal(&y.detach()), "{kind:?}: another mask in backward");
            y.detach()
        };
        let y = draw(0);
        assert!(y.equal(&draw(0)), "{kind:?}: the same pass draws another mask");
        let kept = y.not_equal(0.0);
        let share = |mask: &Tensor| mask.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        let deviation = (P * (1.0 - P) / 200_000.0).sqrt();
        assert!((share(&kept) - (1.0 - P)).abs() < 5.0 * deviation, "{kind:?}: kept {}", share(&kept));
        let scale = y.to_kind(Kind::Double).max().double_value(&[]) * (1.0 - P);
        assert!((scale - 1.0).abs() < 4e-3, "{kind:?}: what is kept is scaled by {}", scale / (1.0 - P));
        // Of two independent masks so many elements agree.
        let agree = share(&kept.eq_tensor(&draw(1).not_equal(0.0)));
        let expected = P * P + (1.0 - P) * (1.0 - P);
        assert!((agree - expected).abs() < 5.0 * deviation * 1.2, "{kind:?}: two steps' masks agree in {agree}");
    }
}
