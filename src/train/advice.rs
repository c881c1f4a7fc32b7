//! The settings that fit into memory and cost least; where none fit, what takes less.
//!
//! Every figure is that of the memory model under changed settings, and these are made by the same KEY=VALUE words that a
//! person is told: what the program would not take is not told.

use crate::config::{Config, Precision, Recompute, ZeroStage};
use crate::error::Result;
use crate::nn::param_builder::ParamSpec;
use crate::train::memory_need::TOKENS;
use crate::train::outlook::{Assumed, Outlook, Place};
use crate::train::trial::Trial;
use serde_json::json;

/// More ranks than these are not looked at.
const MOST_RANKS: usize = 1024;
/// Tokens that are read again for another `data.max_length`, at most.
const READ_AGAIN: u64 = 5_000_000;
/// The share of the need that a change must take away to be told.
const WORTH: f64 = 0.01;

/// What advice is about.
pub struct Question<'a> {
    pub outlook: &'a Outlook,
    /// The configuration with these words after all others.
    pub with: &'a dyn Fn(&[String]) -> Result<Config>,
    pub place: Place,
    pub assumed: Option<Assumed>,
}

/// What to run, or to change.
pub struct Advice {
    /// As it is configured.
    pub configured: Trial,
    /// What fits and costs least; none where nothing fits, or no limit is known.
    pub cheapest: Option<Choice>,
    /// Where nothing fits: what takes less, that which saves most first.
    pub changes: Vec<Change>,
}

/// Settings that fit.
#[derive(Debug)]
pub struct Choice {
    /// What to add to the command line; empty if it is as configured.
    pub words: Vec<String>,
    pub trial: Trial,
}

/// What takes less memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub what: &'static str,
    pub edit: Edit,
    /// Bytes that a rank needs with this change alone, and with those before it too.
    pub alone: f64,
    pub together: f64,
}

/// Changes of a command line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Edit {
    /// KEY=VALUE, but for `model.freeze`.
    settings: Vec<String>,
    /// All patterns of `model.freeze`, where there are others than now.
    freeze: Vec<String>,
    /// Another `--ranks`.
    pub ranks: Option<usize>,
    /// Another `--assume-length`.
    pub length: Option<usize>,
}

impl Edit {
    fn of(word: impl Into<String>) -> Self {
        Edit { settings: vec![word.into()], ..Edit::default() }
    }

    /// Both; of two words for the same key the later one, and what either freezes.
    fn and(&self, other: &Edit) -> Edit {
        let key = |word: &String| word.split('=').next().map(str::to_owned);
        let kept = self.settings.iter().filter(|word| !other.settings.iter().any(|new| key(new) == key(word)));
        let mut freeze = self.freeze.clone();
        freeze.extend(other.freeze.iter().filter(|pattern| !self.freeze.contains(pattern)).cloned());
        let settings = kept.chain(&other.settings).cloned().collect();
        Edit { settings, freeze, ranks: other.ranks.or(self.ranks), length: other.length.or(self.length) }
    }

    /// KEY=VALUE.
    pub fn words(&self) -> Vec<String> {
        let freeze = (!self.freeze.is_empty()).then(|| format!("model.freeze={}", json!(self.freeze)));
        self.settings.iter().cloned().chain(freeze).collect()
    }
}

