//! Which settings have an effect with which tasks and files.

use super::choice::{Format, TaskKind};
use super::sections::{DataConfig, TaskConfig};

/// Returns the settings of `task` and `data` that have no effect with the task: the key and why.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    [language_models(task, data), seq2seq(task, data), columns(task, data)].concat()
}

fn language_models(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
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

fn seq2seq(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
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

/// Question answering refuses all columns when it reads the data.
fn columns(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    use TaskKind::{CausalLm, Chat, MaskedLm, MultiLabel, MultipleChoice, Regression, SequenceClassification};
    const TAGS: &[TaskKind] = &[TaskKind::TokenClassification];
    const CHOICES: &[TaskKind] = &[MultipleChoice];
    const CHATS: &[TaskKind] = &[Chat];
    const LABELLED: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MultipleChoice];
    const PAIRS: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression];
    const TABLES: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MaskedLm, CausalLm];
    // With chat, `predict` continues texts.
    const TEXTS: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MaskedLm, CausalLm, Chat];
    let default = DataConfig::new(data.train.clone());
    let rules = [
        ("data.words_column", data.words_column != default.words_column, TAGS),
        ("data.tags_column", data.tags_column != default.tags_column, TAGS),
        ("data.question_column", data.question_column != default.question_column, CHOICES),
        ("data.context_column", data.context_column.is_some(), CHOICES),
        ("data.choices_column", data.choices_column != default.choices_column, CHOICES),
        ("data.prompt_column", data.prompt_column != default.prompt_column, CHATS),
        ("data.completion_column", data.completion_column != default.completion_column, CHATS),
        ("data.messages_column", data.messages_column != default.messages_column, CHATS),
        ("data.text_column", data.text_column != default.text_column, TEXTS),
        ("data.text_pair_column", data.text_pair_column.is_some(), PAIRS),
        ("data.label_column", data.label_column != default.label_column, LABELLED),
        ("data.columns", data.columns.is_some(), TABLES),
        ("data.header", data.header.is_some(), TABLES),
    ];
    let kind = task.kind;
    let knows = |key: &str, kinds: &[TaskKind]| {
        let refuses_itself = kind == TaskKind::QuestionAnswering
            && ["data.text_column", "data.text_pair_column", "data.label_column", "data.columns", "data.header"]
                .contains(&key);
        refuses_itself || kinds.contains(&kind)
    };
    let complaint = |kinds: &[TaskKind]| {
        let names: Vec<String> = kinds.iter().map(TaskKind::to_string).collect();
        format!("{kind} does not read this, only {}: remove it", names.join(", "))
    };
    let wrong = rules.into_iter().filter(|(key, is_set, kinds)| *is_set && !knows(key, kinds));
    wrong.map(|(key, _, kinds)| (key, complaint(kinds))).collect()
}
