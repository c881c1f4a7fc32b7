//! Which settings have an effect with which tasks and files.

use super::choice::{EmbeddingLoss, Format, Sampling, TaskKind};
use super::sections::{DataConfig, TaskConfig};

/// Default of `task.max_target_length` in tokens, the value of Hugging Face's example scripts.
pub const MAX_TARGET_LENGTH: usize = 128;

impl TaskConfig {
    /// The length that the targets of a sequence-to-sequence task are truncated to, in tokens; `None` for other tasks.
    pub fn target_length(&self) -> Option<usize> {
        (self.kind == TaskKind::Seq2seq).then(|| self.max_target_length.unwrap_or(MAX_TARGET_LENGTH))
    }
}

/// Returns the settings of `task` and `data` that have no effect with the task: the key and why.
pub fn misplaced(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, String)> {
    let kind = task.kind;
    // Question answering checks these itself when it reads the data.
    let unchecked: &[&str] = match kind {
        TaskKind::QuestionAnswering => {
            &["data.text_column", "data.text_pair_column", "data.label_column", "data.columns", "data.header"]
        }
        _ => &[],
    };
    let of_others = settings_of_tasks(task, data)
        .into_iter()
        .filter(|(key, is_set, kinds)| *is_set && !kinds.contains(&kind) && !unchecked.contains(key))
        .map(|(key, _, kinds)| {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            (key, format!("{kind} does not use this, only {}: remove it", names.join(", ")))
        });
    let contradictions = contradictions(task, data).into_iter().filter(|(_, is_wrong, _)| *is_wrong);
    of_others.chain(contradictions.map(|(key, _, why)| (key, why))).collect()
}

/// Returns the settings of particular tasks: the key, whether it is set, and the tasks.
fn settings_of_tasks(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, bool, &'static [TaskKind])> {
    use TaskKind::{
        CausalLm, Chat, Embedding, MaskedLm, MultiLabel, MultipleChoice, Regression, SequenceClassification,
    };
    const MASKED: &[TaskKind] = &[MaskedLm];
    const DOCUMENTS: &[TaskKind] = &[CausalLm, MaskedLm];
    const SEQ2SEQ: &[TaskKind] = &[TaskKind::Seq2seq];
    const TAGS: &[TaskKind] = &[TaskKind::TokenClassification];
    const CHOICES: &[TaskKind] = &[MultipleChoice];
    const CLASSES: &[TaskKind] = &[SequenceClassification, TaskKind::TokenClassification];
    const SINGLE_LABEL: &[TaskKind] = &[SequenceClassification];
    const CHATS: &[TaskKind] = &[Chat];
    const EMBEDDINGS: &[TaskKind] = &[Embedding];
    const LABELLED: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MultipleChoice, Embedding];
    const PAIRS: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, Embedding];
    const WEIGHTED: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression];
    const TABLES: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MaskedLm, CausalLm, Embedding];
    // With chat, `predict` continues texts.
    const TEXTS: &[TaskKind] = &[SequenceClassification, MultiLabel, Regression, MaskedLm, CausalLm, Chat, Embedding];
    let default = DataConfig::default();
    vec![
        ("task.mlm_probability", task.mlm_probability.is_some(), MASKED),
        ("task.whole_word_mask", task.whole_word_mask.is_some(), MASKED),
        ("task.next_sentence", task.next_sentence.is_some(), MASKED),
        ("task.packing", task.packing.is_some(), DOCUMENTS),
        ("task.class_weights", task.class_weights.is_some(), CLASSES),
        ("data.documents", data.documents.is_some(), DOCUMENTS),
        ("task.source_prefix", task.source_prefix.is_some(), SEQ2SEQ),
        ("task.max_target_length", task.max_target_length.is_some(), SEQ2SEQ),
        ("task.predict_with_generate", task.predict_with_generate, SEQ2SEQ),
        ("data.source_column", data.source_column != default.source_column, SEQ2SEQ),
        ("data.target_column", data.target_column != default.target_column, SEQ2SEQ),
        ("data.train_target", data.train_target.is_some(), SEQ2SEQ),
        ("data.eval_target", data.eval_target.is_some(), SEQ2SEQ),
        ("data.words_column", data.words_column != default.words_column, TAGS),
        ("data.tags_column", data.tags_column != default.tags_column, TAGS),
        ("data.question_column", data.question_column != default.question_column, CHOICES),
        ("data.context_column", data.context_column.is_some(), CHOICES),
        ("data.choices_column", data.choices_column != default.choices_column, CHOICES),
        ("task.split_turns", task.split_turns.is_some(), CHATS),
        ("task.loss", task.loss.is_some(), EMBEDDINGS),
        ("task.scale", task.scale.is_some(), EMBEDDINGS),
        ("task.max_score", task.max_score.is_some(), EMBEDDINGS),
        ("task.pooling", task.pooling.is_some(), EMBEDDINGS),
        ("task.normalize", task.normalize.is_some(), EMBEDDINGS),
        ("data.negative_column", data.negative_column.is_some(), EMBEDDINGS),
        ("data.prompt_column", data.prompt_column != default.prompt_column, CHATS),
        ("data.completion_column", data.completion_column != default.completion_column, CHATS),
        ("data.messages_column", data.messages_column != default.messages_column, CHATS),
        ("data.text_column", data.text_column != default.text_column, TEXTS),
        ("data.text_pair_column", data.text_pair_column.is_some(), PAIRS),
        ("data.label_column", data.label_column != default.label_column, LABELLED),
        ("data.weight_column", data.weight_column.is_some(), WEIGHTED),
        ("data.sampling", data.sampling != Sampling::Random, SINGLE_LABEL),
        ("data.columns", data.columns.is_some(), TABLES),
        ("data.header", data.header.is_some(), TABLES),
    ]
}

