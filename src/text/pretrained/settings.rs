//! Settings of a tokenizer as `transformers` 5 collects them from `tokenizer_config.json`, and from
//! `special_tokens_map.json` and `added_tokens.json` of older folders.

use crate::error::{Error, Result};
use crate::text::special_tokens::{Special, json_of};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tokenizers::AddedToken;

/// Largest supported number of T5's tokens `<extra_id_0>`, ...
const MAX_EXTRA_IDS: usize = 1 << 14;

/// A token of the settings: a plain string, or with its properties.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Plain(String),
    Full(AddedToken),
}

impl Token {
    pub fn text(&self) -> &str {
        match self {
            Token::Plain(text) => text,
            Token::Full(token) => &token.content,
        }
    }

    /// Returns the token as added to a vocabulary; a plain one is special.
    pub fn added(&self) -> AddedToken {
        match self {
            Token::Plain(text) => AddedToken::from(text.clone(), true),
            Token::Full(token) => token.clone(),
        }
    }

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Token::Plain(text.clone())),
            other => added_token(other).map(Token::Full),
        }
    }
}

/// The tokens with a role, by key, in the order of `transformers`: the known keys, then those of the model's own.
pub type Named = Vec<(String, Option<Token>)>;

#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `tokenizer_config.json`.
    pub json: Value,
    /// Tokens with a role; `None` for an explicit null, which overrides the default of a class.
    pub named: Named,
    /// `extra_special_tokens`, or by its former name `additional_special_tokens`.
    pub extra: Option<Vec<Token>>,
    /// `additional_special_tokens` of `special_tokens_map.json` or of a SentencePiece model: used if `extra` is absent.
    pub additional: Option<Vec<Token>>,
    /// Added tokens by their ids in the files.
    pub added: BTreeMap<u32, AddedToken>,
}

