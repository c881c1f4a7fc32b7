//! Continuous batching: texts join the batch and leave it between two tokens, each with its own way to choose tokens.
//!
//! A pass computes the next token of all texts that are running; the prompts of new texts run packed, in a pass of their
//! own, and their keys and values join the KV cache. As in [`super::generate`], a text does not depend on the others: a
//! sampled token is a function of the text's logits, its seed and the position.

use super::decoding::{Passes, batch_of, decode};
use super::scores::Row;
use super::settings::{Sampling, Settings};
use super::{scores, uniform};
use crate::data::ragged::Sequences;
use crate::error::{Error, Result};
use crate::ffi::transfer;
use crate::models::{Backbone, Boundary};
use crate::nn::cache::Cache;
use tch::{Device, Tensor};

/// A text to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The caller's name for the text.
    pub id: u64,
    /// Token ids `[n]`; not empty.
    pub prompt: Vec<u32>,
    /// `None` for greedy decoding.
    pub sampling: Option<Sampling>,
    /// Random seed of sampling. The same seed samples what a file's first record gets.
    pub seed: u64,
    /// Minimum number of new tokens.
    pub min_new: usize,
    /// Maximum number of new tokens, at least 1.
    pub max_new: usize,
}

/// A new token of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// [`Start::id`].
    pub id: u64,
    pub token: u32,
    /// Why the text ends with this token, if it does.
    pub end: Option<End>,
}

/// Why a text ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// An EOS token.
    Eos,
    /// The maximum number of tokens.
    Length,
}

/// The texts that are being generated on one rank.
pub struct Running<'a> {
    backbone: &'a dyn Backbone,
    /// Repetition penalty, EOS tokens and the like of all texts; each text has its own search and length.
    settings: &'a Settings,
    device: Device,
    /// Of the open texts, in their order: all tokens but the newest of each. `None` without texts.
    cache: Option<Cache>,
    open: Vec<Open>,
}

struct Open {
    start: Start,
    new: Vec<u32>,
    /// Whether it leaves before the next pass.
    closed: bool,
}

impl Open {
    fn row(&self) -> Row<'_> {
        let Open { start: Start { prompt, min_new, max_new, .. }, new, .. } = self;
        Row { tokens: [prompt, new], min_new: *min_new, max_new: *max_new }
    }
}

impl<'a> Running<'a> {
    /// Returns an empty batch for a causal model on `device`.
    ///
    /// # Errors
    /// Exit 2: an encoder-decoder; those of [`Settings::check`].
    pub fn new(backbone: &'a dyn Backbone, settings: &'a Settings, device: Device) -> Result<Self> {
        if backbone.decoder_block() > 0 {
            return Err(Error::input("continuous batching needs a causal language model, not an encoder-decoder"));
        }
        settings.check(backbone.vocab_size(), false)?;
        Ok(Running { backbone, settings, device, cache: None, open: Vec::new() })
    }