impl Question<'_> {
    /// Looks for what fits and, where nothing does, at what would help.
    ///
    /// # Errors
    /// As [`Outlook::trial`].
    pub fn answer(&self) -> Result<Advice> {
        let configured = self.outlook.trial((self.with)(&[])?, &self.place)?;
        let cheapest = if self.place.limit.is_some() { self.cheapest()? } else { None };
        let short = self.place.limit.is_some() && cheapest.is_none();
        let changes = if short { self.changes(&configured)? } else { Vec::new() };
        Ok(Advice { configured, cheapest, changes })
    }

    /// The first that fits, as `zero_stage = "auto"` chooses it: recomputation costs more than any ZeRO stage, fewer tokens
    /// at a time cost less than recomputation, and another precision comes last, since it rounds otherwise.
    fn cheapest(&self) -> Result<Option<Choice>> {
        let own = (self.with)(&[])?.parallel;
        let half = if own.precision == Precision::Fp32 { Precision::Bf16 } else { own.precision };
        for precision in [own.precision, half].into_iter().take(if half == own.precision { 1 } else { 2 }) {
            let mut recomputes = vec![Recompute::None, own.recompute, Recompute::All];
            recomputes.dedup();
            for recompute in recomputes {
                let mut words = Vec::new();
                if precision != own.precision {
                    words.push(format!("parallel.precision={precision}"));
                }
                if recompute != own.recompute {
                    words.push(format!("parallel.recompute={}", word(recompute)));
                }
                let found = match self.fitting(&words)? {
                    Ok(choice) => Some(choice),
                    Err(tokens) => self.with_fewer_tokens(&words, tokens)?,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// With these words, and the lowest ZeRO stage that fits then; else the tokens at a time of what does not fit.
    fn fitting(&self, words: &[String]) -> Result<Result<Choice, usize>> {
        let Ok(mut config) = (self.with)(words) else { return Ok(Err(0)) };
        let set = config.parallel.zero_stage;
        config.parallel.zero_stage = ZeroStage::Auto;
        let mut trial = self.outlook.trial(config, &self.place)?;
        let stage = trial.zero.stage();
        let mut words = words.to_vec();
        if set != ZeroStage::Auto && set != ZeroStage::Stage(stage) {
            words.push(format!("parallel.zero_stage={stage}"));
        }
        if !self.place.holds(trial.total()) || (self.with)(&words).is_err() {
            return Ok(Err(trial.tokens()));
        }
        trial.config.parallel.zero_stage = if set == ZeroStage::Auto { set } else { ZeroStage::Stage(stage) };
        Ok(Ok(Choice { words, trial }))
    }

    /// With these words and the most tokens at a time that fit; less than those that do not.
    fn with_fewer_tokens(&self, words: &[String], than: usize) -> Result<Option<Choice>> {
        let fewer: Vec<usize> = TOKENS.into_iter().filter(|&tokens| tokens < than).collect();
        let with = |tokens: usize| self.fitting(&[words, &[tokens_word(tokens)]].concat());
        let Some(&least) = fewer.last() else { return Ok(None) };
        let Ok(last) = with(least)? else { return Ok(None) };
        for &tokens in &fewer[..fewer.len() - 1] {
            if let Ok(choice) = with(tokens)? {
                return Ok(Some(choice));
            }
        }
        Ok(Some(last))
    }

    /// What a rank needs after an edit; none where the program does not take it.
    fn need(&self, edit: &Edit) -> Result<Option<f64>> {
        let Ok(config) = (self.with)(&edit.words()) else { return Ok(None) };
        let (outlook, own) = (self.outlook, &self.outlook.config);
        let place = Place { ranks: edit.ranks.unwrap_or(self.place.ranks), ..self.place };
        let changed = if config.data.max_length != own.data.max_length || edit.length.is_some() {
            let assumed = self.assumed.map(|all| Assumed { length: edit.length.unwrap_or(all.length), ..all });
            Outlook::open(config.clone(), outlook.batch_per_rank, assumed)
        } else if config.model.freeze != own.model.freeze {
            outlook.freezing(config.clone())
        } else {
            return outlook.trial(config, &place).map(|trial| Some(trial.total()));
        };
        let Ok(changed) = changed else { return Ok(None) };
        changed.trial(config, &place).map(|trial| Some(trial.total()))
    }

    /// What takes less than what is configured, that which saves most first.
    fn changes(&self, configured: &Trial) -> Result<Vec<Change>> {
        let before = configured.total();
        let mut changes = Vec::new();
        for (what, edit) in self.edits(configured)? {
            if let Some(alone) = self.need(&edit)?.filter(|alone| before - alone >= WORTH * before) {
                changes.push(Change { what, edit, alone, together: alone });
            }
        }
        changes.sort_by(|a, b| a.alone.total_cmp(&b.alone));
        let mut all = Edit::default();
        for change in &mut changes {
            let more = all.and(&change.edit);
            // One that contradicts those before it leaves them as they are.
            if let Some(together) = self.need(&more)? {
                (all, change.together) = (more, together);
            }
        }
        Ok(changes)
    }

    /// What may take less, each with what it is.
    fn edits(&self, configured: &Trial) -> Result<Vec<(&'static str, Edit)>> {
        let (own, outlook) = (&configured.config, self.outlook);
        let mut edits = Vec::new();
        if own.parallel.zero_stage != ZeroStage::Auto {
            let least = (0..configured.needs.len())
                .min_by(|&a, &b| configured.needs[a].total.total_cmp(&configured.needs[b].total));
            edits.extend(least.map(|stage| ("shard over the ranks", Edit::of(format!("parallel.zero_stage={stage}")))));
        }
        if own.parallel.recompute != Recompute::All {
            edits.push(("activation checkpointing", Edit::of("parallel.recompute=all")));
        }
        match own.parallel.precision {
            Precision::Fp32 => edits.push(("half precision", Edit::of("parallel.precision=bf16"))),
            half => edits.push(("gradients in half precision", Edit::of(format!("parallel.reduce_dtype={half}")))),
        }
        let least = TOKENS[TOKENS.len() - 1];
        if configured.tokens() > least {
            edits.push(("smaller micro-batches", Edit::of(tokens_word(least))));
        }
        edits.extend(self.shorter(configured).map(|edit| ("shorter examples", edit)));
        let last = outlook.shaped.model.stages() - 1;
        let embeddings = |spec: &ParamSpec| spec.stage == 0;
        // What is frozen already stays so.
        let freeze = |patterns: Option<Vec<String>>| {
            let all = |patterns| [own.model.freeze.clone(), patterns].concat();
            patterns.map(|patterns| Edit { freeze: all(patterns), ..Edit::default() })
        };
        edits.extend(freeze(outlook.shaped.patterns(true, embeddings)).map(|edit| ("freeze the embeddings", edit)));
        let body = outlook.shaped.patterns(false, |spec| spec.stage < last);
        edits.extend(freeze(body).map(|edit| ("train the head alone", edit)));
        edits.extend(self.more_ranks(own, &edits)?.map(|edit| ("more ranks", edit)));
        Ok(edits)
    }

    /// Examples of half the length, where reading the data again is quick. Where a micro-batch is a single example it is not
    /// to be filled up with two.
    fn shorter(&self, configured: &Trial) -> Option<Edit> {
        let lengths = self.outlook.data.train.dataset.lengths();
        let tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let longest = lengths.into_iter().max()? as usize;
        let half = longest.min(self.outlook.max_length) / 2;
        let least = half.max(TOKENS[TOKENS.len() - 1]);
        let fewer = longest >= configured.tokens() && configured.tokens() > least;
        let settings = if fewer { vec![tokens_word(least)] } else { Vec::new() };
        let edit = Edit { settings, ..Edit::default() };
        match self.assumed {
            Some(assumed) => (assumed.length > 3).then_some(Edit { length: Some(assumed.length / 2), ..edit }),
            None => (half > 2 && tokens <= READ_AGAIN).then(|| edit.and(&Edit::of(format!("data.max_length={half}")))),
        }
    }

    /// The fewest ranks, by doubling, at which everything is sharded and fits; where no number does, at which it fits with all
    /// these other edits; else twice as many.
    fn more_ranks(&self, own: &Config, others: &[(&str, Edit)]) -> Result<Option<Edit>> {
        let settings = match own.parallel.zero_stage {
            ZeroStage::Auto | ZeroStage::Stage(3) => Vec::new(),
            ZeroStage::Stage(_) => vec!["parallel.zero_stage=3".to_owned()],
        };
        let on = |ranks: usize| Edit { settings: settings.clone(), ranks: Some(ranks), ..Edit::default() };
        let twice = 2 * self.place.ranks;
        let doubled: Vec<usize> =
            std::iter::successors(Some(twice), |n| Some(2 * n)).take_while(|&n| n <= MOST_RANKS).collect();
        let rest = others.iter().fold(Edit::default(), |all, (_, edit)| all.and(edit));
        for others in [Edit::default(), rest] {
            let fits = |ranks: usize| -> Result<bool> {
                Ok(self.need(&others.and(&on(ranks)))?.is_some_and(|bytes| self.place.holds(bytes)))
            };
            if !doubled.last().map_or(Ok(false), |&most| fits(most))? {
                continue;
            }
            // With more ranks a rank holds less.
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

/// As a setting has it.
fn word(recompute: Recompute) -> String {
    match recompute {
        Recompute::None => "none".into(),
        Recompute::All => "all".into(),
        Recompute::KeepEvery(n) => n.to_string(),
    }
}

fn tokens_word(tokens: usize) -> String {
    format!("train.micro_batch_tokens={tokens}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_word_replaces_one_for_the_same_key() {
        let first = Edit { ranks: Some(2), ..Edit::of("parallel.zero_stage=1") };
        let both = first.and(&Edit::of("parallel.recompute=all")).and(&Edit::of("parallel.zero_stage=3"));
        assert_eq!(both.words(), ["parallel.recompute=all", "parallel.zero_stage=3"]);
        assert_eq!((both.ranks, both.length), (Some(2), None));
        let frozen = |pattern: &str| Edit { freeze: vec![pattern.to_owned()], ..Edit::default() };
        let both = frozen("bert.*").and(&frozen("head.*")).and(&frozen("bert.*"));
        assert_eq!(both.words(), [r#"model.freeze=["bert.*","head.*"]"#]);
    }
}
