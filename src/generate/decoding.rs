//! The passes through the model: one over the prompts, then one a token.

use super::search::{Draw, Step, Texts};
use super::{Prompt, Settings, Text};
use crate::data::batch::{Batch, Decoder, Labels};
use crate::data::ragged::{Cross, Sequences};
use crate::error::{Error, Result};
use crate::ffi::transfer::{self, Arrival};
use crate::models::{Backbone, Border};
use crate::nn::cache::Cache;
use crate::nn::{Ctx, Params};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Who runs the stages of a model: it has their weights at hand when they run. Ranks that share weights make the same
/// calls in the same order, a rank without prompts too.
pub trait Passes {
    /// Calls `run` for each of these stages in order; the head's is the last of all.
    ///
    /// # Errors
    /// A dead or late rank.
    fn pass(&mut self, stages: Range<usize>, run: &mut dyn FnMut(usize, &Params)) -> Result<()>;

    /// Whether there is another pass: because this rank wants one (`mine`), or because another does.
    ///
    /// # Errors
    /// A dead or late rank.
    fn another(&mut self, mine: bool) -> Result<bool>;

    /// The new tokens of the sequences that go on.
    fn taken(&mut self, _tokens: &[u32]) {}

    /// Where to compute.
    fn device(&self) -> Device;
}

/// Generates a text for each prompt. Prompts of about the same length share passes well, and any order gives the same
/// texts.
///
/// # Errors
/// Exit 2: an encoder-decoder without a start token, more beams than the vocabulary has tokens for. Those of `passes`.
pub fn generate(
    backbone: &dyn Backbone,
    prompts: &[Prompt],
    settings: &Settings,
    draw: Draw,
    passes: &mut dyn Passes,
) -> Result<Vec<Text>> {
    let _guard = tch::no_grad_guard();
    let decoder = backbone.decoder_stage();
    let start = match (decoder > 0, settings.decoder_start) {
        (true, None) => {
            let keys = "decoder_start_token_id or bos_token_id";
            return Err(Error::input(format!("an encoder-decoder starts from {keys}: neither is set")));
        }
        (is_decoder, start) => start.filter(|_| is_decoder),
    };
    settings.check_vocabulary(backbone.vocab_size())?;
    let limit = if start.is_some() { None } else { backbone.max_length() };
    let mut texts = Texts::new(settings, draw, prompts, start, limit);
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

/// A model between two passes.
struct Running<'a> {
    backbone: &'a dyn Backbone,
    device: Device,
    /// None when there is nothing to run.
    batch: Option<Batch>,
    /// The encoder's tokens, or the prompts'.
    source: Vec<i64>,
    cache: Cache,
    /// What the decoder's first stage gets: the encoder's output.
    encoded: Border,
}

impl<'a> Running<'a> {
    fn new(backbone: &'a dyn Backbone, prompts: &[Prompt], start: Option<u32>, device: Device) -> Self {
        let source: Vec<i64> = prompts.iter().flat_map(|prompt| &prompt.ids).map(|&id| i64::from(id)).collect();
        let batch = (!prompts.is_empty()).then(|| first_batch(prompts, &source, start, device));
        let own = batch.as_ref().map(own_sequences);
        let empty = Sequences::new(Vec::new());
        let cache = Cache::new(backbone.stages(), own.unwrap_or(&empty));
        Running { backbone, device, batch, source, cache, encoded: Border::new() }
    }

    /// All stages over the prompts; the logits of their last tokens.
    fn first(&mut self, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        let (backbone, decoder) = (self.backbone, self.backbone.decoder_stage());
        let (encoded, batch) = (&mut self.encoded, &self.batch);
        if decoder > 0 {
            passes.pass(0..decoder, &mut |stage, params| {
                if let Some(batch) = batch {
                    *encoded = backbone.forward(stage, encoded, batch, &mut Ctx::eval(params));
                }
            })?;
        }
        self.decode(passes)
    }

    /// The decoder's stages over one token more of each sequence.
    fn next(&mut self, step: &Step, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        self.batch = self.batch.take().filter(|_| !step.tokens.is_empty()).map(|batch| self.next_batch(&batch, step));
        self.decode(passes)
    }

