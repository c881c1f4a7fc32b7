//! Encodes documents for causal language modeling.

use super::corpus::{Corpus, DocumentFormat};
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Collation, Example, Label};
use crate::error::Result;
use crate::text::documents::Document;
use crate::text::files::Files;
use crate::text::special_tokens::Special;
use crate::text::token_template::TokenTemplate;
use crate::text::tokenizer::Tokenizer;

/// Documents for next-token prediction.
#[derive(Debug, Clone)]
pub struct CausalTexts(pub Corpus);

impl Encode for CausalTexts {
    fn files(&self) -> &Files {
        self.0.source.files()
    }

    fn settings(&self) -> String {
        format!("causal {}", self.0.settings())
    }

    /// # Errors
    /// Those of [`crate::text::documents::read`]; no document of two tokens (exit 2).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let template = tokenizer.token_template(false)?;
        // Special tokens belong to the document, not to each of its pieces. A single token has no target.
        let minimum = (2, "without a second token");
        let format = DocumentFormat { collation: Collation::NextToken, special_tokens: 0, minimum };
        self.0.encode(format, |document| tokens(tokenizer, &template, document), example)
    }
}

/// Returns the tokens of a whole document, with the tokenizer's special tokens and the EOS token.
fn tokens(tokenizer: &Tokenizer, template: &TokenTemplate, document: &Document) -> Result<Vec<u32>> {
    let ids = tokenizer.ids(&document.text)?;
    if ids.is_empty() {
        return Ok(ids);
    }
    let (before, after) = template.missing(&ids);
    let mut all = [before, ids, after].concat();
    all.extend(tokenizer.special(Special::Eos).filter(|eos| all.last() != Some(eos)));
    Ok(all)
}

fn example(pieces: &[&[u32]]) -> Example {
    let ids = pieces.concat();
    let lengths = pieces.iter().map(|piece| piece.len() as u32).collect();
    Example { type_ids: vec![0; ids.len()], ids, lengths, label: Label::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::text::documents::{Division, DocumentSource};
    use serde_json::{Value, json};

    /// Creates a folder with a tokenizer of letters (`a` is 3, `b` 4, ...), BOS `<s>` (1) if `bos`, EOS `</s>` (2), and
    /// a text file.
    fn folder(text: &str, bos: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let letters = ('a'..='z').map(String::from);
        let vocab = ["<unk>", "<s>", "</s>"].map(String::from).into_iter().chain(letters);
        let vocab: serde_json::Map<_, _> = vocab.zip((0..).map(Value::from)).collect();
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false})
        };
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": false},
            "post_processor": if bos { template } else { Value::Null },
            "model": {"type": "BPE", "vocab": vocab, "merges": [],
                      "unk_token": "<unk>"},
        });
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), "{\"eos_token\": \"</s>\"}").unwrap();
        std::fs::write(dir.path().join("a.txt"), text).unwrap();
        dir
    }

    fn prepared(dir: &tempfile::TempDir, max_length: usize, packing: bool) -> Result<Prepared> {
        let source = DocumentSource::Text { files: dir.path().join("a.txt").into(), division: Division::Lines };
        prepare(&CausalTexts(Corpus { source, max_length, packing }), dir.path(), Some(&dir.path().join("cache")))
    }

    /// Ids and lengths of all examples.
    fn examples(prepared: &Prepared) -> Vec<(Vec<u32>, Vec<u32>)> {
        let data = &prepared.dataset;
        (0..data.len()).map(|i| (data.ids(i).to_vec(), data.sequences(i))).collect()
    }

    #[test]
    fn blocks_hold_documents_with_their_ends() {
        let dir = folder("a b\nc d e f\ng\n", false);
        let packed = prepared(&dir, 6, true).unwrap();
        assert_eq!(examples(&packed), [(vec![3, 4, 2, 9, 2], vec![3, 2]), (vec![5, 6, 7, 8, 2], vec![5])]);
        assert_eq!(packed.facts.remarks, ["3 documents in 2 blocks"]);
        assert_eq!((packed.facts.truncated, packed.dataset.collation()), (0, &Collation::NextToken));
        let divided = prepared(&dir, 4, true).unwrap();
        let wanted = [(vec![3, 4, 2], vec![3]), (vec![5, 6, 7], vec![3]), (vec![8, 2, 9, 2], vec![2, 2])];
        assert_eq!(examples(&divided), wanted);
        assert_eq!(divided.facts.remarks, ["3 documents in 3 blocks", "1 document longer than a block divided"]);
        let single = prepared(&dir, 4, false).unwrap();
        let wanted = [(vec![3, 4, 2], vec![3]), (vec![5, 6, 7, 8], vec![4]), (vec![9, 2], vec![2])];
        assert_eq!(examples(&single), wanted);
        assert_eq!(single.facts.truncated, 1, "truncated before EOS");
    }

    #[test]
    fn special_tokens_are_never_doubled() {
        let dir = folder("a b\n<s> c </s>\n", true);
        let single = prepared(&dir, 8, false).unwrap();
        assert_eq!(examples(&single), [(vec![1, 3, 4, 2], vec![4]), (vec![1, 5, 2], vec![3])]);
    }

    #[test]
    fn documents_without_a_next_token_are_left_out() {
        let dir = folder("a\nb c\n", false);
        std::fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
        for packing in [true, false] {
            let data = prepared(&dir, 8, packing).unwrap();
            assert_eq!(examples(&data), [(vec![4, 5], vec![2])]);
            assert_eq!(data.facts.remarks[0], "1 document without a second token skipped");
        }
        std::fs::write(dir.path().join("a.txt"), "a\nb\n").unwrap();
        let message = prepared(&dir, 8, true).err().unwrap().to_string();
        assert!(message.contains("a.txt: no training examples: all documents are without a second token"), "{message}");
    }
}
