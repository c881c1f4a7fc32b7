//! The blocks of BART, in the order of [`crate::models::encoder_decoder`]; the classifier's dense layer runs in the
//! head's block.

use crate::data::batch::{Batch, Decoder, Noise};
use crate::data::extent::Extents;
use crate::data::ragged::{Bucket, Sequences};
use crate::models::bart::{Config, hf_names};
use crate::models::encoder_decoder::{Part, decoder_extents};
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::blocks::{BlockConfig, PostNormBlock};
use crate::nn::input_embeddings::{InputConfig, InputEmbeddings};
use crate::nn::linear::HeadInput;
use crate::nn::lm_head::Vocabulary;
use crate::nn::pooler::{self, Picks, Pooler, PoolerConfig};
use crate::nn::{Ctx, Init, ParamBuilder};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::gated::activation::Activation;
use serde_json::Value;
use tch::Tensor;

/// Position embeddings begin with two unused rows.
const FIRST_POSITION: i64 = 2;

/// Epsilon of all norms.
const NORM_EPS: f64 = 1e-5;

/// BART without a task's layer.
#[derive(Debug)]
pub struct Bart {
    config: Config,
    json: Value,
    role: Role,
    encoder: Stack,
    decoder: Stack,
    pooler: Option<Pooler>,
    head: Option<Vocabulary>,
}

/// The encoder or the decoder.
#[derive(Debug)]
struct Stack {
    embeddings: InputEmbeddings,
    layers: Vec<PostNormBlock>,
}

impl Config {
    fn input(&self, dense: bool) -> InputConfig {
        InputConfig {
            vocab: self.vocab_size,
            positions: Some([self.max_position_embeddings + FIRST_POSITION, FIRST_POSITION]),
            segments: None,
            width: self.d_model,
            scale: self.embedding_scale(),
            projects: None,
            norm_eps: NORM_EPS,
            dropout: self.dropout,
            std: self.init_std,
            dense,
        }
    }

    /// A layer of the encoder (`Mask::Bidirectional`) or the decoder.
    fn layer(&self, mask: Mask) -> BlockConfig {
        let (heads, intermediate) = match mask {
            Mask::Bidirectional => (self.encoder_attention_heads, self.encoder_ffn_dim),
            _ => (self.decoder_attention_heads, self.decoder_ffn_dim),
        };
        let head_dim = self.d_model / heads;
        BlockConfig {
            hidden: self.d_model,
            intermediate,
            attention: AttentionConfig {
                heads,
                kv_heads: heads,
                head_dim,
                scale: (head_dim as f64).powf(-0.5),
                dropout: self.attention_dropout,
                mask,
            },
            cross: mask != Mask::Bidirectional,
            activation: self.activation,
            activation_dropout: self.activation_dropout,
            attended_dropout: self.dropout,
            mlp_dropout: self.dropout,
            norm_eps: NORM_EPS,
            std: self.init_std,
        }
    }
}

/// Declares the layers in blocks `first`, `first + 1` and so on.
fn layers(b: &mut ParamBuilder, config: BlockConfig, count: usize, first: usize) -> Vec<PostNormBlock> {
    let layer = |i: usize| b.block(first + i, |b| b.scope(&i.to_string(), |b| PostNormBlock::new(b, config)));
    (0..count).map(layer).collect()
}

impl Bart {
    /// Declares the parameters: the embeddings and the encoder's layers in blocks 0 to E, the decoder's from block E + 1
    /// on, the head in the last.
    pub fn new(config: Config, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let Config { vocab_size, d_model, init_std: std, tie_word_embeddings: tied, .. } = config;
        let stacks = config.stacks();
        // Without targets, the decoder also looks up the start token, which need not be in the batch.
        let own_text = role != Role::Seq2Seq;
        let encoder = b.scope("encoder", |b| Stack {
            embeddings: InputEmbeddings::new(b, config.input(tied)),
            layers: layers(b, config.layer(Mask::Bidirectional), config.encoder_layers, 1),
        });
        let decoder = b.scope("decoder", |b| Stack {
            embeddings: b.block(stacks.between(), |b| match tied {
                true => {
                    let words = encoder.embeddings.words().shared(b);
                    InputEmbeddings::with_words(b, config.input(true), words)
                }
                false => InputEmbeddings::new(b, config.input(own_text)),
            }),
            layers: layers(b, config.layer(Mask::Causal), config.decoder_layers, stacks.between() + 1),
        });
        let (pooler, head) = b.block(stacks.blocks(), |b| {
            if !tied {
                // transformers has a third matrix, which it does not use.
                b.constant("shared", &[vocab_size, d_model], Init::Normal { std });
            }
            let dropout = config.classifier_dropout;
            let pooler = PoolerConfig {
                hidden: d_model,
                // The EOS token, the first to attend to the whole text.
                picks: Picks::Last,
                dense: true,
                activation: Some(Activation::Tanh),
                dropout_before: dropout,
                dropout,
                std,
            };
            let head = (role == Role::Seq2Seq).then(|| {
                let head = match tied {
                    true => Vocabulary::tied(b, encoder.embeddings.words()),
                    false => Vocabulary::own(b, "lm_head", vocab_size, d_model, std),
                };
                if config.has_logits_bias { head.with_constant_bias(b, "logits_bias") } else { head }
            });
            ((role == Role::SequenceClassification).then(|| Pooler::new(b, pooler)), head)
        });
        Bart { config, json, role, encoder, decoder, pooler, head }
    }

