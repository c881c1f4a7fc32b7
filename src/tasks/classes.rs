//! Labels as people write them become classes or numbers.

use super::texts::Target;
use crate::data::Label;
use crate::error::{Error, Result};
use crate::text::records::{RawLabel, Record, Records};
use std::collections::{BTreeMap, HashMap};

/// How many labels a message shows.
const SHOWN: usize = 12;
/// Where labels are found in the data, up to so many are always taken for classes.
const FEW_LABELS: usize = 50;
/// So many records tell whether a first row is unlike the others.
const ENOUGH_RECORDS: usize = 10;

/// The class names and their indices; nothing unless the target is a class.
pub(super) struct Classes {
    /// The class names by class index.
    pub names: Option<Vec<String>>,
    indices: HashMap<String, u32>,
}

impl Classes {
    /// The given classes, or those found in the records.
    ///
    /// # Errors
    /// A class given twice; labels found that cannot be classes (exit 2).
    pub fn new(target: &Target, read: &Records) -> Result<Self> {
        let names = match target {
            Target::Class { labels: Some(labels) } => Some(labels.clone()),
            Target::Class { labels: None } => Some(found(read)?),
            Target::Value | Target::None => None,
        };
        let mut indices = HashMap::new();
        for (name, index) in names.iter().flatten().zip(0..) {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::input(format!("the list of labels has {name:?} twice; name every label once")));
            }
        }
        Ok(Classes { names, indices })
    }

    /// The record's label, or what is wrong with it.
    pub fn label(&self, target: &Target, record: &Record) -> Result<Label, String> {
        let raw = match (&record.label, target) {
            (_, Target::None) => return Ok(Label::None),
            (None, _) => return Err("no label".into()),
            (Some(raw), _) => raw.as_str(),
        };
        if *target == Target::Value {
            // A double that is finite may still be infinite as a float.
            let value = raw.trim().parse::<f64>().map(|value| value as f32).ok().filter(|value| value.is_finite());
            return value.map(Label::Value).ok_or_else(|| format!("the label {raw:?} is not a finite number"));
        }
        self.indices.get(raw).map(|&class| Label::Class(class)).ok_or_else(|| {
            let names = self.names.as_deref().unwrap_or_default();
            let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
            let more = if names.len() > SHOWN { ", ..." } else { "" };
            format!("the label {raw:?} is not one of the {} known: {}{more}", names.len(), shown.join(", "))
        })
    }
}

/// The labels in the records, sorted as strings.
///
/// # Errors
/// More than half as many labels as examples: texts, all but surely. A first row, taken for a record by guess, whose
/// label is a word that no other record has: a header, all but surely.
fn found(read: &Records) -> Result<Vec<String>> {
    let mut counts = BTreeMap::new();
    for label in read.records.iter().filter_map(|record| record.label.as_ref()) {
        *counts.entry(label.as_str()).or_insert(0_usize) += 1;
    }
    let (labels, examples) = (counts.len(), read.records.len());
    if labels > FEW_LABELS && labels > examples / 2 {
        let why = format!("{labels} labels in {examples} examples: is label_column right?");
        return Err(Error::input(format!("{why} (for a file without a header: columns)")));
    }
    let first = read.records.first().filter(|first| read.guessed == Some(first.line) && examples >= ENOUGH_RECORDS);
    if let Some((first, label)) = first.and_then(|first| Some((first, first.label.as_ref().map(RawLabel::as_str)?)))
        && counts[label] == 1
        && label.trim().parse::<f64>().is_err()
    {
        return Err(Error::input(format!(
            "line {} looks like a header ({:?}, {label:?}): set text_column and label_column, or header = false",
            first.line, first.text
        )));
    }
    Ok(counts.into_keys().map(String::from).collect())
}
