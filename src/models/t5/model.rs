//! The blocks of T5, in the order of [`Stacks`]: the encoder's final norm runs with the decoder's embeddings, the
//! decoder's final norm in its last layer's block.

use crate::data::batch::{Batch, Decoder, Noise};
use crate::data::extent::{Extent, Extents};
use crate::models::encoder_decoder::{Part, Stacks, decoder, decoder_extents};
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::t5::block::{Attention, FeedForward};
use crate::models::t5::relative_bias::{Buckets, RelativeBias};
use crate::models::t5::{Config, hf_names};
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::attention::{Bias, Mask};
use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::HeadInput;
use crate::nn::lm_head::Vocabulary;
use crate::nn::norm::Norm;
use crate::nn::{Ctx, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use tch::Tensor;

/// T5 with its language-model head.
#[derive(Debug)]
pub struct T5 {
    config: Config,
    json: Value,
    /// The look-ups of the encoder and the decoder, in one embedding matrix.
    words: [Embedding; 2],
    encoder: Stack,
    decoder: Stack,
    head: Vocabulary,
}

/// The layers of the encoder or the decoder, and their final norm.
#[derive(Debug)]
struct Stack {
    layers: Vec<Layer>,
    norm: Norm,
}

#[derive(Debug)]
struct Layer {
    bias: RelativeBias,
    attention: Attention,
    /// Cross-attention to the encoder's output, in a decoder.
    cross: Option<Attention>,
    feed_forward: FeedForward,
}

impl Stack {
    /// Declares the layers in blocks `first`, `first + 1` and so on, and the norm in the last of them or the one after.
    fn new(b: &mut ParamBuilder, config: &Config, mask: Mask, first: usize) -> Self {
        let decodes = mask == Mask::Causal;
        let (name, count) = if decodes { ("decoder", config.decoder_layers()) } else { ("encoder", config.num_layers) };
        let (buckets, distance) = (config.relative_attention_num_buckets, config.relative_attention_max_distance);
        let std = config.initializer_factor * (config.d_model as f64).powf(-0.5);
        b.scope(name, |b| {
            let buckets = Buckets::new(buckets, distance, mask);
            let shared = b.block(first, |b| RelativeBias::new(b, "bias", buckets, config.num_heads, std));
            let layer = |i: usize| {
                b.block(first + i, |b| Layer {
                    bias: if i == 0 { shared.clone() } else { shared.shared(b) },
                    attention: b.scope(&i.to_string(), |b| Attention::new(b, "attention", config, mask)),
                    cross: decodes
                        .then(|| b.scope(&i.to_string(), |b| Attention::new(b, "cross", config, Mask::Bidirectional))),
                    feed_forward: b.scope(&i.to_string(), |b| FeedForward::new(b, config)),
                })
            };
            let layers = (0..count).map(layer).collect();
            let last = if decodes { first + count - 1 } else { first + count };
            let norm = b.block(last, |b| Norm::rms(b, "norm", config.d_model, config.layer_norm_epsilon));
            Stack { layers, norm }
        })
    }
}

impl T5 {
    /// Declares the parameters: the embeddings and the encoder's layers in blocks 0 to E, the decoder's layers from
    /// block E + 2 on, the head in the last.
    pub fn new(config: Config, plan: Plan) -> Self {
        let Plan { json, builder: b, .. } = plan;
        let Config { vocab_size, d_model, initializer_factor: std, tied, .. } = config;
        let words = Embedding::words(b, "words", vocab_size, d_model, std, tied);
        let encoder = Stack::new(b, &config, Mask::Bidirectional, 1);
        let between = 1 + encoder.layers.len();
        let again = b.block(between, |b| words.shared(b));
        let decoder = Stack::new(b, &config, Mask::Causal, between + 1);
        let head = b.block(between + 1 + decoder.layers.len(), |b| match tied {
            true => Vocabulary::tied(b, &words),
            false => Vocabulary::own(b, "lm_head", vocab_size, d_model, std),
        });
        T5 { config, json, words: [words, again], encoder, decoder, head }
    }

    fn stacks(&self) -> Stacks {
        Stacks { encoder: self.encoder.layers.len(), decoder: self.decoder.layers.len() }
    }

    /// The look-up of a side's tokens.
    fn embed(&self, side: usize, tokens: &Tensor, noise: Option<&Noise>, ctx: &mut Ctx) -> Tensor {
        let words = self.words[side].tokens(ctx, tokens, noise.map(Noise::tensors));
        ctx.dropout(words, self.config.dropout_rate)
    }

    fn finish(&self, stack: &Stack, x: &Tensor, ctx: &mut Ctx) -> Tensor {
        let x = stack.norm.forward(ctx, x);
        ctx.dropout(x, self.config.dropout_rate)
    }
}

impl Layer {
    /// Returns the cost over its own sequences and, in a decoder, their cross-attention to the encoder's tokens.
    fn cost(&self, how: &ComputeMode, x: &Extent, cross: Option<(&Extent, f64)>) -> Cost {
        let cross = self.cross.as_ref().zip(cross).map(|(part, (extent, memory))| part.cost(how, extent, Some(memory)));
        self.attention.cost(how, x, None).then(cross.unwrap_or_default()).then(self.feed_forward.cost(how, x.tokens))
    }

    /// `x` `[T, d_model]` to the same shape.
    fn forward(&self, ctx: &mut Ctx, x: &Tensor, memory: Option<&Tensor>, batch: &Batch) -> Tensor {
        let table = self.bias.table(ctx);
        let bias: Bias = &|bucket| self.bias.scores(table, bucket.queries.longest, bucket.keys().longest);
        let sequences = if self.cross.is_some() { &decoder(batch).sequences } else { &batch.sequences };
        let mut x = self.attention.forward(ctx, x, None, sequences.buckets(), Some(bias));
        if let Some(cross) = &self.cross {
            x = cross.forward(ctx, &x, memory, decoder(batch).cross.buckets(), None);
        }
        self.feed_forward.forward(ctx, &x)
    }
}

impl Backbone for T5 {
    fn blocks(&self) -> usize {
        self.stacks().blocks()
    }

    fn decoder_block(&self) -> usize {
        self.stacks().between()
    }

    fn block_name(&self, block: usize) -> String {
        self.stacks().name(block)
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        match self.stacks().part(block) {
            Part::Embeddings => vec![self.embed(0, &batch.tokens, batch.noise.as_ref(), ctx)],
            Part::EncoderLayer(layer) => vec![self.encoder.layers[layer].forward(ctx, &input[0], None, batch)],
            Part::DecoderEmbeddings => {
                let memory = ctx.once(|ctx| self.finish(&self.encoder, &input[0], ctx));
                let Decoder { tokens, noise, .. } = decoder(batch);
                vec![self.embed(1, tokens, noise.as_ref(), ctx), memory]
            }
            Part::DecoderLayer(layer) => {
                let x = self.decoder.layers[layer].forward(ctx, &input[0], Some(&input[1]), batch);
                match block + 1 == self.blocks() {
                    true => vec![self.finish(&self.decoder, &x, ctx)],
                    false => vec![x, input[1].shallow_clone()],
                }
            }
        }
    }

    fn summary(&self, _: &Boundary, _: &Batch, _: &mut Ctx) -> Tensor {
        unreachable!("T5 has no summary")
    }

    fn features(&self, hidden: &Boundary, _: &mut Ctx) -> Tensor {
        hidden[0].shallow_clone()
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection {
        let scale = self.config.output_scale();
        self.head.forward(ctx, if scale == 1.0 { rows.shallow_clone() } else { rows * scale })
    }

    fn head_input(&self) -> HeadInput {
        let Config { d_model, initializer_factor, .. } = self.config;
        HeadInput { width: d_model, std: initializer_factor * (d_model as f64).powf(-0.5), bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        None
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    fn segments(&self) -> usize {
        usize::MAX
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        let Config { d_model, dropout_rate, .. } = self.config;
        let [own, cross] = decoder_extents(x);
        let embed = |tokens: f64| embedding::cost(how, tokens * d_model as f64, 1, dropout_rate);
        let finish = |stack: &Stack, tokens: f64, keeps: bool| {
            let numbers = tokens * d_model as f64;
            stack.norm.cost(how, tokens, keeps).then(dropout::cost(how, numbers, dropout_rate))
        };
        match self.stacks().part(block) {
            Part::Embeddings => embed(x.own.tokens),
            Part::EncoderLayer(layer) => self.encoder.layers[layer].cost(how, &x.own, None),
            Part::DecoderEmbeddings => finish(&self.encoder, x.own.tokens, false).then(embed(own.tokens)),
            Part::DecoderLayer(layer) => {
                let cost = self.decoder.layers[layer].cost(how, &own, Some((&cross, x.own.tokens)));
                if block + 1 < self.blocks() { cost } else { cost.then(finish(&self.decoder, own.tokens, true)) }
            }
        }
    }

    fn boundary(&self, block: usize, x: &Extents) -> f64 {
        let (encoder, decoder) = (x.own.tokens, decoder_extents(x)[0].tokens);
        let made = match self.stacks().part(block) {
            Part::Embeddings | Part::EncoderLayer(_) => encoder,
            Part::DecoderEmbeddings => encoder + decoder,
            Part::DecoderLayer(_) => decoder,
        };
        made * self.config.d_model as f64
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        let scaled = if self.config.output_scale() == 1.0 { 0.0 } else { x.targets * self.config.d_model as f64 };
        match reads {
            Reads::Vocabulary => {
                Cost::op(0.0, 0.0, how.element() * scaled, [0.0; 2]).then(self.head.cost(how, x.targets))
            }
            _ => Cost::default(),
        }
    }

    fn hf_names(&self) -> HfNames {
        hf_names::names(&self.config)
    }

    fn architecture(&self) -> String {
        format!("{}ForConditionalGeneration", self.config.class())
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