    /// The embeddings of the decoder's tokens; without targets, of the encoder's text shifted right.
    fn embed_targets(&self, ctx: &mut Ctx, batch: &Batch) -> Tensor {
        if let Some(Decoder { tokens, sequences, noise, .. }) = &batch.decoder {
            return self.decoder.embed(ctx, tokens, sequences, noise.as_ref());
        }
        let tokens = batch.tokens.roll([1], [0]).index_fill(0, batch.sequences.first(), self.config.start);
        self.decoder.embed(ctx, &tokens, &batch.sequences, batch.noise.as_ref())
    }
}

/// Returns the decoder's sequences, and the rectangles of their attention to the encoder's.
fn decoder_sequences(batch: &Batch) -> (&Sequences, &[Bucket]) {
    match &batch.decoder {
        Some(Decoder { sequences, cross, .. }) => (sequences, cross.buckets()),
        None => (&batch.sequences, batch.sequences.buckets()),
    }
}

impl Stack {
    fn embed(&self, ctx: &mut Ctx, tokens: &Tensor, sequences: &Sequences, noise: Option<&Noise>) -> Tensor {
        // There are no segments: the third tensor is unused.
        self.embeddings.forward(ctx, [tokens, sequences.positions(), tokens], noise.map(Noise::tensors))
    }
}

impl Backbone for Bart {
    fn blocks(&self) -> usize {
        self.config.stacks().blocks()
    }

    fn decoder_block(&self) -> usize {
        self.config.stacks().between()
    }

    fn block_name(&self, block: usize) -> String {
        self.config.stacks().name(block)
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        match self.config.stacks().part(block) {
            Part::Embeddings => {
                vec![self.encoder.embed(ctx, &batch.tokens, &batch.sequences, batch.noise.as_ref())]
            }
            Part::EncoderLayer(layer) => {
                vec![self.encoder.layers[layer].forward(ctx, &input[0], &batch.sequences, None)]
            }
            Part::DecoderEmbeddings => {
                vec![self.embed_targets(ctx, batch), input[0].shallow_clone()]
            }
            Part::DecoderLayer(layer) => {
                let (sequences, cross) = decoder_sequences(batch);
                let x = self.decoder.layers[layer].forward(ctx, &input[0], sequences, Some((&input[1], cross)));
                let memory = (block + 1 < self.blocks()).then(|| input[1].shallow_clone());
                [x].into_iter().chain(memory).collect()
            }
        }
    }

    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        self.pooler.as_ref().expect("this task head has a pooler").forward(ctx, &hidden[0], &batch.sequences)
    }

    fn features(&self, hidden: &Boundary, _: &mut Ctx) -> Tensor {
        hidden[0].shallow_clone()
    }

    fn vocabulary(&self, rows: &Tensor, ctx: &mut Ctx) -> Projection {
        self.head.as_ref().expect("this task head has a vocabulary").forward(ctx, rows.shallow_clone())
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: self.config.d_model, std: self.config.init_std, bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        Some(self.config.max_position_embeddings as usize)
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    fn segments(&self) -> usize {
        usize::MAX
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        let [own, cross] = decoder_extents(x);
        match self.config.stacks().part(block) {
            Part::Embeddings => self.encoder.embeddings.cost(how, x.own.tokens),
            Part::EncoderLayer(layer) => self.encoder.layers[layer].cost(how, &x.own, None),
            Part::DecoderEmbeddings => self.decoder.embeddings.cost(how, own.tokens),
            Part::DecoderLayer(layer) => self.decoder.layers[layer].cost(how, &own, Some((&cross, x.own.tokens))),
        }
    }

    fn boundary(&self, block: usize, x: &Extents) -> f64 {
        let made = match self.config.stacks().part(block) {
            Part::Embeddings | Part::EncoderLayer(_) => x.own.tokens,
            Part::DecoderEmbeddings | Part::DecoderLayer(_) => decoder_extents(x)[0].tokens,
        };
        made * self.config.d_model as f64
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        match (reads, &self.head) {
            (Reads::Vocabulary, Some(head)) => head.cost(how, x.targets),
            (Reads::Summary, _) => pooler::cost(how, x, self.config.d_model),
            _ => Cost::default(),
        }
    }

    fn hf_names(&self) -> HfNames {
        hf_names::names(&self.config, self.role)
    }

    fn architecture(&self) -> String {
        format!("Bart{}", self.role.ending())
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
