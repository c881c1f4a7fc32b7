//! Parts of tokenizer pipelines, written as in `tokenizer.json`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokenizers::normalizers::Sequence;
use tokenizers::{NormalizerWrapper, PostProcessorWrapper, Tokenizer};

/// Returns a part from its form in `tokenizer.json`.
pub fn part<T: DeserializeOwned>(json: &Value) -> Result<T, String> {
    serde_json::from_str(&json.to_string()).map_err(|e| format!("{json}: {e}"))
}

pub fn parts(list: &[Value]) -> Result<Vec<NormalizerWrapper>, String> {
    list.iter().map(part).collect()
}

pub fn sequence(normalizers: Vec<NormalizerWrapper>) -> NormalizerWrapper {
    NormalizerWrapper::Sequence(Sequence::new(normalizers))
}

/// Replaces a regular expression, or a literal if `is_regex` is false.
pub fn replace(pattern: &str, is_regex: bool, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {if is_regex { "Regex" } else { "String" }: pattern}, "content": content})
}

pub fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

/// SentencePiece's pre-tokenizer of most families: words, each with the mark of its space.
pub fn words(scheme: &str) -> Value {
    json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace(scheme, true)]})
}

pub fn byte_level(prefix: bool, regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex})
}

/// Splits by a regular expression, then into bytes.
pub fn split_bytes(regex: &str, prefix: bool) -> Value {
    let split = json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    json!({"type": "Sequence", "pretokenizers": [split, byte_level(prefix, false)]})
}

/// One step of a template: a text (`$A`, `$B`) or a special token, and the segment.
pub type Step<'a> = (&'a str, u8);

/// Returns a template of special tokens around one text and around a pair. `ids` are those of the special tokens.
pub fn template(single: &[Step], pair: &[Step], ids: &[(&str, u32)]) -> Result<PostProcessorWrapper, String> {
    let step = |&(name, segment): &Step| match name {
        "$A" | "$B" => json!({"Sequence": {"id": &name[1..], "type_id": segment}}),
        token => json!({"SpecialToken": {"id": token, "type_id": segment}}),
    };
    let [single, pair] = [single, pair].map(|steps| steps.iter().map(step).collect::<Vec<Value>>());
    let tokens = ids.iter().map(|(token, id)| ((*token).into(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let tokens: Map<String, Value> = tokens.collect();
    part(&json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}))
}

/// Sets the parts of a pipeline; null leaves one out.
pub fn assemble(tokenizer: &mut Tokenizer, pre_tokenizer: &Value, decoder: &Value) -> Result<(), String> {
    tokenizer.with_pre_tokenizer(part::<Option<tokenizers::PreTokenizerWrapper>>(pre_tokenizer)?);
    tokenizer.with_decoder(part::<Option<tokenizers::DecoderWrapper>>(decoder)?);
    Ok(())
}
