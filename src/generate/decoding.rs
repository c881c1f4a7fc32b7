//! The forward passes of generation: a prefill over the prompts, then one pass per token.

use super::search::{RandomNumbers, Step, Texts};
use super::{Prompt, Settings, Text};
use crate::data::batch::{Batch, Decoder, Labels};
use crate::data::ragged::{Cross, Sequences};
use crate::error::{Error, Result};
use crate::ffi::transfer::{self, Arrival};
use crate::models::{Backbone, Boundary};
use crate::nn::cache::Cache;
use crate::nn::{Ctx, Params};
use std::ops::Range;
use std::sync::OnceLock;
use tch::{Device, Kind, Tensor};

/// Runs the blocks of a model and makes their weights available. Ranks that shard weights make the same calls in the
/// same order, including ranks without prompts.
pub trait Passes {
    /// Calls `run` for each of these blocks in order; the head's is the last.
    ///
    /// # Errors
    /// A dead or late rank.
    fn pass(&mut self, blocks: Range<usize>, run: &mut dyn FnMut(usize, &Params)) -> Result<()>;

    /// Returns whether there is another pass: if this rank needs one (`mine`), or another rank does.
    ///
    /// # Errors
    /// A dead or late rank.
    fn another(&mut self, mine: bool) -> Result<bool>;

    /// Receives the new tokens of the sequences that continue.
    fn taken(&mut self, _tokens: &[u32]) {}

    fn device(&self) -> Device;
}

/// Generates a text for each prompt. Batches are most efficient with prompts of similar length; the order does not
/// change the texts.
///
/// # Errors
/// Exit 2: an encoder-decoder without a start token; those of [`Settings::check`]. Errors of `passes`.
pub fn generate(
    backbone: &dyn Backbone,
    prompts: &[Prompt],
    settings: &Settings,
    random: RandomNumbers,
    passes: &mut dyn Passes,
) -> Result<Vec<Text>> {
    let _guard = tch::no_grad_guard();
    let decoder = backbone.decoder_block();
    let start = match (decoder > 0, settings.decoder_start) {
        (true, None) => {
            let keys = "decoder_start_token_id or bos_token_id";
            return Err(Error::input(format!("an encoder-decoder needs {keys}: neither is set")));
        }
        (is_decoder, start) => start.filter(|_| is_decoder),
    };
    settings.check(backbone.vocab_size(), start.is_some())?;
    let mut texts = Texts::new(settings, random, prompts, start, backbone.max_length());
    let mut model = Running::new(backbone, prompts, start, passes.device());
    let mut logits = model.first(passes)?;
    loop {
        let step = logits.map(|logits| texts.advance(&logits)).unwrap_or_default();
        passes.taken(&step.tokens);
        if !passes.another(!step.tokens.is_empty())? {
            return Ok(texts.into_texts());
        }
        logits = model.next(&step, passes)?;
    }
}

/// The state between two passes.
struct Running<'a> {
    backbone: &'a dyn Backbone,
    device: Device,
    /// `None` when there is nothing to run.
    batch: Option<Batch>,
    /// The encoder's tokens, or the prompts' tokens.
    source: Vec<i64>,
    cache: Cache,
    /// The input of the decoder's first block: the encoder's output.
    encoded: Boundary,
}

impl<'a> Running<'a> {
    fn new(backbone: &'a dyn Backbone, prompts: &[Prompt], start: Option<u32>, device: Device) -> Self {
        let source: Vec<i64> = prompts.iter().flat_map(|prompt| &prompt.ids).map(|&id| i64::from(id)).collect();
        let batch = (!prompts.is_empty()).then(|| first_batch(prompts, &source, start, device));
        let own = batch.as_ref().map(own_sequences);
        let empty = Sequences::new(Vec::new());
        let cache = Cache::new(backbone.blocks(), own.unwrap_or(&empty));
        Running { backbone, device, batch, source, cache, encoded: Boundary::new() }
    }

    /// Runs all blocks over the prompts; returns the logits of their last tokens.
    fn first(&mut self, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        let (backbone, decoder) = (self.backbone, self.backbone.decoder_block());
        let (encoded, batch) = (&mut self.encoded, &self.batch);
        if decoder > 0 {
            passes.pass(0..decoder, &mut |block, params| {
                if let Some(batch) = batch {
                    *encoded = backbone.forward(block, encoded, batch, &mut Ctx::eval(params));
                }
            })?;
        }
        self.decode(passes)
    }

    /// Runs the decoder's blocks over one new token per sequence.
    fn next(&mut self, step: &Step, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        self.batch = self.batch.take().filter(|_| !step.tokens.is_empty()).map(|batch| self.next_batch(&batch, step));
        self.decode(passes)
    }