    fn decode(&mut self, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        let (backbone, stages) = (self.backbone, self.backbone.stages());
        let (batch, cache) = (&self.batch, &mut self.cache);
        let mut border: Border = self.encoded.iter().map(Tensor::shallow_clone).collect();
        let mut logits = None;
        passes.pass(backbone.decoder_stage()..stages + 1, &mut |stage, params| {
            let Some(batch) = batch else { return };
            if stage < stages {
                border = backbone.forward(stage, &border, batch, &mut Ctx::generate(params, cache.stage(stage)));
            } else {
                let last = border[0].index_select(0, own_sequences(batch).last());
                logits = Some(backbone.vocabulary(&last, &mut Ctx::eval(params)).to_kind(Kind::Float));
            }
        })?;
        Ok(logits)
    }

    /// The batch of the next pass, with cache and encoder's output left to those that go on.
    fn next_batch(&mut self, batch: &Batch, step: &Step) -> Batch {
        self.cache.select(&step.parents);
        let tokens: Vec<i64> = step.tokens.iter().map(|&id| i64::from(id)).collect();
        let tokens = Tensor::from_slice(&tokens);
        let sequences = self.cache.grow();
        if batch.decoder.is_none() {
            return batch_of(tokens, sequences, None, self.device);
        }
        let lengths = batch.sequences.lengths();
        let all = step.prompts.len() == lengths.len();
        let starts = lengths.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n)));
        let starts: Vec<i64> = starts.collect();
        let places = step.prompts.iter().flat_map(|&(place, _)| starts[place]..starts[place] + lengths[place]);
        let places: Vec<i64> = places.collect();
        self.source = places.iter().map(|&place| self.source[place as usize]).collect();
        let ids = Tensor::from_slice(&self.source);
        if !all {
            let places = transfer::to_device(Tensor::from_slice(&places), self.device);
            self.cache.select_constants(&places);
            self.encoded = self.encoded.iter().map(|x| x.index_select(0, &places)).collect();
        }
        let sources = Sequences::new(step.prompts.iter().map(|&(place, _)| lengths[place]).collect());
        // The sequences of one prompt look at its source together, as if they were one sequence of so many queries.
        let queries = Sequences::new(step.prompts.iter().map(|&(_, n)| n as i64).collect());
        let cross = Cross::new(&queries, &sources);
        batch_of(ids, sources, Some(Decoder { tokens, sequences, cross }), self.device)
    }
}

/// The prompts, whose tokens are `ids`; a decoder begins with `start`.
fn first_batch(prompts: &[Prompt], ids: &[i64], start: Option<u32>, device: Device) -> Batch {
    let sequences = Sequences::new(prompts.iter().map(|prompt| prompt.ids.len() as i64).collect());
    let decoder = start.map(|start| {
        let own = Sequences::new(vec![1; prompts.len()]);
        let tokens = Tensor::full([prompts.len() as i64], i64::from(start), (Kind::Int64, Device::Cpu));
        Decoder { tokens, cross: Cross::new(&own, &sequences), sequences: own }
    });
    batch_of(Tensor::from_slice(ids), sequences, decoder, device)
}

/// A batch without labels, on `device`, of tensors on the CPU.
fn batch_of(tokens: Tensor, sequences: Sequences, decoder: Option<Decoder>, device: Device) -> Batch {
    let n = sequences.lengths().len();
    let mut batch = Batch {
        segments: tokens.zeros_like(),
        tokens,
        sequences,
        decoder,
        labels: Labels::None,
        samples: (0..n as u32).collect(),
        widths: vec![1; n],
        score_places: None,
    };
    let arrival = batch.upload(Vec::new(), device);
    arrival.and_then(Arrival::wait).unwrap_or_else(|e| panic!("a batch of {n} sequences to {device:?}: {e}"));
    batch
}

/// The sequences that texts are continued in.
fn own_sequences(batch: &Batch) -> &Sequences {
    batch.decoder.as_ref().map_or(&batch.sequences, |decoder| &decoder.sequences)
}
