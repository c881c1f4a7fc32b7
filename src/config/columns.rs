//! Which columns belong to which tasks.

use super::choice::TaskKind;
use super::{DataConfig, TaskConfig};

/// The columns that this task does not read: key and complaint. Question answering refuses all of them where it reads.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    use TaskKind::{CausalLm, Chat, MaskedLm, MultiLabel, MultipleChoice, Regression, SequenceClassification};
    const TAGS: &[TaskKind] = &[TaskKind::TokenClassification];
    const CHOICES: &[TaskKind] = &[MultipleChoice];
    const CHATS: &[TaskKind] = &[Chat];
    const LABELLED: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MultipleChoice];
    const PAIRS: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression];
    const TABLES: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MaskedLm, CausalLm];
    // A chat's texts are what `predict` goes on with.
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
