//! BERT's WordPiece tokenizer from `vocab.txt`, for older folders without `tokenizer.json`.

use super::special_tokens::json_of;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Model, Tokenizer};

/// Builds the same tokenizer as `BertTokenizerFast` from `vocab.txt` and `tokenizer_config.json` (`do_lower_case`,
/// `strip_accents`, `tokenize_chinese_chars`; defaults without that file).
///
/// # Errors
/// No `vocab.txt`, or one without BERT's special tokens; invalid settings (exit 2).
pub(super) fn from_vocabulary(dir: &Path) -> Result<Tokenizer> {
    let path = vocabulary(dir)?;
    let name = path.display();
    let settings = json_of(&dir.join("tokenizer_config.json"))?;
    let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
    let lowercase = flag("do_lower_case").unwrap_or(true);
    let model = WordPiece::from_file(&path.to_string_lossy())
        .unk_token("[UNK]".into())
        .build()
        .map_err(|e| Error::input(format!("{name}: not a BERT vocabulary: {e}")))?;
    let id = |token: &str| {
        let missing = || Error::input(format!("{name}: no token {token}: it is not a BERT vocabulary"));
        model.token_to_id(token).map(|id| (token.to_string(), id)).ok_or_else(missing)
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let special = special.into_iter().map(|token| id(token).map(|_| AddedToken::from(token, true)));
    let special = special.collect::<Result<Vec<_>>>()?;

    let chinese = flag("tokenize_chinese_chars").unwrap_or(true);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, chinese, flag("strip_accents"), lowercase)))
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_post_processor(Some(BertProcessing::new(sep, cls)));
    tokenizer.add_special_tokens(&special);
    Ok(tokenizer)
}

/// Returns the BLAKE3 hash of the files that [`from_vocabulary`] reads.
pub(super) fn fingerprint(dir: &Path) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blake3::hash(&read(&vocabulary(dir)?)?).as_bytes());
    hasher.update(json_of(&dir.join("tokenizer_config.json"))?.to_string().as_bytes());
    Ok(*hasher.finalize().as_bytes())
}

fn vocabulary(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("vocab.txt");
    let missing = || {
        let save = "AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)";
        Error::input(format!("{}: no tokenizer.json (nor a BERT vocab.txt); write one with {save}", dir.display()))
    };
    path.exists().then_some(path).ok_or_else(missing)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
    Error::refuse_lfs_pointer(path, &bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_vocabulary_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| std::fs::write(dir.path().join(name), content).unwrap();
        write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nA\n##b\n");
        let ids = |text: &str| from_vocabulary(dir.path()).unwrap().encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(ids("A \u{e1}b x [MASK]"), [2, 5, 5, 7, 1, 4, 3]);
        let before = fingerprint(dir.path()).unwrap();
        write("tokenizer_config.json", r#"{"do_lower_case": false}"#);
        assert_eq!(ids("A a"), [2, 6, 5, 3]);
        assert_ne!(before, fingerprint(dir.path()).unwrap());
        write("vocab.txt", "a\nb\n");
        assert!(from_vocabulary(dir.path()).unwrap_err().to_string().contains("no token [CLS]"));
    }
}
