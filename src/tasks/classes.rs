//! Maps labels to class indices.

use super::corpus::many;
use crate::error::{Error, Result};
use crate::text::records::RawLabel;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Maximum number of labels in a message.
const SHOWN: usize = 12;
/// Inferred labels up to this number are always accepted as classes.
const FEW_LABELS: usize = 50;

pub(super) struct Classes {
    /// Class names by index.
    pub names: Vec<String>,
    indices: HashMap<String, u32>,
}

impl Classes {
    /// Uses the given classes, or infers them from the `labels` of a file, sorted numerically if all are integers, else
    /// as strings.
    ///
    /// # Errors
    /// A duplicate class; more inferred classes than half the labels, which almost certainly means a text column: the
    /// message contains `advice` (exit 2).
    pub fn new<'a>(given: Option<&[String]>, labels: impl Iterator<Item = &'a RawLabel>, advice: &str) -> Result<Self> {
        let names = given.map_or_else(|| infer(labels, advice), |names| Ok(names.to_vec()))?;
        let mut indices = HashMap::new();
        for (name, index) in names.iter().zip(0..) {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::input(format!(
                    "the list of labels has a duplicate: {name:?}; list every label once"
                )));
            }
        }
        Ok(Classes { names, indices })
    }

    /// Returns the index of a label, or an error message; `what` is the term for a label in messages.
    pub fn index(&self, label: &RawLabel, what: &str) -> Result<u32, String> {
        let raw = label.as_str();
        self.indices.get(raw).copied().ok_or_else(|| {
            let shown: Vec<String> = self.names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
            let more = if self.names.len() > SHOWN { ", ..." } else { "" };
            format!("the {what} {raw:?} is not one of the {} known: {}{more}", self.names.len(), shown.join(", "))
        })
    }
}

fn infer<'a>(labels: impl Iterator<Item = &'a RawLabel>, advice: &str) -> Result<Vec<String>> {
    let (mut names, mut all) = (BTreeSet::new(), 0);
    for label in labels {
        names.insert(label.as_str());
        all += 1;
    }
    if names.len() > FEW_LABELS && names.len() > all / 2 {
        return Err(Error::input(format!("{} different labels among {all}: {advice}", names.len())));
    }
    let mut names: Vec<&str> = names.into_iter().collect();
    // 10 after 9. Equal numbers, such as 1 and 01, stay in string order.
    if let Ok(numbers) = names.iter().map(|name| name.parse::<i64>()).collect::<Result<Vec<i64>, _>>() {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|&i| numbers[i]);
        names = order.into_iter().map(|i| names[i]).collect();
    }
    Ok(names.into_iter().map(String::from).collect())
}

/// Returns remarks on suspicious labels of a file.
pub(super) fn remarks<'a>(names: &[String], labels: impl Iterator<Item = &'a RawLabel>) -> Vec<String> {
    let padded = labels.filter(|label| label.is_padded()).count();
    let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        spellings.entry(name.to_lowercase()).or_default().push(name);
    }
    let spaces = (padded > 0).then(|| format!("spaces around {} removed", many(padded, "label")));
    let alike = spellings.into_values().filter(|names| names.len() > 1);
    let alike = alike.map(|names| format!("the labels {names:?} differ only in case"));
    spaces.into_iter().chain(alike).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_sorted_numerically() {
        let labels =
            |names: &[&str]| names.iter().map(|&name| RawLabel::new(name, "label").unwrap()).collect::<Vec<_>>();
        let names = |of: &[&str]| Classes::new(None, labels(of).iter(), "").unwrap().names;
        assert_eq!(names(&["10", "9", "-1", "9"]), ["-1", "9", "10"]);
        assert_eq!(names(&["10", "9", "x"]), ["10", "9", "x"]);
        assert_eq!(names(&["1.5", "10", "9"]), ["1.5", "10", "9"]);
    }

    #[test]
    fn suspicious_labels_are_reported() {
        let labels = [" Pos", "pos", "neg "].map(|name| RawLabel::new(name, "label").unwrap());
        let names = Classes::new(None, labels.iter(), "").unwrap().names;
        assert_eq!(names, ["Pos", "neg", "pos"]);
        let found = remarks(&names, labels.iter());
        assert_eq!(found, ["spaces around 2 labels removed", r#"the labels ["Pos", "pos"] differ only in case"#]);
        assert!(remarks(&["a".into(), "b".into()], labels[1..2].iter()).is_empty());
        assert!(RawLabel::new("  ", "label").is_err());
    }
}
