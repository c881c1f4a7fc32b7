//! Which settings belong to which language model.

use super::choice::{Format, TaskKind};
use super::{DataConfig, TaskConfig};

/// The settings that this task does not know: key and complaint.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    let kind = task.kind;
    let is_masked = kind == TaskKind::MaskedLm;
    let reads_documents = is_masked || kind == TaskKind::CausalLm;
    let pairs = is_masked && task.next_sentence == Some(true);
    let only = |what: &str| format!("{kind} does not know this, only {what}: remove it");
    let masked = || only("masked-lm");
    let documents = || only("causal-lm and masked-lm");
    [
        ("task.mlm_probability", task.mlm_probability.is_some() && !is_masked, masked()),
        ("task.whole_word_mask", task.whole_word_mask.is_some() && !is_masked, masked()),
        ("task.next_sentence", task.next_sentence.is_some() && !is_masked, masked()),
        ("task.packing", task.packing.is_some() && !reads_documents, documents()),
        (
            "task.packing",
            task.packing.is_some() && pairs,
            "with task.next_sentence each example is a pair of texts: remove one of the two".into(),
        ),
        ("data.documents", data.documents.is_some() && !reads_documents, documents()),
        (
            "data.documents",
            data.documents.is_some() && pairs,
            "with task.next_sentence a document is a paragraph, and each of its lines a sentence: remove it".into(),
        ),
        (
            "data.documents",
            data.documents.is_some() && data.format.is_some_and(|format| format != Format::Text),
            "only plain text is divided into documents; a record's text is one: remove it".into(),
        ),
        (
            "data.format",
            data.format == Some(Format::Text) && !reads_documents && kind != TaskKind::TokenClassification,
            format!("{kind} does not read plain text; causal-lm and masked-lm do, and token-classification to predict"),
        ),
        (
            "data.format",
            data.format.is_some_and(|format| format != Format::Text) && pairs,
            "with task.next_sentence the data is plain text".into(),
        ),
        (
            "data.format",
            data.format.is_some_and(|format| format != Format::Jsonl) && kind == TaskKind::Chat,
            "chat reads JSONL".into(),
        ),
    ]
    .into_iter()
    .filter(|(_, is_wrong, _)| *is_wrong)
    .map(|(key, _, why)| (key, why))
    .collect()
}
