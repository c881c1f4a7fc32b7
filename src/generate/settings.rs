//! Generation settings, with Hugging Face's names.

use crate::error::{Context, Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Generation settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub search: Search,
    pub length: Length,
    /// Values above 1 make tokens that already occur less probable (arXiv 1909.05858, section 4.1).
    pub repetition_penalty: f64,
    /// The size of n-grams that occur once in a text; 0 for no limit.
    pub no_repeat_ngram_size: usize,
    /// EOS tokens: each of them ends a text.
    pub eos: Vec<u32>,
    pub decoder_start: Option<u32>,
    /// The first token after the start token.
    pub forced_bos: Option<u32>,
    /// The last token of a text of the maximum length. Of several, the first: all would have the same score.
    pub forced_eos: Option<u32>,
}

/// The decoding strategy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// The token with the highest score (argmax).
    Greedy,
    Sample(Sampling),
    Beam(Beam),
}

/// Parameters of sampling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the scores: below 1, probable tokens become more probable.
    pub temperature: f64,
    /// Keep only the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most probable tokens with this total probability (nucleus sampling, arXiv 1904.09751); 1 keeps all.
    pub top_p: f64,
}

/// Beam search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// The beam width, at least 2.
    pub beams: usize,
    /// A text's score is its log-probability divided by its length to this power.
    pub length_penalty: f64,
    pub early_stopping: EarlyStopping,
}

impl Beam {
    /// Returns how many candidates a step needs so that enough remain when many end with an EOS token.
    pub fn candidates(self, eos: &[u32]) -> usize {
        self.beams * (1 + eos.len()).max(2)
    }
}

/// When beam search ends, once the number of finished texts is the beam width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `true`: immediately.
    Yes,
    /// `false`: when no running beam can improve at its current length.
    No,
    /// `"never"`: when no running beam can improve at any length.
    Never,
}

/// Limits of the text length, in tokens. The `new` limits take precedence over the others, which include the prompt
/// (for an encoder-decoder, only the start token).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Length {
    pub max_new: Option<usize>,
    pub max: Option<usize>,
    pub min_new: Option<usize>,
    pub min: usize,
}

/// Default number of new tokens, as in Hugging Face.
const NEW_TOKENS: usize = 20;

impl Length {
    /// Returns the minimum and maximum number of new tokens after a prompt of `prompt` tokens; `limit` is the model's
    /// maximum length.
    pub fn after(&self, prompt: usize, limit: Option<usize>) -> (usize, usize) {
        let wanted = self.max_new.or_else(|| self.max.map(|max| max.saturating_sub(prompt))).unwrap_or(NEW_TOKENS);
        let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(prompt));
        let min = self.min_new.unwrap_or_else(|| self.min.saturating_sub(prompt));
        (min, wanted.min(room))
    }
}

/// Settings that change the result and are not supported, with the values at which they have no effect.
const UNSUPPORTED: &[(&str, &[f64])] = &[
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("guidance_scale", &[1.0]),
    ("max_time", &[]),
    ("min_p", &[0.0]),
    ("num_beam_groups", &[0.0, 1.0]),
    ("num_return_sequences", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("renormalize_logits", &[]),
    ("sequence_bias", &[]),
    ("stop_strings", &[]),
    ("suppress_tokens", &[]),
    ("token_healing", &[]),
    ("top_h", &[]),
    ("typical_p", &[1.0]),
    ("watermarking_config", &[]),
];

/// Of these, those that have an effect with sampling only: folders keep them beside `do_sample = false`.
const UNSUPPORTED_SAMPLING: &[&str] = &["epsilon_cutoff", "eta_cutoff", "min_p", "top_h", "typical_p"];

/// Explicitly given settings that have an effect with sampling only, and with beam search only.
const SAMPLING: &[&str] = &["temperature", "top_k", "top_p"];
const BEAMS: &[&str] = &["length_penalty", "early_stopping"];

impl Settings {
    /// Returns how a folder's texts are sampled when a user asks for it, whether or not the folder does: with
    /// temperature 1, since that is the user's.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn sampled(folder: &Path) -> Result<Sampling> {
        let wanted = json!({"do_sample": true, "temperature": 1.0, "num_beams": 1});
        match Self::read(folder, wanted.as_object().unwrap_or(&Map::new()))?.search {
            Search::Sample(sampling) => Ok(sampling),
            other => unreachable!("{other:?} with do_sample"),
        }
    }

    /// Reads the settings: from `wanted` (null keys are ignored), otherwise from the folder's `generation_config.json`,
    /// or `config.json` if that is missing, otherwise Hugging Face's defaults.
    ///
    /// # Errors
    /// Exit 2: an invalid or unsupported value; the message names its key.
    pub fn read(folder: &Path, wanted: &Map<String, Value>) -> Result<Self> {
        let path = ["generation_config.json", "config.json"].map(|name| folder.join(name));
        let path = path.iter().find(|path| path.exists()).unwrap_or(&path[1]);
        let text = std::fs::read_to_string(path).input_context(path.display())?;
        let file: Map<String, Value> = serde_json::from_str(&text).input_context(path.display())?;
        let wanted =
            wanted.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone()));
        let keys = Keys { wanted: wanted.collect(), file, path };
        keys.refuse_unsupported()?;
        keys.settings()
    }
}

