//! Requests of OpenAI's API for completions and chat completions.

use super::failure::Failure;
use crate::ffi::device::attempt;
use crate::generate::Settings;
use crate::generate::continuous::Start;
use crate::generate::settings::{Length, Sampling, Search};
use crate::tasks::prompts::Writer;
use crate::text::prompts::{self, Asked};
use serde_json::{Map, Value};
use std::hash::{BuildHasher, RandomState};

/// Default of the maximum number of tokens: OpenAI's of completions, and `trainer chat`'s.
const COMPLETION: usize = 16;
const ANSWER: usize = 512;
/// Below this temperature the logits divided by it are infinite, and decoding is greedy.
const COLD: f64 = 1e-6;
/// Maximum number of stop sequences, as in OpenAI's API.
const STOPS: usize = 4;

/// Keys that change the answer and are not supported, with the numbers at which they have no effect. Null, false, empty
/// lists and objects, and a list of the one modality text have none.
const UNSUPPORTED: &[(&str, &[f64])] = &[
    ("audio", &[]),
    ("best_of", &[1.0]),
    ("echo", &[]),
    ("frequency_penalty", &[0.0]),
    ("function_call", &[]),
    ("functions", &[]),
    ("logit_bias", &[]),
    ("logprobs", &[]),
    ("modalities", &[]),
    ("n", &[1.0]),
    ("prediction", &[]),
    ("presence_penalty", &[0.0]),
    ("reasoning_effort", &[]),
    ("suffix", &[]),
    ("tools", &[]),
    ("top_logprobs", &[0.0]),
    ("verbosity", &[]),
    ("web_search_options", &[]),
];
/// Keys that do not change the answer here.
const IGNORED: &[&str] = &[
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "tool_choice",
    "user",
];
const KNOWN: &[&str] =
    &["max_tokens", "model", "response_format", "seed", "stop", "stream", "stream_options", "temperature", "top_p"];

/// What turns requests into prompts.
pub struct Prompting {
    /// For prompts of any length, which are compared with the limit here.
    pub writer: Writer<'static>,
    /// The folder's settings of generation.
    pub settings: Settings,
    /// How texts are sampled when only the request says that they are; or why they cannot be.
    pub sampled: Result<Sampling, String>,
    /// Maximum number of tokens of a prompt and its text.
    pub limit: usize,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    pub start: Start,
    pub stops: Vec<String>,
    /// Whether the answer is sent token by token, and whether its end has the numbers of tokens.
    pub stream: bool,
    pub include_usage: bool,
}

impl Prompting {
    /// Reads the body of a request for a completion, or for an answer in a `chat`.
    ///
    /// # Errors
    /// 400: an invalid or unsupported value; a prompt that is too long; a chat without a chat template.
    pub fn read(&self, mut body: Map<String, Value>, chat: bool) -> Result<Request, Failure> {
        body.retain(|_, value| !value.is_null());
        let (content, more) = if chat { ("messages", "max_completion_tokens") } else { ("prompt", "prompt") };
        check_keys(&body, &[content, more])?;
        let asked = match (body.remove(content), chat) {
            (None, _) => return Err(Failure::invalid(format!("{content:?} is missing"))),
            (Some(messages), true) => prompts::of_messages(messages).map_err(Failure::invalid)?,
            (Some(Value::String(prompt)), false) => Asked::Text(prompt),
            (Some(Value::Array(list)), false) => match list.as_slice() {
                [Value::String(prompt)] => Asked::Text(prompt.clone()),
                _ => return Err(Failure::invalid("\"prompt\" must be a string, or a list of one string")),
            },
            (Some(_), false) => return Err(Failure::invalid("\"prompt\" must be a string")),
        };
        let fields = Fields(&body);
        let max_tokens = match (fields.integer("max_completion_tokens", 1)?, fields.integer("max_tokens", 1)?) {
            (Some(_), Some(_)) => {
                return Err(Failure::invalid("max_completion_tokens and max_tokens are the same: keep one"));
            }
            (one, other) => one.or(other).map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        };
        let [stream, include_usage] = [fields.boolean("stream")?, fields.include_usage()?];
        let sampling = self.sampling(fields.number("temperature", 2.0)?, fields.number("top_p", 1.0)?)?;
        let stops = fields.stops()?;
        let seed = match body.get("seed") {
            None => RandomState::new().hash_one(0),
            Some(seed) => seed
                .as_u64()
                .or_else(|| seed.as_i64().map(i64::cast_unsigned))
                .ok_or_else(|| Failure::invalid("\"seed\" must be an integer"))?,
        };
        let prompt = self.prompt(&asked)?;
        let own = self.settings.length;
        let default = if own.max.is_none() { Some(if chat { ANSWER } else { COMPLETION }) } else { None };
        let length = Length { max_new: max_tokens.or(own.max_new).or(default), ..own };
        let (min_new, max_new) = length.after(prompt.len(), Some(self.limit));
        if max_new == 0 {
            let most = self.limit.min(own.max.filter(|_| length.max_new.is_none()).unwrap_or(usize::MAX));
            return Err(Failure::too_long(format!(
                "the prompt has {} tokens, but prompt and answer have at most {most}: shorten it",
                prompt.len()
            )));
        }
        let start = Start { id: 0, prompt, sampling, seed, min_new, max_new };
        Ok(Request { start, stops, stream, include_usage })
    }

