//! Generation over a whole dataset on all ranks; the texts do not depend on the number of ranks.

use crate::comm::{Collective, Op};
use crate::data::example::NO_LABEL;
use crate::data::{Collation, Dataset, Label, Prepared, sampler};
use crate::error::{Error, Result};
use crate::generate::search::RandomNumbers;
use crate::generate::settings::{Length, Search};
use crate::generate::{self, Passes, Prompt, Settings, Text};
use crate::metrics::{Metrics, rouge_l};
use crate::nn::Params;
use crate::observe::progress::Phase;
use crate::parallel::Weights;
use crate::tasks::{ExampleRow, ExampleTable};
use crate::train::blockwise;
use crate::train::evaluate::{EXAMPLES, Evaluator};
use crate::train::generation::{Generation, metrics};
use serde::Deserialize;
use std::ops::Range;
use tch::Device;

/// Number of texts that are generated as samples.
const SAMPLES: usize = 10;
/// Maximum number of new tokens of a sample, if the model's folder does not determine it.
const SAMPLE_TOKENS: usize = 64;

impl Evaluator<'_> {
    /// Generates a target for each source of a labelled dataset and returns the metrics, and the worst of them. For
    /// other data, generates texts for its first examples, without metrics: the last answer of a conversation, the
    /// second half of a document.
    ///
    /// # Errors
    /// As [`Evaluator::texts`].
    pub fn generated(&mut self, data: &Prepared, generation: &Generation) -> Result<(Metrics, ExampleTable)> {
        let dataset = &data.dataset;
        if let Collation::SourceTarget { .. } = dataset.collation() {
            let texts = self.texts(dataset, &generation.settings, &generation.random_numbers())?;
            let texts = texts.iter().map(|text| generation.read(text)).collect::<Result<Vec<_>>>()?;
            let references: Vec<String> = Vec::deserialize(&data.facts.references)?;
            let row = |(example, (predicted, label)): (usize, (&String, &String))| ExampleRow {
                example,
                ..compared(label.clone(), predicted.clone())
            };
            let rows = texts.iter().zip(&references).enumerate().map(row).collect();
            let worst = ExampleTable::worst(&["rougeL"], rows, |row| -row.numbers[0], EXAMPLES);
            let title = "Generated texts with the lowest ROUGE-L";
            return Ok((metrics(&texts, &references), ExampleTable { title, ..worst }));
        }
        let mut length = Length { max: None, ..generation.settings.length };
        length.max_new.get_or_insert(SAMPLE_TOKENS);
        let settings = Settings { length, ..generation.settings.clone() };
        let limit = self.model.backbone.max_length();
        let samples = (0..dataset.len()).filter_map(|i| Some((i, sample(dataset, i)?)));
        let samples = samples.filter(|(_, [prompt, _])| length.after(prompt.len(), limit).1 > 0);
        let samples: Vec<(usize, [&[u32]; 2])> = samples.take(SAMPLES).collect();
        let prompt = |&(i, [ids, _]): &(usize, [&[u32]; 2])| Prompt { ids: ids.to_vec(), record: i as u64 };
        let texts =
            self.texts_after(&samples.iter().map(prompt).collect::<Vec<_>>(), &settings, &generation.random_numbers())?;
        let row = |(&(example, [prompt, reference]), text): (&(usize, [&[u32]; 2]), &Text)| {
            let decode = |ids| generation.tokenizer.decode(ids);
            let row = compared(decode(reference)?, generation.read(text)?);
            Ok(ExampleRow { example, text: decode(prompt)?, ..row })
        };
        let rows = samples.iter().zip(&texts).map(row).collect::<Result<_>>()?;
        Ok((
            Metrics::new(),
            ExampleTable { title: "Generated texts of the first examples", columns: &["rougeL"], rows },
        ))
    }

    /// Generates a text for the first sequence (prompt or source) of every example, in order; the same on every rank.
    /// A rank's KV cache has at most `micro_batch_tokens` tokens of prompts and texts of all beams, or one prompt's.
    ///
    /// # Errors
    /// Exit 2 if a prompt leaves no room for a text, and as [`generate::generate`]; a dead or late rank; libtorch's.
    pub fn texts(&mut self, dataset: &Dataset, settings: &Settings, random: RandomNumbers) -> Result<Vec<Text>> {
        let prompts: Vec<Prompt> = (0..dataset.len()).map(|i| prompt(dataset, i)).collect();
        self.texts_after(&prompts, &with_start(settings, dataset), random)
    }

    fn texts_after(&mut self, prompts: &[Prompt], settings: &Settings, random: RandomNumbers) -> Result<Vec<Text>> {
        let Evaluator { model, params, comm, micro_batch_tokens, .. } = *self;
        let backbone = model.backbone.as_ref();
        let costs = costs(prompts, settings, backbone.decoder_block() > 0, backbone.max_length())?;
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

/// Returns the prompt and the reference of a sample from the first sequence of example `i`: the last target tokens and
/// what is before them, or both halves if all tokens are targets. `None` if one of them has no tokens.
fn sample(dataset: &Dataset, i: usize) -> Option<[&[u32]; 2]> {
    let ids = &dataset.ids(i)[..dataset.sequences(i)[0] as usize];
    let (start, end) = match dataset.label(i) {
        Label::Tokens(labels) => {
            let labels = &labels[..ids.len()];
            let end = labels.iter().rposition(|&label| label != NO_LABEL)? + 1;
            (labels[..end].iter().rposition(|&label| label == NO_LABEL).map_or(0, |before| before + 1), end)
        }
        _ => (ids.len() / 2, ids.len()),
    };
    (0 < start && start < end).then(|| [&ids[..start], &ids[start..end]])
}

/// Returns a row that compares a text with its reference.
fn compared(label: String, predicted: String) -> ExampleRow {
    let numbers = vec![rouge_l(&predicted, &[&label])];
    ExampleRow { label, predicted, numbers, ..ExampleRow::default() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;

    #[test]
    fn a_sample_is_the_last_answer_or_half_of_a_document() {
        const NO: i32 = NO_LABEL;
        let of = |ids: &[u32], lengths: &[u32], label: Label| {
            let example = Example { ids: ids.to_vec(), type_ids: vec![0; ids.len()], lengths: lengths.to_vec(), label };
            let dataset = Dataset::new([example], Collation::NextToken, [0; 32]);
            sample(&dataset, 0).map(|parts| parts.map(<[u32]>::to_vec))
        };
        let answers = Label::Tokens(vec![NO, 2, NO, 4, 5, NO]);
        assert_eq!(of(&[1, 2, 3, 4, 5, 6], &[6], answers), Some([vec![1, 2, 3], vec![4, 5]]));
        assert_eq!(of(&[1, 2, 3, 4, 5, 6], &[5, 1], Label::None), Some([vec![1, 2], vec![3, 4, 5]]));
        assert_eq!(of(&[1, 2], &[2], Label::Tokens(vec![1, 2])), None, "no prompt");
        assert_eq!(of(&[1], &[1], Label::None), None);
    }
}