impl Settings {
    /// Refuses what a model with a vocabulary of this size cannot do: larger token ids and beam widths, and, without an
    /// encoder, a forced first token.
    ///
    /// # Errors
    /// Exit 2.
    pub fn check(&self, vocab: usize, has_encoder: bool) -> Result<()> {
        let mut all = self.eos.iter().chain(&self.decoder_start).chain(&self.forced_bos).chain(&self.forced_eos);
        if let Some(id) = all.find(|&&id| id as usize >= vocab) {
            return Err(Error::input(format!(
                "token id {id} is an EOS, start or forced token, but the vocabulary has {vocab} tokens"
            )));
        }
        if let Some(id) = self.forced_bos.filter(|_| !has_encoder) {
            return Err(Error::input(format!(
                "forced_bos_token_id = {id}: a model without an encoder continues its prompt: remove it"
            )));
        }
        match self.search {
            Search::Beam(beam) if beam.candidates(&self.eos) > vocab => {
                Err(Error::input(format!("num_beams = {}: too many for a vocabulary of {vocab} tokens", beam.beams)))
            }
            _ => Ok(()),
        }
    }
}

/// The sources of the settings.
struct Keys<'a> {
    wanted: Map<String, Value>,
    file: Map<String, Value>,
    path: &'a Path,
}

