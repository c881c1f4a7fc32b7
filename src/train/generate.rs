//! Generation over a whole dataset on all ranks; the texts do not depend on the number of ranks.

use crate::checkpoint::export::GENERATION_FILE;
use crate::comm::{Collective, Op};
use crate::data::{Collation, Dataset, Prepared, sampler};
use crate::error::{Context, Error, Result};
use crate::generate::search::Draw;
use crate::generate::settings::Search;
use crate::generate::{self, Passes, Prompt, Settings, Text};
use crate::metrics::{Bleu, Metrics, RougeL};
use crate::nn::Params;
use crate::observe::progress::Phase;
use crate::parallel::Weights;
use crate::tasks::chat;
use crate::text::tokenizer::Tokenizer;
use crate::train::evaluate::Evaluator;
use crate::train::staged;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fs;
use std::ops::Range;
use std::path::Path;
use tch::Device;

/// Settings and tokenizer to generate texts.
pub struct Generation {
    pub settings: Settings,
    pub tokenizer: Tokenizer,
    /// Random seed for sampling.
    pub seed: u64,
}

impl Generation {
    /// Reads the settings: those of `wanted`, then those of the model folder.
    ///
    /// # Errors
    /// Exit 2: those of [`Settings::read`] and [`Tokenizer::from_folder`].
    pub fn open(folder: &Path, wanted: &impl Serialize, seed: u64) -> Result<Self> {
        let wanted = match serde_json::to_value(wanted)? {
            Value::Object(wanted) => wanted,
            other => return Err(Error::other(format!("settings of generation are an object, not {other}"))),
        };
        Ok(Generation { settings: Settings::read(folder, &wanted)?, tokenizer: Tokenizer::from_folder(folder)?, seed })
    }

    /// Sets the default of `max_new_tokens` if neither the folder nor the configuration limits the length.
    pub fn or_at_most(mut self, new_tokens: usize) -> Self {
        let length = &mut self.settings.length;
        if length.max.is_none() {
            length.max_new.get_or_insert(new_tokens);
        }
        self
    }

    /// Also stops at the token that ends an answer in the folder's chat template, because fine-tuned models end with
    /// it.
    ///
    /// # Errors
    /// As [`chat::answer_end`].
    pub fn ending_as_answers(mut self) -> Result<Self> {
        let end = chat::answer_end(&self.tokenizer)?.filter(|end| !self.settings.eos.contains(end));
        self.settings.eos.extend(end);
        Ok(self)
    }

    /// Returns the uniform random number that samples a token, as a function of record and position.
    pub fn draw(&self) -> impl Fn(u64, usize) -> f64 {
        let seed = self.seed;
        move |record, position| generate::uniform(seed, record, position)
    }

    /// Decodes a text without special tokens.
    ///
    /// # Errors
    /// Errors of the tokenizer.
    pub fn read(&self, text: &Text) -> Result<String> {
        self.tokenizer.decode(&text.ids)
    }

    /// Returns BLEU (0 to 100, like sacrebleu) and ROUGE-L of texts against the references of the data.
    fn metrics(&self, texts: &[Text], references: &Value) -> Result<Metrics> {
        let (mut bleu, mut rouge) = (Bleu::default(), RougeL::default());
        let references: Vec<String> = Vec::deserialize(references)?;
        for (text, reference) in texts.iter().zip(references) {
            let text = self.read(text)?;
            bleu.add(&text, &[&reference]);
            rouge.add(&text, &[&reference]);
        }
        Ok(vec![("bleu", bleu.score()), ("rougeL", rouge.mean())])
    }
}

