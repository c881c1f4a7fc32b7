//! Adds tokens to a `tokenizer.json`, as `add_tokens` of transformers and of the `tokenizers` crate does.

use serde_json::{Value, json};
use std::collections::HashSet;

/// Adds those of `texts` that are not yet added tokens. One that is in the vocabulary keeps its id; each other gets the
/// next id after all. Returns `None` if the file has no vocabulary.
pub fn add(tokenizer: &mut Value, texts: &[String]) -> Option<()> {
    let vocabulary = tokenizer.get("model")?.get("vocab")?;
    let size = vocabulary.as_object().map(|map| map.len()).or(vocabulary.as_array().map(Vec::len))? as u64;
    let id_of = |text: &str| match vocabulary {
        Value::Object(map) => map.get(text).and_then(Value::as_u64),
        // Unigram: pairs of a text and its score.
        Value::Array(list) => list.iter().position(|pair| pair[0] == text).map(|at| at as u64),
        _ => None,
    };
    let ids: Vec<Option<u64>> = texts.iter().map(|text| id_of(text)).collect();
    let map = tokenizer.as_object_mut()?;
    let added = map.entry("added_tokens").or_insert_with(|| json!([])).as_array_mut()?;
    let mut known: HashSet<String> =
        added.iter().filter_map(|token| token["content"].as_str()).map(str::to_owned).collect();
    let last = added.iter().filter_map(|token| token["id"].as_u64()).max();
    let mut next = last.map_or(size, |last| size.max(last + 1));
    for (text, id) in texts.iter().zip(ids).filter(|(text, _)| known.insert((*text).clone())) {
        let id = id.unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        added.push(json!({
            "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
            "special": false,
        }));
    }
    added.sort_by_key(|token| token["id"].as_u64());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokenizers::{AddedToken, Tokenizer};

    /// Ids are those after `add_tokens` of the crate, for every kind of tokenizer.
    #[test]
    fn ids_are_those_of_the_crate() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let texts = ["<city>", "Straße", "new word", "the", "<city>"].map(str::to_owned);
        let read = |file: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(file).join("tokenizer.json")).unwrap()).unwrap()
        };
        let pieces = json!([["<unk>", 0.0], ["the", -1.0], ["a", -2.0], ["e", -3.0], ["s", -3.0], ["t", -3.0]]);
        let unigram = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": null,
            "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}],
            "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false},
        });
        for (file, mut json) in [("bert", read("bert-classification")), ("chat", read("chat")), ("unigram", unigram)] {
            let mut theirs: Tokenizer = json.to_string().parse().unwrap();
            theirs.add_tokens(&texts.clone().map(|text| AddedToken::from(text, false)));
            add(&mut json, &texts).unwrap();
            let ours: Tokenizer = json.to_string().parse().unwrap();
            let sorted = |tokenizer: &Tokenizer| {
                let mut all: Vec<(String, u32)> = tokenizer.get_vocab(true).into_iter().collect();
                all.sort();
                all
            };
            assert_eq!(sorted(&ours), sorted(&theirs), "{file}");
            for text in ["in <city>, a new word", "the Straße<city><city>", "a strasse"] {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, true).unwrap().get_ids().to_vec();
                assert_eq!(ids(&ours), ids(&theirs), "{file}: {text}");
            }
        }
        assert_eq!((add(&mut json!({}), &texts), add(&mut json!({"model": {"vocab": 3}}), &texts)), (None, None));
    }
}