impl Keys<'_> {
    fn settings(&self) -> Result<Settings> {
        let integer = |key: &str, least: u64| {
            let read = |value: &Value| value.as_u64().filter(|&n| n >= least).map(|n| n as usize);
            self.read(key, &format!("an integer of at least {least}"), read)
        };
        let number = |key: &str, expected: &str, holds: fn(f64) -> bool| {
            self.read(key, expected, |value| value.as_f64().filter(|&x| x.is_finite() && holds(x)))
        };
        let above_0 = |key: &str| Ok::<f64, Error>(number(key, "a number above 0", |x| x > 0.0)?.unwrap_or(1.0));
        let samples = self.read("do_sample", "true or false", Value::as_bool)?.unwrap_or(false);
        let beams = integer("num_beams", 1)?.unwrap_or(1);
        // Without sampling, folders have any values of its settings, such as a temperature of 0.
        let sampling = || -> Result<Sampling> {
            Ok(Sampling {
                temperature: above_0("temperature")?,
                top_k: integer("top_k", 0)?.unwrap_or(50),
                top_p: number("top_p", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))?.unwrap_or(1.0),
            })
        };
        if SAMPLING.iter().any(|key| self.wanted.contains_key(*key)) {
            sampling()?;
        }
        let beam = Beam {
            beams,
            length_penalty: number("length_penalty", "a number", |_| true)?.unwrap_or(1.0),
            early_stopping: self
                .read("early_stopping", "true, false or \"never\"", |value| match value {
                    Value::Bool(true) => Some(EarlyStopping::Yes),
                    Value::Bool(false) => Some(EarlyStopping::No),
                    Value::String(word) if word == "never" => Some(EarlyStopping::Never),
                    _ => None,
                })?
                .unwrap_or(EarlyStopping::No),
        };
        let without_effect = |keys: &[&'static str]| keys.iter().copied().find(|&key| self.wanted.contains_key(key));
        let search = match (samples, beams) {
            (true, 2..) => {
                return Err(
                    self.refuse("num_beams", "beam search does not sample: set do_sample = false or num_beams = 1")
                );
            }
            (true, _) => Search::Sample(sampling()?),
            (false, 2..) => Search::Beam(beam),
            (false, _) => Search::Greedy,
        };
        if let Some(key) = without_effect(SAMPLING).filter(|_| !samples) {
            return Err(self.refuse(key, "this has no effect without do_sample = true"));
        }
        if let Some(key) = without_effect(BEAMS).filter(|_| beams == 1) {
            return Err(self.refuse(key, "this has no effect without num_beams above 1"));
        }
        let ids = |key: &str| self.read(key, "a token id or a list of token ids", token_ids);
        let first = |ids: Option<Vec<u32>>| ids.and_then(|ids| ids.first().copied());
        let start = first(ids("decoder_start_token_id")?);
        Ok(Settings {
            search,
            length: Length {
                max_new: integer("max_new_tokens", 1)?,
                max: integer("max_length", 1)?,
                min_new: integer("min_new_tokens", 0)?,
                min: integer("min_length", 0)?.unwrap_or(0),
            },
            repetition_penalty: above_0("repetition_penalty")?,
            no_repeat_ngram_size: integer("no_repeat_ngram_size", 0)?.unwrap_or(0),
            eos: ids("eos_token_id")?.unwrap_or_default(),
            decoder_start: start.or(first(ids("bos_token_id")?)),
            forced_bos: first(ids("forced_bos_token_id")?),
            forced_eos: first(ids("forced_eos_token_id")?),
        })
    }

    /// Returns a setting, if it is set and not null.
    fn read<T>(&self, key: &str, expected: &str, take: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| self.refuse(key, &format!("expected {expected}")))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.wanted.get(key).or_else(|| self.file.get(key)).filter(|value| !value.is_null())
    }

    /// Returns the error for a setting, with its value and, unless it was given explicitly, its file.
    fn refuse(&self, key: &str, why: &str) -> Error {
        let place = if self.wanted.contains_key(key) { String::new() } else { format!("{}: ", self.path.display()) };
        let value = self.value(key).map(|value| format!(" = {value}")).unwrap_or_default();
        Error::input(format!("{place}{key}{value}: {why}"))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let samples = self.value("do_sample") == Some(&Value::Bool(true));
        let is_idle = |key: &str| !samples && UNSUPPORTED_SAMPLING.contains(&key) && !self.wanted.contains_key(key);
        let acts = |(key, neutral): &&(&str, &[f64])| match self.value(key) {
            None | Some(Value::Bool(false)) => false,
            _ if is_idle(key) => false,
            Some(Value::Array(list)) => !list.is_empty(),
            Some(value) => !value.as_f64().is_some_and(|x| neutral.contains(&x)),
        };
        UNSUPPORTED
            .iter()
            .find(acts)
            .map_or(Ok(()), |(key, _)| Err(self.refuse(key, "generation does not support this setting: remove it")))
    }
}