    fn decode(&mut self, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        decode(self.backbone, self.batch.as_ref(), &mut self.cache, &self.encoded, passes)
    }

    /// Returns the batch of the next pass; KV cache and encoder output are reduced to the continuing sequences.
    fn next_batch(&mut self, batch: &Batch, step: &Step) -> Batch {
        self.cache.select(&step.parents);
        let tokens: Vec<i64> = step.tokens.iter().map(|&id| i64::from(id)).collect();
        let sequences = self.cache.grow();
        if batch.decoder.is_none() {
            return batch_of(tokens, sequences, None, self.device);
        }
        let tokens = Tensor::from_slice(&tokens);
        let lengths = batch.sequences.lengths();
        let all = step.prompts.len() == lengths.len();
        let starts = lengths.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n)));
        let starts: Vec<i64> = starts.collect();
        let indices = step.prompts.iter().flat_map(|&(place, _)| starts[place]..starts[place] + lengths[place]);
        let indices: Vec<i64> = indices.collect();
        self.source = indices.iter().map(|&place| self.source[place as usize]).collect();
        let ids = self.source.clone();
        if !all {
            let indices = transfer::to_device(Tensor::from_slice(&indices), self.device);
            self.cache.select_constants(&indices);
            self.encoded = self.encoded.iter().map(|x| x.index_select(0, &indices)).collect();
        }
        let sources = Sequences::new(step.prompts.iter().map(|&(place, _)| lengths[place]).collect());
        // The beams of one prompt attend to its source together, as one sequence with several queries.
        let queries = Sequences::new(step.prompts.iter().map(|&(_, n)| n as i64).collect());
        let cross = Cross::new(&queries, &sources);
        batch_of(ids, sources, Some(Decoder { tokens, sequences, cross, noise: None }), self.device)
    }
}

/// Runs the decoder's blocks over a batch, if there is one; returns the f32 logits of the last token of each sequence,
/// `[sequences, vocab]`. `encoded` is the encoder's output.
pub(super) fn decode(
    backbone: &dyn Backbone,
    batch: Option<&Batch>,
    cache: &mut Cache,
    encoded: &Boundary,
    passes: &mut dyn Passes,
) -> Result<Option<Tensor>> {
    let blocks = backbone.blocks();
    let mut border: Boundary = encoded.iter().map(Tensor::shallow_clone).collect();
    let mut logits = None;
    passes.pass(backbone.decoder_block()..blocks + 1, &mut |block, params| {
        let Some(batch) = batch else { return };
        if block < blocks {
            border = backbone.forward(block, &border, batch, &mut Ctx::generate(params, cache.block(block)));
        } else {
            let last = border[0].index_select(0, own_sequences(batch).last());
            logits = Some(backbone.vocabulary(&last, &mut Ctx::eval(params)).logits().to_kind(Kind::Float));
        }
    })?;
    Ok(logits)
}

/// Returns the batch of the prompts, whose tokens are `ids`; a decoder begins with `start`.
fn first_batch(prompts: &[Prompt], ids: &[i64], start: Option<u32>, device: Device) -> Batch {
    let sequences = Sequences::new(prompts.iter().map(|prompt| prompt.ids.len() as i64).collect());
    let decoder = start.map(|start| {
        let own = Sequences::new(vec![1; prompts.len()]);
        let tokens = Tensor::full([prompts.len() as i64], i64::from(start), (Kind::Int64, Device::Cpu));
        Decoder { tokens, cross: Cross::new(&own, &sequences), sequences: own, noise: None }
    });
    batch_of(ids.to_vec(), sequences, decoder, device)
}

/// Returns a batch without labels on `device`, from tensors on the CPU.
pub(super) fn batch_of(ids: Vec<i64>, sequences: Sequences, decoder: Option<Decoder>, device: Device) -> Batch {
    let n = sequences.lengths().len();
    let tokens = Tensor::from_slice(&ids);
    let mut batch = Batch {
        segments: tokens.zeros_like(),
        tokens,
        ids,
        sequences,
        decoder,
        labels: Labels::None,
        samples: (0..n as u32).collect(),
        widths: vec![1; n],
        weights: vec![0.0],
        class_weights: None,
        example_weights: None,
        label_smoothing: 0.0,
        noise: None,
        taught: None,
        contrast: OnceLock::new(),
        score_positions: None,
    };
    let arrival = batch.upload(Vec::new(), device);
    arrival.and_then(Arrival::wait).unwrap_or_else(|e| panic!("a batch of {n} sequences to {device:?}: {e}"));
    batch
}

/// The sequences that are continued.
fn own_sequences(batch: &Batch) -> &Sequences {
    batch.decoder.as_ref().map_or(&batch.sequences, |decoder| &decoder.sequences)
}
