//! Which settings belong to pairs of texts.

use super::choice::{Format, TaskKind};
use super::{DataConfig, TaskConfig};

/// The settings that this task does not know: key and complaint.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    let default = DataConfig::new(data.train.clone());
    let alone = format!("{} does not know this, only seq2seq: remove it", task.kind);
    let is_other = task.kind != TaskKind::Seq2seq;
    let lines = |set: bool| set && data.format == Some(Format::Jsonl);
    let jsonl = "a JSONL file has its targets itself: remove it";
    let rules = [
        ("task.source_prefix", task.source_prefix.is_some() && is_other, alone.as_str()),
        ("task.max_target_length", task.max_target_length.is_some() && is_other, &alone),
        ("data.source_column", data.source_column != default.source_column && is_other, &alone),
        ("data.target_column", data.target_column != default.target_column && is_other, &alone),
        ("data.train_target", data.train_target.is_some() && is_other, &alone),
        ("data.eval_target", data.eval_target.is_some() && is_other, &alone),
        ("data.train_target", lines(data.train_target.is_some()), jsonl),
        ("data.eval_target", lines(data.eval_target.is_some()), jsonl),
        (
            "data.format",
            !is_other && data.format.is_some_and(|format| format != Format::Jsonl),
            "seq2seq reads JSONL, or plain text with its targets in data.train_target and data.eval_target",
        ),
    ];
    rules.into_iter().filter(|(_, is_wrong, _)| *is_wrong).map(|(key, _, why)| (key, why.to_owned())).collect()
}
