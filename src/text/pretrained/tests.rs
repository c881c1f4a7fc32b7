//! Compares ids with those of `transformers` for each kind of tokenizer and each setting.

use crate::text::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn reference(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn crc(numbers: impl IntoIterator<Item = u32>) -> u32 {
    let mut crc = flate2::Crc::new();
    numbers.into_iter().for_each(|number| crc.update(&number.to_le_bytes()));
    crc.sum()
}

/// Makes the folder of a case.
fn folder(case: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers/bases");
    let base = base.join(case["base"].as_str().unwrap());
    for file in case["files"].as_array().unwrap() {
        let file = file.as_str().unwrap();
        std::fs::copy(base.join(file), dir.path().join(file)).unwrap();
    }
    let config = serde_json::json!({"model_type": case["model_type"]});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    for (name, value) in case["json"].as_object().unwrap() {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

/// Returns the differences between a folder's tokenizer and the values of a case.
fn differences(dir: &Path, case: &Value, texts: &Value) -> Vec<String> {
    let name = case["name"].as_str().unwrap();
    let tokenizer = match Tokenizer::from_folder(dir) {
        Ok(tokenizer) => tokenizer,
        Err(e) => return vec![format!("{name}: {e}")],
    };
    let encode = |text: &str, pair: Option<&str>| tokenizer.encode(text, pair, 100_000).unwrap();
    let mut found = Vec::new();
    for (i, ids) in case["full"].as_object().unwrap() {
        let text = texts["texts"][i.parse::<usize>().unwrap()].as_str().unwrap();
        let own = encode(text, None).ids;
        if serde_json::json!(own) != *ids {
            found.push(format!("{name}: {text:?}: {own:?}, not {ids}"));
        }
    }
    let wanted = case["crc"].as_str().unwrap();
    for (i, text) in texts["texts"].as_array().unwrap().iter().enumerate() {
        let ids = encode(text.as_str().unwrap(), None).ids;
        let own = format!("{:05x}", crc(ids.iter().copied()) & 0xfffff);
        if own != wanted[5 * i..5 * i + 5] {
            found.push(format!("{name}: text {i} {:.60?}: {ids:.40?}", text.as_str().unwrap()));
        }
    }
    let (mut pairs, mut cut) = (Vec::new(), Vec::new());
    for text in texts["texts"].as_array().unwrap().iter().take(20) {
        cut.extend(tokenizer.encode(text.as_str().unwrap(), None, 12).unwrap().ids);
    }
    for pair in texts["pairs"].as_array().unwrap() {
        let [first, second] = [&pair[0], &pair[1]].map(|text| text.as_str().unwrap());
        let encoded = encode(first, Some(second));
        cut.extend(tokenizer.encode(first, Some(second), 12).unwrap().ids);
        pairs.extend(encoded.ids);
        pairs.extend(encoded.type_ids.iter().map(|&segment| u32::from(segment)));
    }
    for (what, ids) in [("pair", pairs), ("cut", cut)] {
        if u64::from(crc(ids)) != case[what].as_u64().unwrap() {
            found.push(format!("{name}: {what}"));
        }
    }
    found
}

/// Every kind of file and every setting: ids of 200 texts and of pairs.
#[test]
fn ids_are_those_of_transformers() {
    let (cases, texts) = (reference("cases.json"), reference("texts.json"));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 160 && texts["texts"].as_array().unwrap().len() == 200);
    let mut found = Vec::new();
    for case in cases {
        let dir = folder(case);
        found.extend(differences(dir.path(), case, &texts).into_iter().take(3));
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

/// A folder with slow files and the files that an export adds has the same ids. With `TOKENIZER_EXPORTS` the folders are
/// kept there, for `tests/reference/check_tokenizers.py`.
#[test]
fn exported_files_have_the_same_ids() {
    let (cases, texts) = (reference("cases.json"), reference("texts.json"));
    let (mut found, mut counts) = (Vec::new(), [0; 3]);
    for (i, case) in cases.as_array().unwrap().iter().enumerate() {
        let dir = folder(case);
        let files = Tokenizer::missing_files(dir.path()).unwrap();
        for (name, content) in &files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        counts[files.len()] += 1;
        found.extend(differences(dir.path(), case, &texts).into_iter().take(2));
        if let Some(to) = std::env::var_os("TOKENIZER_EXPORTS") {
            let to = Path::new(&to).join(i.to_string());
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(dir.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    }
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert!(counts[1] > 60 && counts[2] > 0, "{counts:?}");
}

/// Numbers in the settings do not determine how much memory is used.
#[test]
fn numbers_out_of_proportion_are_errors() {
    let far = serde_json::json!({"added_tokens_decoder": {"20000": {"content": "<far>"}}});
    for (base, file, model_type, settings, says) in [
        ("t5", "spiece.model", "t5", serde_json::json!({"extra_ids": 1_u64 << 50}), "at most 16384 are supported"),
        ("tiktoken", "tokenizer.model", "llama", far, "added token 20000 is far beyond the "),
    ] {
        let json = serde_json::json!({"tokenizer_config.json": settings});
        let case = serde_json::json!({"base": base, "files": [file], "model_type": model_type, "json": json});
        let message = Tokenizer::from_folder(folder(&case).path()).err().unwrap().to_string();
        assert!(message.contains(says), "{message}");
    }
}

/// Damaged vocabulary files are errors or other vocabularies, never a panic.
#[test]
fn damaged_files_do_not_panic() {
    let bases = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers/bases");
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let (mut errors, mut count) = (0, 0);
    for (base, file, model_type) in [
        ("t5", "spiece.model", "t5"),
        ("albert", "spiece.model", "albert"),
        ("deberta", "spm.model", "deberta-v2"),
        ("llama-own", "tokenizer.model", "llama"),
        ("plain-unigram", "tokenizer.model", "mistral"),
        ("tiktoken", "tokenizer.model", "llama"),
        ("bert", "vocab.txt", "bert"),
        ("bert", "tokenizer.json", "bert"),
        ("xlmr", "tokenizer.json", "xlm-roberta"),
    ] {
        let bytes = std::fs::read(bases.join(base).join(file)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({"model_type": model_type}).to_string();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        for round in 0..60 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + round % 5 {
                let at = next(damaged.len());
                damaged[at] = next(256) as u8;
            }
            if round % 7 == 0 {
                damaged.truncate(next(bytes.len()));
            }
            std::fs::write(dir.path().join(file), damaged).unwrap();
            match Tokenizer::from_folder(dir.path()) {
                Ok(tokenizer) => drop(tokenizer.encode("The quick \u{fb01} brown \u{2026} [ENT] fox.", None, 64)),
                Err(e) => {
                    assert!(e.kind() == crate::error::Kind::Input, "{base}: {e}");
                    errors += 1;
                }
            }
            count += 1;
        }
    }
    assert!(errors > count / 5, "{errors} of {count}");
}