/// Returns one token id or several.
fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => list.iter().map(one).collect(),
        value => one(value).map(|id| vec![id]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, Value)], wanted: Value) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        let settings = Settings::read(dir.path(), wanted.as_object().unwrap());
        settings.map_err(|e| e.to_string().replace(&dir.path().display().to_string(), "dir"))
    }

    #[test]
    fn given_settings_override_the_folder_and_the_folder_overrides_defaults() {
        let config = ("config.json", json!({"eos_token_id": 1, "decoder_start_token_id": 0, "num_beams": 3}));
        let own = json!({"eos_token_id": [2, 5], "do_sample": true, "top_p": 0.9, "bos_token_id": 7, "typical_p": 1.0});
        let file = ("generation_config.json", own);
        let old = read(std::slice::from_ref(&config), json!({})).unwrap();
        assert_eq!((old.eos, old.decoder_start), (vec![1], Some(0)));
        let beam = Beam { beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::No };
        assert_eq!(old.search, Search::Beam(beam));
        let new = read(&[config.clone(), file.clone()], json!({"temperature": 0.5, "top_k": null})).unwrap();
        assert_eq!((new.eos, new.decoder_start), (vec![2, 5], Some(7)));
        assert_eq!(new.search, Search::Sample(Sampling { temperature: 0.5, top_k: 50, top_p: 0.9 }));
        assert_eq!(read(&[config, file], json!({"do_sample": false})).unwrap().search, Search::Greedy);
        for settings in [
            json!({"do_sample": false, "temperature": 0.0, "top_p": 1.0}),
            json!({"temperature": 0, "top_k": -1, "top_p": 0.0}),
            json!({"do_sample": null, "temperature": null, "top_p": null, "top_k": null}),
            json!({"min_p": 0.1, "typical_p": 0.5}),
        ] {
            let file = ("generation_config.json", settings);
            assert_eq!(read(&[file], json!({})).unwrap().search, Search::Greedy);
        }
        let file = ("generation_config.json", json!({"min_p": 0.1}));
        assert!(
            read(&[file], json!({"do_sample": true})).unwrap_err().contains("min_p = 0.1: generation does not support")
        );
        let file = ("generation_config.json", json!({"do_sample": true, "temperature": 0.0}));
        assert!(read(&[file], json!({})).unwrap_err().contains("temperature = 0.0: expected a number above 0"));
    }

    #[test]
    fn lengths_are_those_of_transformers() {
        let length = Length { max_new: Some(5), max: Some(9), min_new: None, min: 4 };
        assert_eq!((length.after(3, None), length.after(3, Some(6))), ((1, 5), (1, 3)));
        assert_eq!(Length { max_new: None, ..length }.after(3, None), (1, 6));
        assert_eq!(Length { min_new: Some(2), ..Length::default() }.after(3, Some(60)), (2, 20));
    }

    #[test]
    fn forced_tokens_are_those_of_the_folder() {
        let file = json!({"forced_bos_token_id": 3, "forced_eos_token_id": 8, "no_repeat_ngram_size": 3});
        let settings = read(&[("generation_config.json", file)], json!({"no_repeat_ngram_size": 0})).unwrap();
        assert_eq!((settings.forced_bos, settings.forced_eos, settings.no_repeat_ngram_size), (Some(3), Some(8), 0));
        settings.check(9, true).unwrap();
        let message = |vocab, has_encoder| settings.check(vocab, has_encoder).unwrap_err().to_string();
        assert!(message(8, true).starts_with("token id 8 is an EOS, start or forced token"));
        assert!(message(9, false).starts_with("forced_bos_token_id = 3: a model without an encoder"));
    }

    #[test]
    fn invalid_settings_are_refused() {
        let cases = [
            (json!({"temperature": 0.0, "do_sample": true}), "temperature = 0.0: expected a number above 0"),
            (json!({"top_p": 1.5, "do_sample": true}), "top_p = 1.5: expected a number from 0 to 1"),
            (json!({"top_k": -1}), "top_k = -1: expected an integer of at least 0"),
            (json!({"max_new_tokens": 0}), "max_new_tokens = 0: expected an integer of at least 1"),
            (json!({"num_beams": 2, "do_sample": true}), "num_beams = 2: beam search does not sample"),
            (json!({"top_k": 3}), "top_k = 3: this has no effect without do_sample = true"),
            (json!({"early_stopping": true}), "early_stopping = true: this has no effect without num_beams above 1"),
            (json!({"early_stopping": "often", "num_beams": 2}), "expected true, false or \"never\""),
            (json!({"no_repeat_ngram_size": -1}), "no_repeat_ngram_size = -1: expected an integer of at least 0"),
            (json!({"repetition_penalty": -1}), "repetition_penalty = -1: expected a number above 0"),
        ];
        for (wanted, says) in cases {
            let message = read(&[("config.json", json!({}))], wanted.clone()).unwrap_err();
            assert!(message.contains(says), "{wanted}: {message}");
        }
        let file = json!({"encoder_no_repeat_ngram_size": 3, "eos_token_id": 1});
        let message = read(&[("generation_config.json", file)], json!({})).unwrap_err();
        assert!(message.starts_with("dir/generation_config.json: encoder_no_repeat_ngram_size = 3: "), "{message}");
    }
}
