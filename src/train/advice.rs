//! Recommends the cheapest settings that fit in memory; if none fit, changes that save memory.
//!
//! Every figure comes from the memory model with changed settings. The changes are the KEY=VALUE overrides that are
//! reported to the user, so that only valid settings are recommended.

use crate::config::{Config, Offload, Precision, Recompute, ShardWithin, ZeroStage};
use crate::error::Result;
use crate::nn::param_builder::ParamSpec;
use crate::train::estimate::Estimate;
use crate::train::memory_fit::TOKEN_CANDIDATES;
use crate::train::planned_run::{Assumed, Hardware, PlannedRun};
use serde_json::json;

/// Maximum number of ranks to consider.
const MOST_RANKS: usize = 1024;
/// Maximum number of tokens in a dataset that is read again with another `data.max_length`.
const READ_AGAIN: u64 = 5_000_000;
/// Minimum fraction of the memory that a change must save to be reported.
const WORTH: f64 = 0.01;

/// The run and the hardware to recommend settings for.
pub struct Advisor<'a> {
    pub run: &'a PlannedRun,
    /// Returns the configuration with these overrides after all others.
    pub with: &'a dyn Fn(&[String]) -> Result<Config>,
    pub hardware: Hardware,
    pub assumed: Option<Assumed>,
}

/// The recommendation.
pub struct Advice {
    pub configured: Estimate,
    /// The cheapest settings that fit; `None` if nothing fits or no limit is known.
    pub cheapest: Option<Choice>,
    /// If nothing fits: changes that save memory, the largest saving first.
    pub changes: Vec<Change>,
}

/// Settings that fit.
#[derive(Debug)]
pub struct Choice {
    /// Overrides to add to the command line; empty if the configured settings fit.
    pub overrides: Vec<String>,
    pub estimate: Estimate,
}

/// A change that saves memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub what: &'static str,
    pub edit: Edit,
    /// Bytes per rank with only this change.
    pub alone: f64,
    /// Bytes per rank with this change and all before it.
    pub cumulative: f64,
}

/// Changes to a command line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Edit {
    /// KEY=VALUE overrides except `model.freeze`.
    settings: Vec<String>,
    /// All patterns of `model.freeze`; empty if unchanged.
    freeze: Vec<String>,
    /// Value for `--ranks`, if it changes.
    pub ranks: Option<usize>,
    /// Value for `--assume-length`, if it changes.
    pub length: Option<usize>,
}

impl Edit {
    fn of(word: impl Into<String>) -> Self {
        Edit { settings: vec![word.into()], ..Edit::default() }
    }

    /// Merges two edits: `other` replaces overrides of the same key, and the frozen patterns are joined.
    fn and(&self, other: &Edit) -> Edit {
        let key = |word: &String| word.split('=').next().map(str::to_owned);
        let kept = self.settings.iter().filter(|word| !other.settings.iter().any(|new| key(new) == key(word)));
        let mut freeze = self.freeze.clone();
        freeze.extend(other.freeze.iter().filter(|pattern| !self.freeze.contains(pattern)).cloned());
        let settings = kept.chain(&other.settings).cloned().collect();
        Edit { settings, freeze, ranks: other.ranks.or(self.ranks), length: other.length.or(self.length) }
    }

    pub fn overrides(&self) -> Vec<String> {
        let freeze = (!self.freeze.is_empty()).then(|| format!("model.freeze={}", json!(self.freeze)));
        self.settings.iter().cloned().chain(freeze).collect()
    }
}