    fn prompt(&self, asked: &Asked) -> Result<Vec<u32>, Failure> {
        if matches!(asked, Asked::Messages { .. }) && !self.writer.has_template() {
            return Err(Failure::invalid("this model has no chat template: use /v1/completions"));
        }
        // A panic of the tokenizer must not end the server.
        let written = attempt(|| Ok(self.writer.write(asked))).map_err(|e| Failure::internal(e.to_string()))?;
        written.map_err(Failure::invalid)
    }

    /// Returns how tokens are sampled: as the folder says, where the request says nothing.
    fn sampling(&self, temperature: Option<f64>, top_p: Option<f64>) -> Result<Option<Sampling>, Failure> {
        let own = if let Search::Sample(sampling) = self.settings.search { Some(sampling) } else { None };
        match (temperature, top_p) {
            (Some(temperature), _) if temperature < COLD => Ok(None),
            (None, None) => Ok(own),
            (temperature, top_p) => {
                let own = own.map_or_else(|| self.sampled.clone(), Ok).map_err(Failure::invalid)?;
                let (temperature, top_p) = (temperature.unwrap_or(own.temperature), top_p.unwrap_or(own.top_p));
                Ok(Some(Sampling { temperature, top_p, ..own }))
            }
        }
    }
}

/// Refuses keys that are unknown, or that change the answer and are not supported.
fn check_keys(body: &Map<String, Value>, more: &[&str]) -> Result<(), Failure> {
    for (key, value) in body {
        let key = key.as_str();
        let unsupported = UNSUPPORTED.iter().find(|(name, _)| *name == key);
        let acts = |neutral: &[f64]| match value {
            Value::Bool(on) => *on,
            Value::Array(list) => list.iter().any(|one| key != "modalities" || one != "text"),
            Value::Object(map) => !map.is_empty(),
            value => !value.as_f64().is_some_and(|x| neutral.contains(&x)),
        };
        if unsupported.is_some_and(|(_, neutral)| acts(neutral)) {
            return Err(Failure::invalid(format!("{key:?} is not supported: remove it")));
        }
        let is_known = unsupported.is_some() || [KNOWN, IGNORED, more].iter().any(|keys| keys.contains(&key));
        if !is_known {
            return Err(Failure::invalid(format!("unknown key {key:?}")));
        }
    }
    match body.get("response_format").map(|format| &format["type"]) {
        None => Ok(()),
        Some(Value::String(kind)) if kind == "text" => Ok(()),
        Some(_) => Err(Failure::invalid("\"response_format\" other than text is not supported: remove it")),
    }
}