/// Returns the generation_config.json of a model that is trained on conversations, and the token that ends an answer in
/// its chat template; `None` if the file in `folder` already has that token in `eos_token_id`.
///
/// A newly created file has the generation keys of config.json, like in transformers.
///
/// # Errors
/// As [`Tokenizer::from_folder`] and [`chat::answer_end`].
pub fn ending_answers(folder: &Path) -> Result<Option<(Value, u32)>> {
    const OF_GENERATION: [&str; 4] = ["bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"];
    let tokenizer = Tokenizer::from_folder(folder)?;
    // Unsupported generation settings do not matter for training.
    let Ok(settings) = Settings::read(folder, &Map::new()) else { return Ok(None) };
    let Some(end) = chat::answer_end(&tokenizer)?.filter(|end| !settings.eos.contains(end)) else { return Ok(None) };
    let read = |name: &str| -> Result<Map<String, Value>> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).input_context(path.display())?;
        serde_json::from_str(&text).input_context(path.display())
    };
    let mut file = if folder.join(GENERATION_FILE).exists() {
        read(GENERATION_FILE)?
    } else {
        let mut config = read("config.json")?;
        config.retain(|key, value| OF_GENERATION.contains(&key.as_str()) && !value.is_null());
        config
    };
    let ends = settings.eos.iter().copied().chain([end]).collect::<Vec<_>>();
    file.insert("eos_token_id".into(), if ends.len() == 1 { json!(end) } else { json!(ends) });
    Ok(Some((Value::Object(file), end)))
}

impl Evaluator<'_> {
    /// Generates texts for a labelled dataset and returns their metrics.
    ///
    /// # Errors
    /// As [`Evaluator::texts`].
    pub fn generated(&mut self, data: &Prepared, generation: &Generation) -> Result<Metrics> {
        let texts = self.texts(&data.dataset, &generation.settings, &generation.draw())?;
        generation.metrics(&texts, &data.facts.references)
    }

    /// Generates a text for the first sequence (prompt or source) of every example, in dataset order; the same on every
    /// rank. The KV cache of a rank has at most `micro_batch_tokens` tokens of prompts and texts of all beams at a
    /// time, or one prompt's.
    ///
    /// # Errors
    /// Exit 2 if a prompt leaves no room for a text, and as [`generate::generate`]; a dead or late rank; libtorch's.
    pub fn texts(&mut self, dataset: &Dataset, settings: &Settings, draw: Draw) -> Result<Vec<Text>> {
        let Evaluator { model, params, comm, micro_batch_tokens, .. } = *self;
        let settings = &with_start(settings, dataset);
        let backbone = model.backbone.as_ref();
        let prompts: Vec<Prompt> = (0..dataset.len()).map(|i| prompt(dataset, i)).collect();
        let costs = costs(&prompts, settings, backbone.decoder_stage() > 0, backbone.max_length())?;
        let plan = sampler::eval_plan(&costs, comm.world(), micro_batch_tokens);
        let mut found = vec![Text::default(); prompts.len()];
        let mut passes = Gathered { params, weights: self.weights, comm, watch: None };
        let phase = Phase::of("generating", prompts.len() as u64, "texts");
        for pass in 0..plan.iter().map(Vec::len).max().unwrap_or_default() {
            let micro = plan[comm.rank()].get(pass).map_or(&[][..], Vec::as_slice);
            let own: Vec<Prompt> = micro.iter().map(|&i| prompts[i as usize].clone()).collect();
            let texts = generate::generate(backbone, &own, settings, draw, &mut passes)?;
            micro.iter().zip(texts).for_each(|(&i, text)| found[i as usize] = text);
            phase.advance(sampler::samples_in(&plan, pass));
        }
        drop(phase);
        gather(comm, &found)
    }
}

impl Evaluator<'_> {
    /// Generates a text for one prompt on one rank. `watch` gets every token except the last, unless there are beams,
    /// and returns whether to continue.
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
        let texts = generate::generate(model.backbone.as_ref(), &[prompt], settings, &generation.draw(), &mut passes)?;
        texts.into_iter().next().ok_or_else(|| Error::other("a prompt without a text"))
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

/// Returns the prompt of example `i`.
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
            return Ok((length + beams * settings.length.after(1, None).1) as u32);
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

    fn pass(&mut self, stages: Range<usize>, run: &mut dyn FnMut(usize, &Params)) -> Result<()> {
        let Gathered { params, weights, .. } = self;
        let last = stages.end - 1;
        staged::visit(params, weights, stages, |stage| run(stage, params))?;
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
