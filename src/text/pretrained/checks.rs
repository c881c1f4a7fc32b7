//! Checks of the parts of a `tokenizer.json`: the `tokenizers` crate panics on files that are damaged in these ways, on
//! some of them only when it tokenizes a text.

use super::{merges, rules};
use serde::Deserialize;
use serde_json::Value;

/// Checks the normalization rules of a normalizer, also within sequences.
///
/// # Errors
/// Damaged rules.
pub fn normalizer(json: &Value) -> Result<(), String> {
    for step in parts(json, "normalizers") {
        match step.get("precompiled_charsmap") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => rules::check(&merges::base64(text).unwrap_or_default())?,
            Some(other) => return Err(format!("the precompiled_charsmap is {other}; it must be a string")),
        }
    }
    Ok(())
}

/// Checks the templates of a post-processor: it may have one, with special tokens that it describes, and for a single
/// text without a second one.
///
/// # Errors
/// What is wrong with a template.
pub fn post_processor(json: &Value) -> Result<(), String> {
    let parts = parts(json, "processors");
    let templates: Vec<&&Value> = parts.iter().filter(|part| part.get("single").is_some()).collect();
    if templates.len() > 1 {
        return Err("the post_processor is a sequence with two templates".into());
    }
    for template in templates {
        let pieces = |key: &str| template.get(key).and_then(Value::as_array).into_iter().flatten();
        let text = |piece: &Value, path: &str| piece.pointer(path).and_then(Value::as_str).map(str::to_owned);
        if pieces("single").any(|piece| text(piece, "/Sequence/id").as_deref() == Some("B")) {
            return Err("the post_processor's template for a single text contains a second one".into());
        }
        let is_known = |token: &str| template.get("special_tokens").is_some_and(|known| known.get(token).is_some());
        let mut used = pieces("single").chain(pieces("pair")).filter_map(|piece| text(piece, "/SpecialToken/id"));
        if let Some(token) = used.find(|token| !is_known(token)) {
            return Err(format!("the post_processor's template has {token:?}, which is not one of its special_tokens"));
        }
    }
    Ok(())
}

/// Checks the form of a decoder.
///
/// # Errors
/// It is neither an object nor null.
pub fn decoder(json: &Value) -> Result<(), String> {
    if json.is_object() || json.is_null() {
        Ok(())
    } else {
        Err(format!("the decoder is {json}; it must be an object"))
    }
}

/// Checks what the crate uses where it reads the file as it is: `model` is the text of the model.
///
/// # Errors
/// A normalizer without its rules; a merge with a token that is shorter than the prefix of tokens within a word.
pub fn as_it_is(normalizer: &Value, model: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Prefix {
        #[serde(default)]
        continuing_subword_prefix: Option<String>,
    }
    #[derive(Deserialize)]
    struct Merges {
        #[serde(default)]
        merges: Vec<Merge>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Line(String),
        Pair([String; 2]),
    }
    let is_bare = |step: &&Value| {
        step.get("type").and_then(Value::as_str) == Some("Precompiled")
            && !step.get("precompiled_charsmap").is_some_and(Value::is_string)
    };
    if parts(normalizer, "normalizers").iter().any(is_bare) {
        return Err("a normalizer of type Precompiled has no precompiled_charsmap".into());
    }
    // Another form of these is refused by the crate.
    let prefix =
        serde_json::from_str(model).ok().and_then(|Prefix { continuing_subword_prefix }| continuing_subword_prefix);
    let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Ok(()) };
    let Ok(Merges { merges }) = serde_json::from_str(model) else { return Ok(()) };
    let second = |merge: &Merge| match merge {
        Merge::Line(line) => line.split_once(' ').map(|(_, second)| second.to_owned()),
        Merge::Pair([_, second]) => Some(second.clone()),
    };
    match merges.iter().filter_map(second).find(|token| token.get(prefix.len()..).is_none()) {
        Some(token) => Err(format!("a merge has the token {token:?}, which cannot begin with the prefix {prefix:?}")),
        None => Ok(()),
    }
}