/// Returns settings that contradict others: the key, whether it does, and why.
fn contradictions(task: &TaskConfig, data: &DataConfig) -> Vec<(&'static str, bool, String)> {
    let kind = task.kind;
    let reads_text = [TaskKind::CausalLm, TaskKind::MaskedLm, TaskKind::TokenClassification, TaskKind::Seq2seq];
    let no_text =
        format!("{kind} does not read plain text; causal-lm and masked-lm do, and token-classification to predict");
    let pairs = kind == TaskKind::MaskedLm && task.next_sentence == Some(true);
    let (packing, documents) = (task.packing.is_some(), data.documents.is_some());
    let is = |format: Format| data.format == Some(format);
    let is_not = |format: Format| data.format.is_some_and(|other| other != format);
    let one = "with task.next_sentence each example is a pair of texts: remove one of the two";
    let paragraph = "with task.next_sentence a document is a paragraph, and each of its lines a sentence: remove it";
    let record = "only plain text is divided into documents; a record's text is one: remove it";
    let own_targets = "a file of records has its targets itself: remove it";
    let two_files = "seq2seq reads records, or plain text with its targets in data.train_target and data.eval_target";
    let of_records = |format: Format| !matches!(format, Format::Text | Format::Conll);
    let (are_records, are_none) = (data.format.is_some_and(of_records), data.format.is_some_and(|f| !of_records(f)));
    vec![
        ("task.packing", packing && pairs, one.into()),
        ("data.documents", documents && pairs, paragraph.into()),
        ("data.documents", documents && is_not(Format::Text), record.into()),
        ("data.format", is(Format::Text) && !reads_text.contains(&kind), no_text),
        ("data.format", is_not(Format::Text) && pairs, "with task.next_sentence the data is plain text".into()),
        (
            "data.format",
            are_none && kind == TaskKind::Chat,
            "chat reads records: jsonl, csv, tsv, parquet or arrow".into(),
        ),
        ("data.train_target", data.train_target.is_some() && are_records, own_targets.into()),
        ("data.eval_target", data.eval_target.is_some() && are_records, own_targets.into()),
        ("data.format", are_none && kind == TaskKind::Seq2seq, two_files.into()),
        (
            "data.negative_column",
            data.negative_column.is_some() && task.loss == Some(EmbeddingLoss::CosineSimilarity),
            "pairs with scores have no negatives; they are for multiple_negatives_ranking: remove it".into(),
        ),
    ]
}

/// Returns what is wrong with `data.columns`.
pub fn columns(task: &TaskConfig, data: &DataConfig) -> Vec<String> {
    let Some(names) = &data.columns else { return Vec::new() };
    let is_labelled = match task.kind {
        TaskKind::CausalLm | TaskKind::MaskedLm => false,
        TaskKind::Embedding => task.loss == Some(EmbeddingLoss::CosineSimilarity),
        _ => true,
    };
    let header = data.header == Some(true);
    let header = header
        .then(|| "names the columns of a file without a header: remove it, or set data.header = false".to_owned());
    let twice = duplicate(names).map(|twice| format!("the column {twice:?} appears twice"));
    let wanted = [
        ("text_column", Some(&data.text_column)),
        ("text_pair_column", data.text_pair_column.as_ref()),
        ("label_column", is_labelled.then_some(&data.label_column)),
        ("weight_column", data.weight_column.as_ref()),
        ("negative_column", data.negative_column.as_ref()),
    ];
    let lacking = wanted.into_iter().filter_map(|(key, name)| Some((key, name.filter(|name| !names.contains(name))?)));
    let lacking = lacking.map(|(key, name)| format!("lacks {name:?}, which is data.{key}"));
    header.into_iter().chain(twice).chain(lacking).collect()
}

/// Returns a name that appears twice.
pub fn duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)).map(|(_, name)| name)
}
