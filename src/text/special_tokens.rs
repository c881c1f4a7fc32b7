//! Special tokens of a Hugging Face folder: BOS, EOS, mask, and so on.
//!
//! They are looked up in `tokenizer_config.json`, then in `special_tokens_map.json` (older folders), then by id in
//! `config.json`. A value is a token, or an object whose `content` is a token.

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// The role of a special token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Bos,
    Eos,
    Unk,
    Sep,
    Pad,
    Cls,
    Mask,
}

impl Special {
    pub const ALL: [Special; 7] =
        [Special::Bos, Special::Eos, Special::Unk, Special::Sep, Special::Pad, Special::Cls, Special::Mask];

    /// Returns the key in the JSON files.
    pub fn key(self) -> &'static str {
        match self {
            Special::Bos => "bos_token",
            Special::Eos => "eos_token",
            Special::Unk => "unk_token",
            Special::Sep => "sep_token",
            Special::Pad => "pad_token",
            Special::Cls => "cls_token",
            Special::Mask => "mask_token",
        }
    }
}

/// A token as given in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Text(String),
    Id(u32),
}

/// The special tokens of a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens([Option<Named>; Special::ALL.len()]);

impl SpecialTokens {
    /// Reads the special tokens from the folder's files.
    ///
    /// # Errors
    /// A file cannot be read or is not JSON (exit 2).
    pub fn of_folder(dir: &Path) -> Result<Self> {
        let [tokenizer, map, model] =
            ["tokenizer_config.json", "special_tokens_map.json", "config.json"].map(|name| json_of(&dir.join(name)));
        let (tokenizer, map, model) = (tokenizer?, map?, model?);
        let named = |special: Special| {
            let text = [&tokenizer, &map].into_iter().find_map(|json| text_of(json.get(special.key())?));
            let id = || id_of(model.get(format!("{}_id", special.key()))?);
            text.map(Named::Text).or_else(|| id().map(Named::Id))
        };
        Ok(SpecialTokens(Special::ALL.map(named)))
    }

    /// Prefers these texts to the ids of `config.json`: the defaults of a tokenizer class.
    pub(super) fn with_defaults(mut self, defaults: Vec<(Special, String)>) -> Self {
        for (special, text) in defaults {
            if !matches!(self.0[special as usize], Some(Named::Text(_))) {
                self.0[special as usize] = Some(Named::Text(text));
            }
        }
        self
    }

    /// Returns the id of a special token; `id_of` maps a token to its id.
    pub(super) fn id(&self, special: Special, id_of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
        match &self.0[special as usize] {
            Some(Named::Text(token)) => id_of(token),
            Some(Named::Id(id)) => Some(*id),
            None => None,
        }
    }
}

/// Reads a JSON file; null if it does not exist.
pub(super) fn json_of(path: &Path) -> Result<Value> {
    let broken = |e: &dyn std::fmt::Display| Error::input(format!("{}: {e}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| broken(&e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(broken(&e)),
    }
}

fn text_of(value: &Value) -> Option<String> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Returns an id, or the first of a list of ids, as in Llama 3's `eos_token_id`.
fn id_of(value: &Value) -> Option<u32> {
    let id = value.as_u64().or_else(|| value.get(0)?.as_u64())?;
    id.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_searched_in_order_of_precedence() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let ids = || {
            let tokens = SpecialTokens::of_folder(dir.path()).unwrap();
            [Special::Bos, Special::Eos, Special::Mask].map(|special| tokens.id(special, |t| Some(t.len() as u32)))
        };
        assert_eq!(ids(), [None, None, None]);
        write("config.json", r#"{"bos_token_id": 77, "eos_token_id": [88, 99], "mask_token_id": null}"#);
        assert_eq!(ids(), [Some(77), Some(88), None]);
        write("special_tokens_map.json", r#"{"eos_token": {"content": "eos"}, "mask_token": "<mask>"}"#);
        assert_eq!(ids(), [Some(77), Some(3), Some(6)]);
        write("tokenizer_config.json", r#"{"eos_token": "</s>", "bos_token": null}"#);
        assert_eq!(ids(), [Some(77), Some(4), Some(6)]);
        write("tokenizer_config.json", "{");
        let message = SpecialTokens::of_folder(dir.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer_config.json: "), "{message}");
    }
}
