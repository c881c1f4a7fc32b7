//! How the command line asks for generated texts.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::generate::Text;
use crate::tasks::short;
use crate::train::generation::Generation;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// How texts are generated: what is not given is as the model folder's generation_config.json says.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Generated texts")]
pub struct GenerationArgs {
    /// The most tokens of a generated text; otherwise 20.
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// The fewest tokens of a generated text.
    #[arg(long)]
    min_new_tokens: Option<usize>,
    /// RandomKey tokens instead of taking the likeliest.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    do_sample: Option<bool>,
    /// What scores are divided by before a draw: below 1 likely tokens become likelier.
    #[arg(long)]
    temperature: Option<f64>,
    /// The likeliest tokens that are drawn from, 0 for all; otherwise 50.
    #[arg(long)]
    top_k: Option<usize>,
    /// The share of probability that the tokens that are drawn from have.
    #[arg(long)]
    top_p: Option<f64>,
    /// Above 1: tokens that are there already become less likely.
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// Texts that beam search keeps for each prompt; 1 for no beam search.
    #[arg(long)]
    num_beams: Option<usize>,
    /// The power of the length that a text's log-probability is divided by in beam search.
    #[arg(long, allow_hyphen_values = true)]
    length_penalty: Option<f64>,
    /// When beam search ends: true at once with as many finished texts as beams, false or never later.
    #[arg(long, value_name = "true|false|never", value_parser = early_stopping)]
    early_stopping: Option<Value>,
    /// What draws follow from; otherwise 42.
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
    /// What the folder's model generates by; what is not given is as in `run`.
    ///
    /// # Errors
    /// As [`Generation::open`].
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

    /// Refuses every one of them where nothing is generated; `why` says why not.
    ///
    /// # Errors
    /// Exit 2: one is given.
    pub fn refuse(&self, why: &str) -> Result<()> {
        let given = serde_json::to_value(self)?;
        let given = given.as_object().and_then(|map| map.iter().find(|(_, value)| !value.is_null()));
        let key = given.map(|(key, _)| key.replace('_', "-")).or_else(|| self.seed.map(|_| "seed".into()));
        key.map_or(Ok(()), |key| Err(Error::input(format!("--{key}: {why}"))))
    }
}

/// The line of a generated text; with `scores` its tokens and what probability the model gave to each.
///
/// # Errors
/// As [`Generation::read`].
pub fn line(generation: &Generation, text: &Text, scores: bool) -> Result<Map<String, Value>> {
    let mut line = Map::from_iter([("text".to_owned(), json!(generation.read(text)?))]);
    if scores {
        line.insert("token_ids".into(), json!(text.ids));
        line.insert("log_probs".into(), json!(text.log_probs.iter().copied().map(short).collect::<Vec<_>>()));
    }
    Ok(line)
}