/// Checks the ids of a vocabulary: a tokenizer is written with a loop over all ids up to the largest, and a model has an
/// embedding for each. Vocabularies with some unused ids exist.
///
/// # Errors
/// An id far beyond the number of tokens.
pub fn ids<'a>(vocab: impl ExactSizeIterator<Item = (&'a String, &'a u32)>) -> Result<(), String> {
    const UNUSED: usize = 1 << 20;
    let count = vocab.len();
    match vocab.max_by_key(|(_, id)| **id) {
        Some((token, &id)) if id as usize >= 2 * count + UNUSED => {
            Err(format!("the token {token:?} has the id {id}, far beyond the {count} tokens of the vocabulary"))
        }
        _ => Ok(()),
    }
}

/// Returns a part of the pipeline and, if it is a sequence, the parts in its `list`, at any depth.
fn parts<'a>(json: &'a Value, list: &str) -> Vec<&'a Value> {
    let (mut open, mut found) = (vec![json], Vec::new());
    while let Some(part) = open.pop() {
        found.push(part);
        open.extend(part.get(list).and_then(Value::as_array).into_iter().flatten());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_checked_at_any_depth() {
        let nested =
            |step: Value| json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"normalizers": [step]}]});
        let rules = |rules: Value| json!({"type": "Precompiled", "precompiled_charsmap": rules});
        for damaged in ["AAAA", "*", "AAEAAA"] {
            assert!(normalizer(&nested(rules(json!(damaged)))).unwrap_err().contains("damaged"), "{damaged}");
        }
        assert!(normalizer(&nested(rules(json!(3)))).unwrap_err().contains("is 3; it must be a string"));
        let none = nested(rules(Value::Null));
        assert_eq!((normalizer(&none), normalizer(&Value::Null)), (Ok(()), Ok(())));
        assert!(as_it_is(&none, "{}").unwrap_err().contains("no precompiled_charsmap"));
    }

    #[test]
    fn templates_must_have_their_tokens() {
        let template = |single: Value| {
            let tokens = json!({"[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}});
            json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens})
        };
        let piece = |kind: &str, id: &str| json!({kind: {"id": id, "type_id": 0}});
        let good = template(json!([piece("Sequence", "A"), piece("SpecialToken", "[SEP]")]));
        assert_eq!(post_processor(&good), Ok(()));
        let message = |template| post_processor(&template).unwrap_err();
        assert!(message(template(json!([piece("SpecialToken", "[CLS]")]))).contains("has \"[CLS]\", which is not"));
        assert!(message(template(json!([piece("Sequence", "B")]))).contains("contains a second one"));
        assert!(message(json!({"type": "Sequence", "processors": [good, good]})).contains("two templates"));
    }

    #[test]
    fn ids_are_about_as_many_as_tokens() {
        let of = |id: u32| ids([("a".to_owned(), 0), ("ab".to_owned(), id)].iter().map(|(token, id)| (token, id)));
        assert_eq!((of(1), of(1 << 20)), (Ok(()), Ok(())));
        for far in [2_000_000, u32::MAX] {
            assert_eq!(
                of(far),
                Err(format!("the token \"ab\" has the id {far}, far beyond the 2 tokens of the vocabulary"))
            );
        }
    }

    #[test]
    fn merges_must_have_the_prefix() {
        let model = |merge: Value| json!({"continuing_subword_prefix": "##", "merges": [merge]}).to_string();
        for (merge, is_good) in
            [(json!("a ##b"), true), (json!(["a", "##b"]), true), (json!("a b"), false), (json!(["a", "#é"]), false)]
        {
            assert_eq!(as_it_is(&Value::Null, &model(merge.clone())).is_ok(), is_good, "{merge}");
        }
        assert!(decoder(&json!(5)).is_err() && decoder(&json!({})).is_ok());
    }
}
