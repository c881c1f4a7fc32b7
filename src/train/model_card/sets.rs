//! The evaluation sets of a run, as a model card names them.

use crate::config::{Config, DataFiles, EvalSplit};
use std::path::Path;

/// What a run is evaluated on.
pub(super) struct EvaluationSet<'a> {
    /// The name in `data.eval_sets`; `None` for the main one.
    pub key: Option<&'a str>,
    pub files: &'a DataFiles,
    /// Which part of the files it is, if it was held out.
    split: Option<EvalSplit>,
}

impl EvaluationSet<'_> {
    pub fn title(&self) -> String {
        match (self.key, self.split) {
            (Some(key), _) => format!("evaluation, {key}"),
            (None, Some(split)) => format!("evaluation, {split}"),
            (None, None) => "evaluation".to_owned(),
        }
    }

    pub fn name(&self) -> String {
        let file = file_name(self.files.first());
        self.split.map_or_else(|| file.clone(), |split| format!("{file} ({split})"))
    }
}

/// Returns the evaluation sets, in the order of an evaluation.
pub(super) fn evaluation_sets(config: &Config) -> Vec<EvaluationSet<'_>> {
    let data = &config.data;
    let set = |key, files, split| EvaluationSet { key, files, split };
    let held_out = data.eval_split.map(|split| set(None, &data.train, Some(split)));
    let main = data.eval.as_ref().map(|files| set(None, files, None)).or(held_out);
    main.into_iter().chain(data.eval_sets.iter().map(|(key, files)| set(Some(key), files, None))).collect()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
