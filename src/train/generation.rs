//! Settings, tokenizer and seed of text generation.

use crate::checkpoint::export::GENERATION_FILE;
use crate::error::{Context, Error, Result};
use crate::generate::{self, Settings, Text};
use crate::metrics::{Bleu, Metrics, RougeL};
use crate::tasks::chat;
use crate::text::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Settings and tokenizer to generate texts.
pub struct Generation {
    pub settings: Settings,
    pub tokenizer: Tokenizer,
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

    /// Also stops at the token that ends an answer in the folder's chat template, as fine-tuned models do.
    ///
    /// # Errors
    /// As [`chat::answer_end`].
    pub fn ending_as_answers(mut self) -> Result<Self> {
        let end = chat::answer_end(&self.tokenizer)?.filter(|end| !self.settings.eos.contains(end));
        self.settings.eos.extend(end);
        Ok(self)
    }

    /// Returns the uniform random number that samples a token, as a function of record and position.
    pub fn random_numbers(&self) -> impl Fn(u64, usize) -> f64 {
        let seed = self.seed;
        move |record, position| generate::uniform(seed, record, position)
    }

    /// Decodes a text without special tokens.
    pub fn read(&self, text: &Text) -> Result<String> {
        self.tokenizer.decode(&text.ids)
    }
}

/// Returns BLEU (0 to 100, like sacrebleu) and ROUGE-L of texts against the references of the data.
pub(super) fn metrics(texts: &[String], references: &[String]) -> Metrics {
    let (mut bleu, mut rouge) = (Bleu::default(), RougeL::default());
    for (text, reference) in texts.iter().zip(references) {
        bleu.add(text, &[reference]);
        rouge.add(text, &[reference]);
    }
    vec![("bleu", bleu.score()), ("rougeL", rouge.mean())]
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