    /// Number of texts that take part in the next pass.
    pub fn len(&self) -> usize {
        self.open.iter().filter(|open| !open.closed).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets a text leave before the next pass. The last one leaves now: its memory is free until there is a new text.
    pub fn close(&mut self, id: u64) {
        self.open.iter_mut().filter(|open| open.start.id == id).for_each(|open| open.closed = true);
        if self.is_empty() {
            self.leave();
        }
    }

    /// Adds new texts and computes the next token of all; a text that ends leaves.
    ///
    /// # Errors
    /// Those of `passes` and libtorch's. All texts are lost then.
    pub fn step(&mut self, new: Vec<Start>, passes: &mut dyn Passes) -> Result<Vec<Next>> {
        let _guard = tch::no_grad_guard();
        self.leave();
        let logits = [self.continued(passes)?, self.started(&new, passes)?];
        let logits: Vec<Tensor> = logits.into_iter().flatten().collect();
        if logits.is_empty() {
            return Ok(Vec::new());
        }
        self.open.extend(new.into_iter().map(|start| Open { start, new: Vec::new(), closed: false }));
        let chosen = self.choose(&Tensor::cat(&logits, 0))?;
        let eos = &self.settings.eos;
        let next = |(open, token): (&mut Open, u32)| {
            open.new.push(token);
            let end = match open.new.len() {
                _ if eos.contains(&token) => Some(End::Eos),
                n if n >= open.start.max_new => Some(End::Length),
                _ => None,
            };
            open.closed = end.is_some();
            Next { id: open.start.id, token, end }
        };
        Ok(self.open.iter_mut().zip(chosen).map(next).collect())
    }

    /// Removes the closed texts.
    fn leave(&mut self) {
        let kept: Vec<usize> = (0..self.open.len()).filter(|&i| !self.open[i].closed).collect();
        if kept.len() == self.open.len() {
            return;
        }
        self.open.retain(|open| !open.closed);
        if self.open.is_empty() {
            self.cache = None;
        }
        if let Some(cache) = &mut self.cache {
            cache.select(&kept);
        }
    }

    /// Runs the newest token of each open text; returns the logits of the next ones.
    fn continued(&mut self, passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        let Some(cache) = &mut self.cache else { return Ok(None) };
        let newest: Vec<i64> = self.open.iter().filter_map(|open| open.new.last()).map(|&id| i64::from(id)).collect();
        let batch = batch_of(newest, cache.grow(), None, self.device);
        decode(self.backbone, Some(&batch), cache, &Boundary::new(), passes)
    }

    /// Runs the prompts of new texts, which join the cache; returns the logits of their first tokens.
    fn started(&mut self, new: &[Start], passes: &mut dyn Passes) -> Result<Option<Tensor>> {
        if new.is_empty() {
            return Ok(None);
        }
        let ids: Vec<i64> = new.iter().flat_map(|start| &start.prompt).map(|&id| i64::from(id)).collect();
        let sequences = Sequences::new(new.iter().map(|start| start.prompt.len() as i64).collect());
        let batch = batch_of(ids, sequences, None, self.device);
        let mut cache = Cache::new(self.backbone.blocks(), &batch.sequences);
        let logits = decode(self.backbone, Some(&batch), &mut cache, &Boundary::new(), passes)?;
        match &mut self.cache {
            Some(own) => own.join(cache),
            None => self.cache = Some(cache),
        }
        Ok(logits)
    }

    /// Chooses a token for each open text from f32 logits `[texts, vocab]`, as [`super::search::Texts`] does.
    fn choose(&self, logits: &Tensor) -> Result<Vec<u32>> {
        let rows: Vec<Row> = self.open.iter().map(Open::row).collect();
        let scores = scores::process(logits, &rows, self.settings);
        let mut tokens: Vec<i64> = transfer::values(&scores.argmax(-1, false))?;
        // Texts that sample alike are sampled together.
        let mut alike: Vec<(Sampling, Vec<(i64, f64)>)> = Vec::new();
        for (row, Open { start, new, .. }) in (0_i64..).zip(&self.open) {
            let Some(sampling) = start.sampling else { continue };
            let own = (row, uniform(start.seed, 0, new.len()));
            match alike.iter_mut().find(|(other, _)| *other == sampling) {
                Some((_, others)) => others.push(own),
                None => alike.push((sampling, vec![own])),
            }
        }
        for (sampling, texts) in alike {
            let (rows, uniforms): (Vec<i64>, Vec<f64>) = texts.into_iter().unzip();
            let own = scores.index_select(0, &transfer::to_device(Tensor::from_slice(&rows), self.device));
            let chosen: Vec<i64> = transfer::values(&scores::sample(&scores::warp(&own, &sampling), &uniforms))?;
            rows.iter().zip(chosen).for_each(|(&row, token)| tokens[row as usize] = token);
        }
        Ok(tokens.into_iter().map(|id| id as u32).collect())
    }
}