impl Advisor<'_> {
    /// Searches for settings that fit, or for changes if none fit.
    ///
    /// # Errors
    /// As [`PlannedRun::estimate`].
    pub fn advise(&self) -> Result<Advice> {
        let configured = self.run.estimate((self.with)(&[])?, &self.hardware)?;
        let cheapest = if self.hardware.limit.is_some() { self.cheapest()? } else { None };
        let short = self.hardware.limit.is_some() && cheapest.is_none();
        let changes = if short { self.changes(&configured)? } else { Vec::new() };
        Ok(Advice { configured, cheapest, changes })
    }

    /// Returns the first settings that fit, in order of cost, as for `zero_stage = "auto"`: a higher ZeRO stage,
    /// smaller micro-batches, activation checkpointing, another precision, which rounds differently, and last optimizer
    /// state in host memory, which every step copies gradients and weights for.
    fn cheapest(&self) -> Result<Option<Choice>> {
        let own = (self.with)(&[])?.parallel;
        let half = if own.precision == Precision::Fp32 { Precision::Bf16 } else { own.precision };
        let mut precisions = vec![own.precision, half];
        precisions.dedup();
        let mut recomputes = vec![Recompute::None, own.recompute, Recompute::All];
        recomputes.dedup();
        // On a CPU the device's memory is the host's.
        let offloads = if own.offload == Offload::None && !self.hardware.cpu { 2 } else { 1 };
        for offload in [own.offload, Offload::Optimizer].into_iter().take(offloads) {
            for (&precision, &recompute) in precisions.iter().flat_map(|p| recomputes.iter().map(move |r| (p, r))) {
                let mut overrides = Vec::new();
                if precision != own.precision {
                    overrides.push(format!("parallel.precision={precision}"));
                }
                if recompute != own.recompute {
                    overrides.push(format!("parallel.recompute={}", word(recompute)));
                }
                if offload != own.offload {
                    overrides.push(format!("parallel.offload={offload}"));
                }
                let found = match self.fitting(&overrides)? {
                    Ok(choice) => Some(choice),
                    Err(tokens) => self.with_fewer_tokens(&overrides, tokens)?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// Returns the lowest ZeRO stage that fits with these overrides, or the micro-batch tokens if none fits.
    fn fitting(&self, overrides: &[String]) -> Result<Result<Choice, usize>> {
        let Ok(mut config) = (self.with)(overrides) else { return Ok(Err(0)) };
        let set = config.parallel.zero_stage;
        config.parallel.zero_stage = ZeroStage::Auto;
        let mut estimate = self.run.estimate(config, &self.hardware)?;
        let stage = estimate.zero.stage();
        let mut overrides = overrides.to_vec();
        if set != ZeroStage::Auto && set != ZeroStage::Stage(stage) {
            overrides.push(format!("parallel.zero_stage={stage}"));
            if stage == 0 && estimate.config.parallel.shard_within == ShardWithin::Host {
                overrides.push("parallel.shard_within=world".into());
            }
        }
        if !self.hardware.fits(estimate.total()) || (self.with)(&overrides).is_err() {
            return Ok(Err(estimate.tokens()));
        }
        estimate.config.parallel.zero_stage = if set == ZeroStage::Auto { set } else { ZeroStage::Stage(stage) };
        Ok(Ok(Choice { overrides, estimate }))
    }

    /// Returns the largest micro-batch below `than` tokens that fits with these overrides.
    fn with_fewer_tokens(&self, overrides: &[String], than: usize) -> Result<Option<Choice>> {
        let fewer: Vec<usize> = TOKEN_CANDIDATES.into_iter().filter(|&tokens| tokens < than).collect();
        let with = |tokens: usize| self.fitting(&[overrides, &[tokens_override(tokens)]].concat());
        let Some(&least) = fewer.last() else { return Ok(None) };
        let Ok(last) = with(least)? else { return Ok(None) };
        for &tokens in &fewer[..fewer.len() - 1] {
            if let Ok(choice) = with(tokens)? {
                return Ok(Some(choice));
            }
        }
        Ok(Some(last))
    }

    /// Returns the per-rank memory after an edit; `None` if the configuration is invalid then.
    fn need(&self, edit: &Edit) -> Result<Option<f64>> {
        let Ok(config) = (self.with)(&edit.overrides()) else { return Ok(None) };
        let (run, own) = (self.run, &self.run.config);
        let hardware = Hardware { ranks: edit.ranks.unwrap_or(self.hardware.ranks), ..self.hardware };
        let changed = if config.data.max_length != own.data.max_length || edit.length.is_some() {
            let assumed = self.assumed.map(|all| Assumed { length: edit.length.unwrap_or(all.length), ..all });
            PlannedRun::open(config.clone(), run.batch_per_rank, run.ranks_per_node, assumed)
        } else if config.model.freeze != own.model.freeze {
            run.freezing(config.clone())
        } else {
            return run.estimate(config, &hardware).map(|estimate| Some(estimate.total()));
        };
        let Ok(changed) = changed else { return Ok(None) };
        changed.estimate(config, &hardware).map(|estimate| Some(estimate.total()))
    }

    fn changes(&self, configured: &Estimate) -> Result<Vec<Change>> {
        let before = configured.total();
        let mut changes = Vec::new();
        for (what, edit) in self.edits(configured)? {
            if let Some(alone) = self.need(&edit)?.filter(|alone| before - alone >= WORTH * before) {
                changes.push(Change { what, edit, alone, cumulative: alone });
            }
        }
        changes.sort_by(|a, b| a.alone.total_cmp(&b.alone));
        let mut all = Edit::default();
        for change in &mut changes {
            let more = all.and(&change.edit);
            // A change that contradicts those before it does not count.
            if let Some(together) = self.need(&more)? {
                (all, change.cumulative) = (more, together);
            }
        }
        Ok(changes)
    }

    /// Returns candidate changes with their descriptions.
    fn edits(&self, configured: &Estimate) -> Result<Vec<(&'static str, Edit)>> {
        let (own, run) = (&configured.config, self.run);
        let mut edits = Vec::new();
        if own.parallel.zero_stage != ZeroStage::Auto {
            let least = (0..configured.needs.len())
                .min_by(|&a, &b| configured.needs[a].total.total_cmp(&configured.needs[b].total));
            edits.extend(least.map(|stage| ("shard over the ranks", Edit::of(format!("parallel.zero_stage={stage}")))));
        }
        if own.parallel.shard_within == ShardWithin::Host {
            edits.push(("shard over all ranks", Edit::of("parallel.shard_within=world")));
        }
        if own.parallel.recompute != Recompute::All {
            edits.push(("activation checkpointing", Edit::of("parallel.recompute=all")));
        }
        if own.parallel.offload == Offload::None && !self.hardware.cpu {
            edits.push(("optimizer state in host memory", Edit::of("parallel.offload=optimizer")));
        }
        match own.parallel.precision {
            Precision::Fp32 => edits.push(("half precision", Edit::of("parallel.precision=bf16"))),
            half => edits.push(("gradients in half precision", Edit::of(format!("parallel.reduce_dtype={half}")))),
        }
        let least = TOKEN_CANDIDATES[TOKEN_CANDIDATES.len() - 1];
        if configured.tokens() > least {
            edits.push(("smaller micro-batches", Edit::of(tokens_override(least))));
        }
        edits.extend(self.shorter(configured).map(|edit| ("shorter examples", edit)));
        let last = run.shaped.model.blocks() - 1;
        let embeddings = |spec: &ParamSpec| spec.block == 0;
        // Keep the weights frozen that already are.
        let freeze = |patterns: Option<Vec<String>>| {
            let all = |patterns| [own.model.freeze.clone(), patterns].concat();
            patterns.map(|patterns| Edit { freeze: all(patterns), ..Edit::default() })
        };
        // With adapters everything else is frozen.
        if !run.shaped.specs.iter().any(|spec| spec.adapter) {
            edits.extend(freeze(run.shaped.patterns(true, embeddings)).map(|edit| ("freeze the embeddings", edit)));
            let body = run.shaped.patterns(false, |spec| spec.block < last);
            edits.extend(freeze(body).map(|edit| ("train only the head", edit)));
        }
        edits.extend(self.more_ranks(own, &edits)?.map(|edit| ("more ranks", edit)));
        Ok(edits)
    }

    /// Returns the edit for examples of half the length, if reading the data again is quick. It also lowers the
    /// micro-batch size where it would otherwise hold two of the shorter examples instead of one.
    fn shorter(&self, configured: &Estimate) -> Option<Edit> {
        let lengths = self.run.data.train.dataset.lengths();
        let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let longest = lengths.into_iter().max()? as usize;
        let half = longest.min(self.run.max_length) / 2;
        let least = half.max(TOKEN_CANDIDATES[TOKEN_CANDIDATES.len() - 1]);
        let fewer = longest >= configured.tokens() && configured.tokens() > least;
        let settings = if fewer { vec![tokens_override(least)] } else { Vec::new() };
        let edit = Edit { settings, ..Edit::default() };
        match self.assumed {
            Some(assumed) => (assumed.length > 3).then_some(Edit { length: Some(assumed.length / 2), ..edit }),
            None => (half > 2 && tokens <= READ_AGAIN).then(|| edit.and(&Edit::of(format!("data.max_length={half}")))),
        }
    }

    /// Returns the smallest number of ranks, by doubling, at which the run fits fully sharded; if there is none, at
    /// which it fits with all `others`; else twice as many ranks.
    fn more_ranks(&self, own: &Config, others: &[(&str, Edit)]) -> Result<Option<Edit>> {
        let settings = match own.parallel.zero_stage {
            ZeroStage::Auto | ZeroStage::Stage(3) => Vec::new(),
            ZeroStage::Stage(_) => vec!["parallel.zero_stage=3".to_owned()],
        };
        let on = |ranks: usize| Edit { settings: settings.clone(), ranks: Some(ranks), ..Edit::default() };
        let twice = 2 * self.hardware.ranks;
        let doubled: Vec<usize> =
            std::iter::successors(Some(twice), |n| Some(2 * n)).take_while(|&n| n <= MOST_RANKS).collect();
        let rest = others.iter().fold(Edit::default(), |all, (_, edit)| all.and(edit));
        for others in [Edit::default(), rest] {
            let fits = |ranks: usize| -> Result<bool> {
                Ok(self.need(&others.and(&on(ranks)))?.is_some_and(|bytes| self.hardware.fits(bytes)))
            };
            if !doubled.last().map_or(Ok(false), |&most| fits(most))? {
                continue;
            }
            // Memory per rank decreases with the number of ranks.
            let (mut low, mut high) = (0, doubled.len() - 1);
            while low < high {
                let middle = (low + high) / 2;
                if fits(doubled[middle])? { high = middle } else { low = middle + 1 }
            }
            return Ok(Some(on(doubled[low])));
        }
        Ok(doubled.first().map(|&ranks| on(ranks)))
    }
}

fn word(recompute: Recompute) -> String {
    match recompute {
        Recompute::None => "none".into(),
        Recompute::All => "all".into(),
        Recompute::Auto => "auto".into(),
        Recompute::First(n) => format!("first-{n}"),
        Recompute::KeepEvery(n) => n.to_string(),
    }
}

fn tokens_override(tokens: usize) -> String {
    format!("train.micro_batch_tokens={tokens}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_override_replaces_one_for_the_same_key() {
        let first = Edit { ranks: Some(2), ..Edit::of("parallel.zero_stage=1") };
        let both = first.and(&Edit::of("parallel.recompute=all")).and(&Edit::of("parallel.zero_stage=3"));
        assert_eq!(both.overrides(), ["parallel.recompute=all", "parallel.zero_stage=3"]);
        assert_eq!((both.ranks, both.length), (Some(2), None));
        let frozen = |pattern: &str| Edit { freeze: vec![pattern.to_owned()], ..Edit::default() };
        let both = frozen("bert.*").and(&frozen("head.*")).and(&frozen("bert.*"));
        assert_eq!(both.overrides(), [r#"model.freeze=["bert.*","head.*"]"#]);
    }
}
