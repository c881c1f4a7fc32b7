//! Test fixtures: a model folder with a tokenizer of letters, and heads without a backbone.

use crate::nn::ParamBuilder;
use crate::nn::linear::HeadInput;
use crate::tasks::Classifier;

/// Creates a folder with a BERT vocabulary: five special tokens, then the letters; `a` is 5.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let letters = ('a'..='z').map(String::from);
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(letters);
    std::fs::write(dir.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
    dir
}

/// Creates a head that is never run.
pub fn head(outputs: usize) -> Classifier {
    Classifier::on(HeadInput { width: 2, std: 0.02, bias: true }, outputs, &mut ParamBuilder::new())
}
