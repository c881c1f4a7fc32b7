//! `[[data.sources]]`: what each source reads, and checks against other settings.

use super::choice::Sampling;
use super::data_files::DataFiles;
use super::problems::Problems;
use super::sections::{Config, DataConfig, SourceConfig};
use super::table_keys::table_name;
use super::task_settings;

const SOURCES: &str = "data.sources";

impl DataConfig {
    /// Returns what is read of each source: its name in messages, and `[data]` with the source's own settings.
    pub fn of_sources(&self) -> Vec<(String, DataConfig)> {
        self.sources.iter().zip(1..).map(|(source, n)| (table_name(SOURCES, n), source.over(self))).collect()
    }

    /// Returns the weights of the sources, if they have any.
    pub fn source_weights(&self) -> Option<Vec<f64>> {
        let weights: Option<Vec<f64>> = self.sources.iter().map(|source| source.weight).collect();
        weights.filter(|weights| !weights.is_empty())
    }
}

impl SourceConfig {
    /// Returns `[data]` with these settings in place of its own.
    fn over(&self, data: &DataConfig) -> DataConfig {
        let column = |own: &Option<String>, of_data: &String| own.as_ref().unwrap_or(of_data).clone();
        DataConfig {
            train: self.path.clone(),
            train_target: self.train_target.clone(),
            sources: Vec::new(),
            text_column: column(&self.text_column, &data.text_column),
            text_pair_column: self.text_pair_column.clone().or_else(|| data.text_pair_column.clone()),
            label_column: column(&self.label_column, &data.label_column),
            weight_column: self.weight_column.clone().or_else(|| data.weight_column.clone()),
            source_column: column(&self.source_column, &data.source_column),
            target_column: column(&self.target_column, &data.target_column),
            words_column: column(&self.words_column, &data.words_column),
            tags_column: column(&self.tags_column, &data.tags_column),
            question_column: column(&self.question_column, &data.question_column),
            context_column: self.context_column.clone().or_else(|| data.context_column.clone()),
            choices_column: column(&self.choices_column, &data.choices_column),
            prompt_column: column(&self.prompt_column, &data.prompt_column),
            completion_column: column(&self.completion_column, &data.completion_column),
            messages_column: column(&self.messages_column, &data.messages_column),
            columns: self.columns.clone().or_else(|| data.columns.clone()),
            header: self.header.or(data.header),
            format: self.format.or(data.format),
            documents: self.documents.or(data.documents),
            ..data.clone()
        }
    }
}

/// Notes settings that contradict sources, and sets `data.train` to the files of all.
pub(super) fn validate(config: &mut Config, problems: &mut Problems) {
    let data = &config.data;
    if data.sources.is_empty() {
        // A table with a mistake was read as none.
        let is_empty_list = problems.none_with(&[SOURCES]) && !problems.is_written(&table_name(SOURCES, 1));
        if problems.is_written(SOURCES) && is_empty_list && !problems.is_written("data.train") {
            problems.with(SOURCES, "the list is empty: name at least one source, or set data.train");
        }
        return;
    }
    if problems.is_written("data.train") {
        problems
            .with("data.train", "names the training data, and so do the tables [[data.sources]]: remove one of them");
    }
    if data.train_target.is_some() {
        problems.with("data.train_target", "belongs to data.train: set train_target in the tables [[data.sources]]");
    }
    if data.eval_split.is_some() {
        let why = "holds out a part of data.train, and the training data is in [[data.sources]]: set data.eval instead";
        problems.with("data.eval_split", why);
    }
    if data.source_weights().is_some() && data.sampling == Sampling::ClassBalanced {
        let why = "class_balanced draws examples by their classes, and weights draw them by their sources: remove one";
        problems.with("data.sampling", why);
    }
    let lacking = data.sources.iter().zip(1..).filter(|(source, _)| source.weight.is_none());
    for (_, n) in lacking.filter(|_| data.sources.iter().any(|source| source.weight.is_some())) {
        let why = "has no weight, and other sources have one: give one to each, or to none";
        problems.with(&table_name(SOURCES, n), why);
    }
    if problems.none_with(&["task.kind"]) {
        let of_all = task_settings::misplaced(&config.task, data);
        for (name, own) in data.of_sources() {
            let misplaced = task_settings::misplaced(&config.task, &own).into_iter();
            for (key, why) in misplaced.filter(|problem| !of_all.contains(problem)) {
                problems.with(&name, format!("{}: {why}", key.trim_start_matches("data.")));
            }
            let columns = task_settings::columns(&config.task, &own);
            for why in columns.into_iter().filter(|_| own.columns != data.columns || own.header != data.header) {
                problems.with(&name, format!("columns: {why}"));
            }
        }
    }
    config.data.train = DataFiles::joined(config.data.sources.iter().map(|source| &source.path));
}
