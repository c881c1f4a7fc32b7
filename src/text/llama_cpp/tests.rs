//! Tests of tokenizers in llama.cpp's terms.

use super::*;
use serde_json::json;
use std::path::PathBuf;

/// Makes a folder with a tokenizer of `tests/reference/tokenizers/bases` that `change` has changed.
fn folder(base: &str, settings: &Value, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers/bases").join(base);
    let text = std::fs::read_to_string(base.join("tokenizer.json")).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    change(&mut json);
    let write = |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", &json);
    write("tokenizer_config.json", settings);
    write("config.json", &json!({"model_type": "llama"}));
    dir
}

fn settings() -> Value {
    json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
}

fn described(base: &str, change: impl Fn(&mut Value)) -> Result<LlamaCppTokenizer, String> {
    let dir = folder(base, &settings(), change);
    LlamaCppTokenizer::of_folder(dir.path(), 700, &[]).map_err(|e| e.to_string())
}

fn id(tokenizer: &LlamaCppTokenizer, token: &str) -> usize {
    tokenizer.tokens.iter().position(|text| text == token).unwrap()
}

#[test]
fn byte_level_bpe_has_its_merges_and_types() {
    let bytes = described("bytes", |_| {}).unwrap();
    assert_eq!((bytes.model, bytes.pre, bytes.adds_bos, bytes.adds_space), ("gpt2", "gpt-2", false, None));
    assert_eq!((bytes.tokens.len(), bytes.types.len(), bytes.scores.len()), (700, 700, 0));
    assert!(bytes.merges.iter().all(|merge| merge.split(' ').count() == 2) && bytes.merges.len() > 100);
    let of = |token: &str| bytes.types[id(&bytes, token)];
    assert_eq!((of("</s>"), of("a"), of("[PAD699]")), (types::CONTROL, types::NORMAL, types::UNUSED));
    let end = id(&bytes, "</s>") as u32;
    assert!(bytes.special.contains(&("eos_token_id", end)) && bytes.ends == [end]);
    assert!(described("bytes-bos", |_| {}).unwrap().adds_bos);
}

/// The parts around a text in the post-processor.
fn around(json: &mut Value) -> &mut Vec<Value> {
    json["post_processor"]["single"].as_array_mut().unwrap()
}

#[test]
fn only_tokens_in_front_of_a_prompt_matter() {
    let after = described("bytes-bos", |json| {
        let bos = around(json)[0].clone();
        around(json).push(bos);
    });
    assert!(after.unwrap().adds_bos);
    let before = described("bytes-bos", |json| {
        let bos = around(json)[0].clone();
        around(json).insert(0, bos);
    });
    let message = before.unwrap_err();
    assert!(message.contains("it adds <s> <s> in front of a text"), "{message}");
}

#[test]
fn words_are_recognized_by_their_expression() {
    let split = |regex: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]})
    };
    let named = |pre: &Value, ignores: bool| {
        let described = described("bytes", |json| {
            json["pre_tokenizer"] = pre.clone();
            json["model"]["ignore_merges"] = json!(ignores);
        });
        described.map(|tokenizer| tokenizer.pre)
    };
    let (llama3, qwen2) = (split(crate::text::pretrained::LLAMA3_SPLIT), split(crate::text::pretrained::QWEN2_SPLIT));
    assert_eq!((named(&llama3, true), named(&llama3, false)), (Ok("llama-bpe"), Ok("smaug-bpe")));
    assert_eq!(named(&qwen2, false), Ok("qwen2"));
    let tekken = described("bytes", |json| {
        json["pre_tokenizer"] = split(bytes::TEKKEN_SPLIT);
        json["model"]["ignore_merges"] = json!(true);
    });
    let tekken = tekken.unwrap();
    assert!(tekken.pre == "tekken" && tekken.notes.iter().any(|note| note.contains("combining marks")));
    let mut digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    ]});
    assert_eq!(named(&digits, false), Ok("smollm"));
    digits["pretokenizers"][0]["individual_digits"] = json!(false);
    for (pre, ignores) in [(&digits, false), (&split(r"\w+"), false), (&qwen2, true)] {
        let message = named(pre, ignores).unwrap_err();
        assert!(message.contains("is none of those that llama.cpp has"), "{message}");
    }
}

/// Merges neighbors by the scores of tokens, as llama.cpp does.
fn by_scores(tokenizer: &LlamaCppTokenizer, text: &str) -> Vec<u32> {
    let space = if tokenizer.adds_space == Some(true) { " " } else { "" };
    let mut parts: Vec<String> = format!("{space}{text}").replace(' ', "\u{2581}").chars().map(String::from).collect();
    let known: HashMap<&str, usize> =
        tokenizer.tokens.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            let Some(&id) = known.get(format!("{}{}", parts[at - 1], parts[at]).as_str()) else { continue };
            if best.is_none_or(|(score, _)| tokenizer.scores[id] > score) {
                best = Some((tokenizer.scores[id], at));
            }
        }
        let Some((_, at)) = best else { break };
        let right = parts.remove(at);
        parts[at - 1] += &right;
    }
    let ids = parts.iter().flat_map(|part| match known.get(part.as_str()) {
        Some(&id) => vec![id as u32],
        None => part.bytes().map(|byte| known[format!("<0x{byte:02X}>").as_str()] as u32).collect(),
    });
    ids.collect()
}

