//! Options of text generation.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::generate::Text;
use crate::tasks::short;
use crate::train::generation::Generation;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Options of text generation. Defaults come from the model folder's generation_config.json.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Generated texts")]
pub struct GenerationArgs {
    /// Maximum number of new tokens [default: 20; 512 for chat].
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Minimum number of new tokens.
    #[arg(long)]
    min_new_tokens: Option<usize>,
    /// Sample tokens instead of greedy decoding.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    do_sample: Option<bool>,
    /// Sampling temperature, by which the logits are divided.
    #[arg(long)]
    temperature: Option<f64>,
    /// Sample from the k most probable tokens only; 0 for all [default: 50].
    #[arg(long)]
    top_k: Option<usize>,
    /// Sample from the smallest set of most probable tokens whose probabilities add up to this (nucleus sampling).
    #[arg(long)]
    top_p: Option<f64>,
    /// Penalty for tokens that already occur; above 1 makes them less probable.
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// Size of the n-grams that no text repeats; 0 for no limit.
    #[arg(long)]
    no_repeat_ngram_size: Option<usize>,
    /// Beam width; 1 for no beam search.
    #[arg(long)]
    num_beams: Option<usize>,
    /// Length penalty of beam search: the log-probability is divided by the length to this power.
    #[arg(long, allow_hyphen_values = true)]
    length_penalty: Option<f64>,
    /// When to stop beam search: true (num_beams texts are finished), false (no running beam can improve at its
    /// length), never (none can at any length).
    #[arg(long, value_name = "true|false|never", value_parser = early_stopping)]
    early_stopping: Option<Value>,
    /// Random seed of sampling [default: 42].
    #[arg(long)]
    #[serde(skip)]
    seed: Option<u64>,
}

const SEED: u64 = 42;

fn early_stopping(word: &str) -> Result<Value, String> {
    match word {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "never" => Ok(Value::String(word.into())),
        _ => Err("expected true, false or never".into()),
    }
}

impl GenerationArgs {
    /// Returns the generation settings of the model in `folder`; what is not given is as in `run`.
    pub fn open(&self, folder: &Path, run: Option<&Config>) -> Result<Generation> {
        let mut wanted = serde_json::to_value(self)?;
        let of_run = run.map(|config| serde_json::to_value(&config.generation)).transpose()?;
        if let (Some(wanted), Some(Value::Object(of_run))) = (wanted.as_object_mut(), of_run) {
            for (key, value) in of_run {
                let given = wanted.entry(key).or_insert(Value::Null);
                if given.is_null() {
                    *given = value;
                }
            }
        }
        let of_run = run.map(|config| config.seed);
        Generation::open(folder, &wanted, self.seed.or(of_run).unwrap_or(SEED))
    }

    /// Refuses all of these options for a model that generates nothing; `why` is the reason.
    pub fn refuse(&self, why: &str) -> Result<()> {
        let given = serde_json::to_value(self)?;
        let given = given.as_object().and_then(|map| map.iter().find(|(_, value)| !value.is_null()));
        let key = given.map(|(key, _)| key.replace('_', "-")).or_else(|| self.seed.map(|_| "seed".into()));
        key.map_or(Ok(()), |key| Err(Error::input(format!("--{key}: {why}"))))
    }
}

/// Returns the output line of a generated text; with `scores`, also its token ids and their log-probabilities.
pub fn line(generation: &Generation, text: &Text, scores: bool) -> Result<Map<String, Value>> {
    let mut line = Map::from_iter([("text".to_owned(), json!(generation.read(text)?))]);
    if scores {
        line.insert("token_ids".into(), json!(text.ids));
        line.insert("log_probs".into(), json!(text.log_probs.iter().copied().map(short).collect::<Vec<_>>()));
    }
    Ok(line)
}