/// The values of a body.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn integer(&self, key: &str, least: u64) -> Result<Option<u64>, Failure> {
        let read = |value: &Value| value.as_u64().filter(|&n| n >= least);
        self.read(key, &format!("an integer of at least {least}"), read)
    }

    /// A number from 0 to `most`.
    fn number(&self, key: &str, most: f64) -> Result<Option<f64>, Failure> {
        let read = |value: &Value| value.as_f64().filter(|x| (0.0..=most).contains(x));
        self.read(key, &format!("a number from 0 to {most}"), read)
    }

    fn boolean(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn include_usage(&self) -> Result<bool, Failure> {
        let usage = |value: &Value| match value.get("include_usage") {
            None | Some(Value::Null) => Some(false),
            Some(usage) => usage.as_bool(),
        };
        let found = self.read("stream_options", "an object with include_usage: true or false", usage)?;
        Ok(found.unwrap_or(false))
    }

    fn stops(&self) -> Result<Vec<String>, Failure> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let read = |value: &Value| match value {
            Value::Array(list) if list.len() <= STOPS => list.iter().map(text).collect(),
            value => text(value).map(|text| vec![text]),
        };
        Ok(self
            .read("stop", &format!("a text or a list of at most {STOPS} texts, none empty"), read)?
            .unwrap_or_default())
    }

    fn read<T>(&self, key: &str, expected: &str, take: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>, Failure> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let found = take(value).map(Some);
        found.ok_or_else(|| Failure::invalid(format!("{key:?}: expected {expected}")))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::text::tokenizer::Tokenizer;
    use crate::text::tokenizer::tests::folder;
    use serde_json::json;

    pub fn prompting(generation: Value, template: bool) -> Prompting {
        let dir = folder();
        std::fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
        if template {
            let text = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% endfor %}";
            std::fs::write(dir.path().join("chat_template.jinja"), text).unwrap();
        }
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let settings = Settings::read(dir.path(), &Map::new()).unwrap();
        let sampled = Settings::sampled(dir.path()).map_err(|e| e.to_string());
        Prompting { writer: Writer::owning(tokenizer, usize::MAX).unwrap(), settings, sampled, limit: 20 }
    }

    fn read(body: Value, chat: bool) -> Result<Request, Failure> {
        let Value::Object(body) = body else { panic!("an object") };
        prompting(json!({}), true).read(body, chat)
    }

    #[test]
    fn requests_are_read() {
        let request =
            read(json!({"prompt": "a b", "max_tokens": 3, "seed": -1, "stop": "x", "user": "u"}), false).unwrap();
        let start = &request.start;
        assert_eq!(start.prompt.len(), 3, "with the first special token: {start:?}");
        assert_eq!((start.sampling, start.seed, start.max_new), (None, u64::MAX, 3));
        assert_eq!((request.stops, request.stream, request.include_usage), (vec!["x".to_owned()], false, false));

        let messages =
            json!([{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]);
        let body = json!({"messages": messages, "stream": true, "stream_options": {"include_usage": true}, "n": 1,
                          "temperature": 0.5, "top_p": null, "stop": ["x", "y"], "tools": [], "logprobs": false,
                          "modalities": ["text"], "prompt_cache_retention": "24h",
                          "prompt_cache_options": {"ttl": "30m"}});
        let request = read(body, true).unwrap();
        let letters: Vec<u32> = "saub".bytes().map(|letter| 5 + 2 * u32::from(letter - b'a')).collect();
        assert_eq!(request.start.prompt, letters);
        assert_eq!(request.start.sampling, Some(Sampling { temperature: 0.5, top_k: 50, top_p: 1.0 }));
        // As many as there is room for, since the default of an answer is more.
        assert_eq!(
            (request.start.max_new, request.stops.len(), request.stream, request.include_usage),
            (16, 2, true, true)
        );
        assert_ne!(request.start.seed, read(json!({"prompt": "a"}), false).unwrap().start.seed);
    }

    #[test]
    fn what_a_request_leaves_open_is_the_folders() {
        let of = |folder: Value, body: Value| {
            let Value::Object(body) = body else { panic!("an object") };
            prompting(folder, false).read(body, false).unwrap().start
        };
        let samples =
            json!({"do_sample": true, "temperature": 0.7, "top_k": 5, "max_new_tokens": 2, "min_new_tokens": 1});
        let own = of(samples.clone(), json!({"prompt": "a"}));
        let sampling = Sampling { temperature: 0.7, top_k: 5, top_p: 1.0 };
        assert_eq!((own.sampling, own.min_new, own.max_new), (Some(sampling), 1, 2));
        let given = of(samples.clone(), json!({"prompt": "a", "top_p": 0.5, "max_tokens": 4}));
        assert_eq!((given.sampling, given.max_new), (Some(Sampling { top_p: 0.5, ..sampling }), 4));
        assert_eq!(of(samples, json!({"prompt": "a", "temperature": 0})).sampling, None);
        // A folder that does not sample says how, if a request does.
        let greedy = of(json!({"temperature": 0.7, "top_k": 5}), json!({"prompt": "a"}));
        let asked = of(json!({"temperature": 0.0, "top_k": 5}), json!({"prompt": "a", "top_p": 0.5}));
        let sampling = Sampling { temperature: 1.0, top_k: 5, top_p: 0.5 };
        assert_eq!((greedy.sampling, asked.sampling), (None, Some(sampling)));
        assert_eq!(of(json!({"max_length": 9}), json!({"prompt": "a"})).max_new, 7);
        assert_eq!(of(json!({}), json!({"prompt": "a"})).max_new, COMPLETION);
    }

    #[test]
    fn bad_requests_are_refused() {
        let only_greedy = prompting(json!({"min_p": 0.1}), false);
        let body = |temperature: f64| json!({"prompt": "a", "temperature": temperature}).as_object().unwrap().clone();
        assert_eq!(only_greedy.read(body(0.0), false).unwrap().start.sampling, None);
        let failure = only_greedy.read(body(0.7), false).unwrap_err();
        assert!(failure.status.as_u16() == 400 && failure.message.contains("min_p = 0.1"), "{}", failure.message);
        let long = "a ".repeat(30);
        for (body, chat, says) in [
            (json!({}), false, "\"prompt\" is missing"),
            (json!({"prompt": 1}), false, "must be a string"),
            (json!({"prompt": ["a", "b"]}), false, "a list of one string"),
            (json!({"prompt": "a", "max_tokens": 0}), false, "\"max_tokens\": expected an integer of at least 1"),
            (json!({"prompt": "a", "max_tokens": 1.5}), false, "an integer"),
            (json!({"prompt": "a", "max_completion_tokens": 1}), false, "unknown key \"max_completion_tokens\""),
            (json!({"prompt": "a", "temperature": 2.5}), false, "a number from 0 to 2"),
            (json!({"prompt": "a", "top_p": "x"}), false, "a number from 0 to 1"),
            (json!({"prompt": "a", "n": 2}), false, "\"n\" is not supported"),
            (json!({"prompt": "a", "logprobs": 3}), false, "\"logprobs\" is not supported"),
            (json!({"messages": [], "modalities": ["text", "audio"]}), true, "\"modalities\" is not supported"),
            (json!({"messages": [], "tools": ["text"]}), true, "\"tools\" is not supported"),
            (json!({"prompt": "a", "stop": ""}), false, "none empty"),
            (json!({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}), false, "at most 4"),
            (json!({"prompt": "a", "seed": "x"}), false, "\"seed\" must be an integer"),
            (json!({"prompt": "a", "stream": 1}), false, "true or false"),
            (json!({"prompt": "a", "top_k": 1}), false, "unknown key \"top_k\""),
            (json!({"messages": [], "prompt": "a"}), true, "unknown key \"prompt\""),
            (json!({"messages": []}), true, "no message to answer"),
            (json!({"messages": "a"}), true, "must be a list of messages"),
            (json!({"messages": [{"role": "bot", "content": "a"}]}), true, "the role \"bot\""),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
                true,
                "only text parts are supported",
            ),
            (
                json!({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}),
                true,
                "\"tools\" is not supported",
            ),
            (
                json!({"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}),
                true,
                "\"response_format\"",
            ),
            (
                json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": 1}),
                true,
                "keep one",
            ),
        ] {
            let failure = read(body.clone(), chat).unwrap_err();
            assert!(failure.status.as_u16() == 400 && failure.message.contains(says), "{body}: {failure:?}");
        }
        let failure = read(json!({"prompt": long}), false).unwrap_err();
        assert_eq!(failure.code, "context_length_exceeded", "{failure:?}");
        let messages = json!({"messages": [{"role": "user", "content": "a"}]});
        let without = prompting(json!({}), false).read(messages.as_object().unwrap().clone(), true).unwrap_err();
        assert!(without.message.contains("chat template"), "{without:?}");
    }
}