/// The scores give the tokens that the merges give, for 200 texts.
#[test]
fn scores_of_pieces_are_those_of_the_merges() {
    let dir = folder("llama", &settings(), |_| {});
    let tokenizer = LlamaCppTokenizer::of_folder(dir.path(), 700, &[]).unwrap();
    assert_eq!((tokenizer.model, tokenizer.pre, tokenizer.adds_space), ("llama", "default", Some(true)));
    let of = |token: &str| tokenizer.types[id(&tokenizer, token)];
    assert_eq!((of("<0x0A>"), of("<s>"), of("[PAD650]")), (types::BYTE, types::CONTROL, types::UNUSED));
    let texts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers/texts.json");
    let texts: Value = serde_json::from_str(&std::fs::read_to_string(texts).unwrap()).unwrap();
    let own = Tokenizer::from_folder(dir.path()).unwrap();
    let mut compared = 0;
    // Texts that begin with a space get a second one in llama.cpp; special tokens are found before merging.
    let plain = |text: &&str| !text.is_empty() && !text.starts_with([' ', '\u{2581}']) && !text.contains('<');
    for text in texts["texts"].as_array().unwrap().iter().filter_map(Value::as_str).filter(plain) {
        assert_eq!(by_scores(&tokenizer, text), own.ids(text).unwrap(), "{text:?}");
        compared += 1;
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn texts_of_conversations_that_begin_with_a_token_get_no_space() {
    let dir = folder("llama", &settings(), |_| {});
    let of = |template: &str| {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        LlamaCppTokenizer::of_folder(dir.path(), 700, &[]).unwrap()
    };
    assert_eq!(of("{{ messages[0].content }}{{ eos_token }}").adds_space, Some(true));
    let chat = of("{{ bos_token }}[INST] {{ messages[0].content }}");
    assert_eq!(chat.adds_space, Some(false));
    assert!(chat.notes.iter().any(|note| note.contains("puts no space in front of a text")), "{:?}", chat.notes);
    let own = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(by_scores(&chat, "[INST] a"), own.ids("<s>[INST] a").unwrap()[1..].to_vec());
}

#[test]
fn other_tokenizers_are_refused() {
    let refused = |base: &str, change: &dyn Fn(&mut Value), part: &str| {
        let message = described(base, change).unwrap_err();
        assert!(message.contains("the tokenizer: ") && message.contains(part), "{base}: {message}");
    };
    refused("t5", &|_| {}, "its model is Unigram");
    refused("bytes", &|json| json["normalizer"] = json!({"type": "Lowercase"}), "Lowercase");
    refused("bytes", &|json| json["added_tokens"][0]["lstrip"] = json!(true), "lstrip");
    refused("llama", &|json| json["normalizer"] = json!({"type": "NFKC"}), "the normalizer");
    refused(
        "llama",
        &|json| {
            json["model"]["merges"].as_array_mut().unwrap().pop();
        },
        "there is no merge of",
    );
    refused(
        "llama",
        &|json| {
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            let result = |merge: &Value| match merge {
                Value::String(line) => line.replace(' ', ""),
                pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
            };
            let at = (1..merges.len()).find(|&at| result(&merges[at - 1]) == result(&merges[at])).unwrap();
            let moved = merges.remove(at);
            merges.insert(0, moved);
        },
        "is apart from others",
    );
    let dir = folder("bytes", &settings(), |_| {});
    let message = LlamaCppTokenizer::of_folder(dir.path(), 100, &[]).unwrap_err().to_string();
    assert!(message.contains("the model's vocabulary 100"), "{message}");
    let dir = folder("bytes", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}), |_| {});
    let message = LlamaCppTokenizer::of_folder(dir.path(), 700, &[]).unwrap_err().to_string();
    assert!(message.contains("no EOS token"), "{message}");
}

#[test]
fn several_tokens_may_end_a_text() {
    let dir = folder("bytes", &settings(), |_| {});
    let of = |ends: &[u32]| LlamaCppTokenizer::of_folder(dir.path(), 700, ends).unwrap();
    let own = of(&[]).ends[0];
    let found = of(&[5, own, 7]);
    assert_eq!(found.ends, [own, 5, 7]);
    assert_eq!(found.special[..3], [("eos_token_id", own), ("eot_token_id", 5), ("eom_token_id", 7)]);
    assert_eq!(of(&[5]).special[0], ("eos_token_id", 5));
}

#[test]
fn it_is_told_where_other_tokens_end_a_text() {
    let dir = folder("bytes", &settings(), |_| {});
    let of = |ends: &[u32]| LlamaCppTokenizer::of_folder(dir.path(), 700, ends).unwrap();
    let tells = |ends: &[u32], part: &str| of(ends).notes.iter().any(|note| note.contains(part));
    let (own, known) = (of(&[]).ends[0], id(&of(&[]), "<|endoftext|>") as u32);
    assert!(tells(&[], "have no eos_token_id") && !tells(&[own], "have no eos_token_id"));
    assert!(tells(&[own], "also ends a text at \"<|endoftext|>\"") && !tells(&[own, known], "also ends"));
    // What llama.cpp knows by name needs no key.
    let many = of(&[own, known, 7, 8, 9]);
    assert_eq!(many.special[..3], [("eos_token_id", own), ("eot_token_id", 7), ("eom_token_id", 8)]);
    let left = format!("does not end a text at {:?}: a file names 3 tokens", many.tokens[9]);
    assert!(many.notes.iter().any(|note| note.contains(&left)), "{:?}", many.notes);
    assert!(!tells(&[own, known, 7, 8], "does not end a text"));
}
