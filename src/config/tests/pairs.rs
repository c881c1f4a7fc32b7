//! Settings of seq2seq: combinations, and other tasks.

use super::*;

const SEQ2SEQ: &str = "task.kind=seq2seq";

/// A configuration with the settings that other tasks do not have.
pub fn full() -> Config {
    with(&[
        SEQ2SEQ,
        "source_prefix=to German: ",
        "max_target_length=64",
        "train_target=a.de",
        "data.eval=b.en",
        "eval_target=b.de",
        "source_column=text",
        "neftune_noise_alpha=5.0",
    ])
    .unwrap()
}

/// A prefix ends with its space, on the command line too.
#[test]
fn settings_of_pairs_are_read() {
    let Config { task, data, .. } = full();
    assert_eq!((task.source_prefix.as_deref(), task.max_target_length), (Some("to German: "), Some(64)));
    assert_eq!((data.train_target, data.eval_target), (Some("a.de".into()), Some("b.de".into())));
    assert_eq!([data.source_column, data.target_column], ["text", "target"]);
}

#[test]
fn other_tasks_do_not_have_them() {
    let keys = ["task.source_prefix=a", "task.max_target_length=9", "data.source_column=a", "data.target_column=a"];
    for key in keys.into_iter().chain(["data.train_target=a", "data.eval_target=a"]) {
        refused(&["data.eval=b", key], "sequence-classification does not use this, only seq2seq: remove it");
    }
}

#[test]
fn files_go_together() {
    refused(&[SEQ2SEQ, "eval_target=b.de"], "data.eval_target: needs the file of the sources: set data.eval");
    refused(
        &[SEQ2SEQ, "train_target=a.de", "data.format=jsonl"],
        "data.train_target: a file of records has its targets itself",
    );
    refused(&[SEQ2SEQ, "data.format=conll"], "data.format: seq2seq reads records, or plain text");
    refused(&[SEQ2SEQ, "max_target_length=1"], "task.max_target_length: found the integer 1, expected an integer >= 2");
}