impl Settings {
    /// Reads the settings of a folder; `own` are the `added_tokens` of its `tokenizer.json`.
    ///
    /// # Errors
    /// Exit 2: a file that is not JSON; an added token without id or content; too many `extra_ids`.
    pub fn of_folder(dir: &Path, own: &[Value]) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let json = json_of(&path)?;
        let mut settings = Settings { json, ..Settings::default() };
        if let Some(count) = settings.number("extra_ids").filter(|&count| count > MAX_EXTRA_IDS) {
            let what = format!("extra_ids is {count}; at most {MAX_EXTRA_IDS} are supported");
            return Err(Error::input(format!("{}: {what}", path.display())));
        }
        let get = |key: &str| settings.json.get(key).filter(|value| !value.is_null());
        let given = get("extra_special_tokens").filter(|value| !is_empty(value));
        let extra = given.or_else(|| settings.json.get("additional_special_tokens"));
        let extra = extra.or_else(|| settings.json.get("extra_special_tokens")).cloned();
        for special in Special::ALL {
            if let Some(value) = settings.json.get(special.key()) {
                settings.named.push((special.key().to_owned(), Token::read(value)));
            }
        }
        let others = settings.json.as_object().into_iter().flatten();
        let is_role = |key: &str| key.ends_with("_token") && !Special::ALL.iter().any(|special| special.key() == key);
        let others = others.filter(|(key, value)| is_role(key) && (value.is_string() || value.is_object()));
        let mut others: Named = others.map(|(key, value)| (key.clone(), Token::read(value))).collect();
        match extra {
            Some(Value::Object(map)) => {
                others.extend(map.iter().map(|(key, value)| (key.clone(), Token::read(value))));
            }
            Some(Value::Array(list)) => settings.extra = Some(list.iter().filter_map(Token::read).collect()),
            _ => {}
        }
        match settings.json.get("added_tokens_decoder").and_then(Value::as_object).cloned() {
            Some(decoder) => {
                for (id, token) in decoder {
                    let wrong = || {
                        let what = "added_tokens_decoder: expected an id and a token with its content";
                        Error::input(format!("{}: {what}, found {id:?}: {token}", path.display()))
                    };
                    let id = id.parse().map_err(|_| wrong())?;
                    settings.added.insert(id, added_token(&token).ok_or_else(wrong)?);
                }
            }
            None => settings.read_older_files(dir, own)?,
        }
        settings.named.append(&mut others);
        // Tokens with a role have the properties of the added token of the same text.
        for token in settings.named.iter_mut().filter_map(|(_, token)| token.as_mut()) {
            if let Some(full) = settings.added.values().rev().find(|added| added.content == token.text()) {
                *token = Token::Full(full.clone());
            }
        }
        Ok(settings)
    }

    fn read_older_files(&mut self, dir: &Path, own: &[Value]) -> Result<()> {
        let map = json_of(&dir.join("special_tokens_map.json"))?;
        for (key, value) in map.as_object().into_iter().flatten() {
            let token = match Token::read(value) {
                Some(Token::Full(token)) => Some(Token::Full(token.special(true))),
                token => token,
            };
            if key == "additional_special_tokens" || key == "extra_special_tokens" {
                let list = value.as_array().into_iter().flatten().filter_map(Token::read);
                let list = list.map(|token| match token {
                    Token::Full(token) => Token::Full(token.special(true)),
                    token => token,
                });
                self.additional = Some(list.collect());
            } else if let (true, Some(token)) = (key.ends_with("_token"), token) {
                self.set(key, Some(token));
            }
        }
        let path = dir.join("added_tokens.json");
        let special: Vec<&str> = self.named.iter().filter_map(|(_, token)| Some(token.as_ref()?.text())).collect();
        let extra: Vec<&str> = self.extra.iter().flatten().map(Token::text).collect();
        for (text, id) in json_of(&path)?.as_object().into_iter().flatten() {
            let wrong = || Error::input(format!("{}: the id of {text:?} is {id}, not a number", path.display()));
            let id = id.as_u64().and_then(|id| id.try_into().ok()).ok_or_else(wrong)?;
            let is_special = special.contains(&text.as_str()) || extra.contains(&text.as_str());
            self.added.insert(id, AddedToken::from(text.clone(), is_special));
        }
        for token in own {
            let id = token.get("id").and_then(Value::as_u64).and_then(|id| id.try_into().ok());
            if let Some((id, token)) = id.zip(added_token(token)) {
                // A token that `added_tokens.json` has too keeps its id, with the properties of one from there.
                let same = self.added.iter().find(|(_, added)| added.content == token.content).map(|(&id, _)| id);
                let token = same.and_then(|id| self.added.remove(&id)).unwrap_or(token);
                self.added.insert(id, token);
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, token: Option<Token>) {
        match self.named.iter_mut().find(|(name, _)| name == key) {
            Some((_, held)) => *held = token,
            None => self.named.push((key.to_owned(), token)),
        }
    }

    /// Sets the tokens with a role that the files leave open to the defaults of a class, in the order of roles.
    pub fn with_defaults(&mut self, defaults: &[(Special, AddedToken)]) {
        let mut named = Named::new();
        for special in Special::ALL {
            let held = self.named.iter().position(|(key, _)| key == special.key());
            let default = defaults.iter().find(|(role, _)| *role == special).map(|(_, token)| token.clone());
            match held {
                Some(at) => named.push(self.named.remove(at)),
                None => named.extend(default.map(|token| (special.key().to_owned(), Some(Token::Full(token))))),
            }
        }
        named.append(&mut self.named);
        self.named = named;
    }

    /// Returns names and texts of the tokens with a role, as chat templates have them (`special_tokens_map`).
    pub fn texts(&self) -> Vec<(String, String)> {
        let text = |(key, token): &(String, Option<Token>)| Some((key.clone(), token.as_ref()?.text().to_owned()));
        self.named.iter().filter_map(text).collect()
    }

    /// Returns the token with a role.
    pub fn token(&self, role: Special) -> Option<&Token> {
        self.named.iter().find(|(key, _)| key == role.key())?.1.as_ref()
    }

    /// Returns a flag of `tokenizer_config.json`; `None` if it is absent or null.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.json.get(key).and_then(Value::as_bool)
    }

    pub fn number(&self, key: &str) -> Option<usize> {
        self.json.get(key).and_then(Value::as_u64)?.try_into().ok()
    }
}

/// Reads the properties of an added token, as in `tokenizer.json`.
pub fn added_token(value: &Value) -> Option<AddedToken> {
    let map: &Map<String, Value> = value.as_object()?;
    let flag = |key: &str| map.get(key).and_then(Value::as_bool);
    let token = AddedToken::from(map.get("content")?.as_str()?, flag("special").unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let strip = |key: &str| flag(key).unwrap_or(false);
    let token = token.single_word(strip("single_word")).lstrip(strip("lstrip")).rstrip(strip("rstrip"));
    Some(token.normalized(normalized))
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}
