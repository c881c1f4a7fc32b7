//! Generation over a whole dataset on all ranks; the texts do not depend on the number of ranks.

use crate::comm::{Collective, Op};
use crate::data::{Collation, Dataset, Prepared, sampler};
use crate::error::{Error, Result};
use crate::generate::search::RandomNumbers;
use crate::generate::settings::Search;
use crate::generate::{self, Passes, Prompt, Settings, Text};
use crate::metrics::Metrics;
use crate::nn::Params;
use crate::observe::progress::Phase;
use crate::parallel::Weights;
use crate::train::blockwise;
use crate::train::evaluate::Evaluator;
use crate::train::generation::Generation;
use std::ops::Range;
use tch::Device;

impl Evaluator<'_> {
    /// Generates texts for a labelled dataset and returns their metrics.
    ///
    /// # Errors
    /// As [`Evaluator::texts`].
    pub fn generated(&mut self, data: &Prepared, generation: &Generation) -> Result<Metrics> {
        let texts = self.texts(&data.dataset, &generation.settings, &generation.random_numbers())?;
        generation.metrics(&texts, &data.facts.references)
    }

    /// Generates a text for the first sequence (prompt or source) of every example, in order; the same on every rank.
    /// A rank's KV cache has at most `micro_batch_tokens` tokens of prompts and texts of all beams, or one prompt's.
    ///
    /// # Errors
    /// Exit 2 if a prompt leaves no room for a text, and as [`generate::generate`]; a dead or late rank; libtorch's.
    pub fn texts(&mut self, dataset: &Dataset, settings: &Settings, random: RandomNumbers) -> Result<Vec<Text>> {
        let Evaluator { model, params, comm, micro_batch_tokens, .. } = *self;
        let settings = &with_start(settings, dataset);
        let backbone = model.backbone.as_ref();
        let prompts: Vec<Prompt> = (0..dataset.len()).map(|i| prompt(dataset, i)).collect();
        let costs = costs(&prompts, settings, backbone.decoder_block() > 0, backbone.max_length())?;
        let plan = sampler::eval_plan(&costs, comm.world(), micro_batch_tokens);
        let mut found = vec![Text::default(); prompts.len()];
        let mut passes = Gathered { params, weights: self.weights, comm, watch: None };
        let phase = Phase::of("generating", prompts.len() as u64, "texts");
        for pass in 0..plan.iter().map(Vec::len).max().unwrap_or_default() {
            let micro = plan[comm.rank()].get(pass).map_or(&[][..], Vec::as_slice);
            let own: Vec<Prompt> = micro.iter().map(|&i| prompts[i as usize].clone()).collect();
            let texts = generate::generate(backbone, &own, settings, random, &mut passes)?;
            micro.iter().zip(texts).for_each(|(&i, text)| found[i as usize] = text);
            phase.advance(sampler::samples_in(&plan, pass));
        }
        drop(phase);
        gather(comm, &found)
    }
}

impl Evaluator<'_> {
    /// Generates a text for one prompt on one rank. Without beams, `watch` gets all tokens but the last; false stops.
    ///
    /// # Errors
    /// As [`generate::generate`].
    pub fn answer(
        &mut self,
        prompt: Prompt,
        generation: &Generation,
        watch: &mut dyn FnMut(u32) -> bool,
    ) -> Result<Text> {
        let Evaluator { model, params, comm, .. } = *self;
        let mut passes = Gathered { params, weights: self.weights, comm, watch: Some((watch, true)) };
        let settings = &generation.settings;
        let texts = generate::generate(
            model.backbone.as_ref(),
            &[prompt],
            settings,
            &generation.random_numbers(),
            &mut passes,
        )?;
        texts.into_iter().next().ok_or_else(|| Error::other("a prompt without a text"))
    }
}

impl Evaluator<'_> {
    /// Returns what runs the passes of texts that are generated on one rank, for [`generate::continuous`].
    pub fn passes(&mut self) -> impl Passes {
        Gathered { params: self.params, weights: &mut *self.weights, comm: self.comm, watch: None }
    }
}

/// Returns the settings, with the dataset's decoder start token if the folder has none for generation.
fn with_start(settings: &Settings, dataset: &Dataset) -> Settings {
    let own = match dataset.collation() {
        Collation::SourceTarget { start } => Some(*start),
        _ => None,
    };
    Settings { decoder_start: settings.decoder_start.or(own), ..settings.clone() }
}

fn prompt(dataset: &Dataset, i: usize) -> Prompt {
    let first = match dataset.collation() {
        Collation::SourceTarget { .. } => dataset.sequences(i)[0] as usize,
        _ => dataset.length(i),
    };
    Prompt { ids: dataset.ids(i)[..first].to_vec(), record: i as u64 }
}

/// Returns the maximum number of tokens in the KV cache for each prompt and its text.
fn costs(prompts: &[Prompt], settings: &Settings, has_encoder: bool, limit: Option<usize>) -> Result<Vec<u32>> {
    let beams = if let Search::Beam(beam) = settings.search { beam.beams } else { 1 };
    let cost = |(i, prompt): (usize, &Prompt)| {
        let length = prompt.ids.len();
        if has_encoder {
            return Ok((length + beams * settings.length.after(1, limit).1) as u32);
        }
        match settings.length.after(length, limit) {
            (_, 0) => Err(Error::input(format!(
                "record {}: the prompt has {length} tokens, which leaves no room for a text ({})",
                i + 1,
                limit.map_or("max_length is reached".into(), |limit| format!("the model's limit is {limit}")),
            ))),
            (_, new) => Ok((beams * (length + new)) as u32),
        }
    };
    prompts.iter().enumerate().map(cost).collect()
}

/// Runs blocks, gathering their weights from all ranks if they are sharded.
struct Gathered<'a> {
    params: &'a Params,
    weights: &'a mut Weights,
    comm: &'a dyn Collective,
    /// Callback for the tokens of a single text, and whether it wants more.
    watch: Option<(&'a mut dyn FnMut(u32) -> bool, bool)>,
}

impl Passes for Gathered<'_> {
    fn taken(&mut self, tokens: &[u32]) {
        if let (Some((watch, continues)), [token]) = (&mut self.watch, tokens) {
            *continues = watch(*token);
        }
    }

    fn pass(&mut self, blocks: Range<usize>, run: &mut dyn FnMut(usize, &Params)) -> Result<()> {
        let Gathered { params, weights, .. } = self;
        let last = blocks.end - 1;
        blockwise::visit(params, weights, blocks, |block| run(block, params))?;
        weights.release(params, last)
    }

    fn another(&mut self, mine: bool) -> Result<bool> {
        let mine = mine && self.watch.as_ref().is_none_or(|(_, continues)| *continues);
        if !self.weights.zero().shards_weights() {
            return Ok(mine);
        }
        let mut any = [f64::from(u8::from(mine))];
        self.comm.all_reduce_f64(&mut any, Op::Max, "whether a text continues")?;
        Ok(any[0] > 0.0)
    }

    fn device(&self) -> Device {
        self.comm.device()
    }
}

/// Collects all ranks' texts; each rank has only its own.
fn gather(comm: &dyn Collective, own: &[Text]) -> Result<Vec<Text>> {
    const WHAT: &str = "generated texts";
    let mut lengths: Vec<f64> = own.iter().map(|text| text.ids.len() as f64).collect();
    comm.all_reduce_f64(&mut lengths, Op::Sum, WHAT)?;
    let lengths: Vec<usize> = lengths.into_iter().map(|n| n as usize).collect();
    // Id and log-probability of each token; the other ranks' texts are zero.
    let blank = |text: &Text, n: usize| {
        let mut pairs: Vec<f64> = text
            .ids
            .iter()
            .zip(&text.log_probs)
            .flat_map(|(&id, &log_prob)| [f64::from(id), f64::from(log_prob)])
            .collect();
        pairs.resize(2 * n, 0.0);
        pairs
    };
    let mut table: Vec<f64> = own.iter().zip(&lengths).flat_map(|(text, &n)| blank(text, n)).collect();
    comm.all_reduce_f64(&mut table, Op::Sum, WHAT)?;
    let mut rest = table.as_slice();
    let text = |&n: &usize| {
        let (pairs, others) = rest.split_at(2 * n);
        rest = others;
        let pairs = pairs.chunks_exact(2);
        Text { ids: pairs.clone().map(|p| p[0] as u32).collect(), log_probs: pairs.map(|p| p[1] as f32).collect() }
    };
    Ok(lengths.iter().map(text).collect())
}
