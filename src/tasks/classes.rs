//! Maps labels to class indices.

use super::corpus::many;
use crate::error::{Error, Result};
use crate::text::files::Files;
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
    /// The names that the files have for their classes.
    of_files: Vec<String>,
}

impl Classes {
    /// Uses the given classes, or infers them from the `labels` of files with their lines, sorted numerically if all are
    /// integers, else as strings.
    ///
    /// # Errors
    /// A duplicate class; inferred classes that are the same number or truth value in several forms; more inferred
    /// classes than half the labels, which almost certainly means a text column: the message contains `advice` (exit 2).
    pub fn new<'a>(
        given: Option<&[String]>,
        labels: impl Iterator<Item = (usize, &'a RawLabel)>,
        files: &Files,
        advice: &str,
    ) -> Result<Self> {
        let names = given.map_or_else(|| infer(labels, files, advice), |names| Ok(names.to_vec()))?;
        let mut indices = HashMap::new();
        for (name, index) in names.iter().zip(0..) {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::input(format!(
                    "the list of labels has a duplicate: {name:?}; list every label once"
                )));
            }
        }
        Ok(Classes { names, indices, of_files: Vec::new() })
    }

    /// Sets the names that the files have for their classes, for messages.
    pub fn with_names_of_files(self, names: Option<&[String]>) -> Self {
        Classes { of_files: names.unwrap_or_default().to_vec(), ..self }
    }

    /// Returns the index of a label, or an error message; `what` is the term for a label in messages.
    pub fn index(&self, label: &RawLabel, what: &str) -> Result<u32, String> {
        let raw = label.as_str();
        self.indices.get(raw).copied().ok_or_else(|| {
            let (n, known, of_files) = (self.names.len(), shown(&self.names), shown(&self.of_files));
            let hint = format!(
                "; the file names its classes (ClassLabel) {of_files}: use these names in task.labels, or in id2label \
                 of the model"
            );
            let hint = if self.of_files.iter().any(|name| name == raw) { hint } else { String::new() };
            format!("the {what} {raw:?} is not one of the {n} known: {known}{hint}")
        })
    }
}

/// Formats the first names for a message.
fn shown(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    shown.join(", ") + if names.len() > SHOWN { ", ..." } else { "" }
}

fn infer<'a>(labels: impl Iterator<Item = (usize, &'a RawLabel)>, files: &Files, advice: &str) -> Result<Vec<String>> {
    let (mut lines, mut all) = (BTreeMap::new(), 0);
    for (line, label) in labels {
        lines.entry(label.as_str()).or_insert(line);
        all += 1;
    }
    if lines.len() > FEW_LABELS && lines.len() > all / 2 {
        return Err(Error::input(format!("{} different labels among {all}: {advice}", lines.len())));
    }
    let same = groups(lines.iter().map(|(name, line)| (*name, *line)), |name| number(name).map(f64::to_bits));
    if let Some(same) = same.first() {
        return Err(Error::input(format!(
            "the labels {} differ only in form: write each class in one way, or list the labels in task.labels if they \
             are different classes",
            placed(same, files)
        )));
    }
    Ok(sorted(lines.into_keys()))
}

/// Sorts names, which are in string order, numerically if all are integers.
fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<&str> = names.collect();
    // 10 after 9. Equal numbers, such as 1 and 01, stay in string order.
    if let Ok(numbers) = names.iter().map(|name| name.parse::<i64>()).collect::<Result<Vec<i64>, _>>() {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|&i| numbers[i]);
        names = order.into_iter().map(|i| names[i]).collect();
    }
    names.into_iter().map(String::from).collect()
}

/// Returns the classes of several sources in the order of inferred classes, unless all have the same list; and a remark
/// on classes that differ only in case.
///
/// # Errors
/// Exit 2: classes of different sources that are the same number or truth value in several forms.
pub(super) fn union(lists: &[&[String]]) -> Result<(Vec<String>, Option<String>)> {
    if let Some(first) = lists.first().filter(|first| lists.iter().all(|list| list == *first)) {
        return Ok((first.to_vec(), None));
    }
    let all: BTreeSet<&str> = lists.iter().flat_map(|list| list.iter().map(String::as_str)).collect();
    let each = || all.iter().map(|&name| (name, 0));
    let named = |names: &[(&str, usize)]| {
        let names: Vec<String> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
        format!("the labels {} of different sources", names.join(" and "))
    };
    if let Some(same) = groups(each(), |name| number(name).map(f64::to_bits)).first() {
        return Err(Error::input(format!(
            "{} differ only in form: write each class in one way, or list the labels in task.labels if they are \
             different classes",
            named(same)
        )));
    }
    // Within a source they are reported with their lines.
    let is_reported = |names: &[(&str, usize)]| {
        lists.iter().any(|list| names.iter().all(|(name, _)| list.iter().any(|own| own == name)))
    };
    let alike = groups(each(), |name| Some(name.to_lowercase())).into_iter().find(|names| !is_reported(names));
    Ok((sorted(all.iter().copied()), alike.map(|names| format!("{} differ only in case", named(&names)))))
}

/// Returns the number that a label is, if it is one; booleans are 1 and 0, as in Python.
fn number(name: &str) -> Option<f64> {
    match name.to_lowercase().as_str() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        // -0 is 0.
        name => name.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number + 0.0),
    }
}

/// Returns the groups of several labels with the same key, each label with its line.
fn groups<'a, K: Ord>(
    labels: impl Iterator<Item = (&'a str, usize)>,
    key: impl Fn(&str) -> Option<K>,
) -> Vec<Vec<(&'a str, usize)>> {
    let mut groups: BTreeMap<K, Vec<(&str, usize)>> = BTreeMap::new();
    for (name, line) in labels {
        if let Some(key) = key(name) {
            groups.entry(key).or_default().push((name, line));
        }
    }
    groups.into_values().filter(|names| names.len() > 1).collect()
}

/// Names labels with the first line of each.
fn placed(names: &[(&str, usize)], files: &Files) -> String {
    let named: Vec<String> = names.iter().map(|(name, line)| format!("{name:?} ({})", files.line(*line))).collect();
    let (last, others) =
        named.split_last().map_or((String::new(), String::new()), |(last, others)| (last.clone(), others.join(", ")));
    format!("{others} and {last}")
}

/// Returns remarks on suspicious labels of files, with their lines. `names` are the classes.
pub(super) fn remarks<'a>(
    names: &[String],
    labels: impl Iterator<Item = (usize, &'a RawLabel)>,
    files: &Files,
) -> Vec<String> {
    let (mut padded, mut first_padded) = (0, None);
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, label) in labels {
        lines.entry(label.as_str()).or_insert(line);
        if label.is_padded() {
            padded += 1;
            first_padded.get_or_insert(line);
        }
    }
    let first = first_padded.map(|line| files.line(line)).unwrap_or_default();
    let spaces = (padded > 0).then(|| format!("spaces around {} removed (first: {first})", many(padded, "label")));
    let there = names.iter().filter_map(|name| Some((name.as_str(), *lines.get(name.as_str())?)));
    let alike = groups(there, |name| Some(name.to_lowercase())).into_iter();
    let alike = alike.map(|names| format!("the labels {} differ only in case", placed(&names, files)));
    let odd = names.iter().filter_map(|name| Some((name, *lines.get(name.as_str())?, odd(name, names)?)));
    let odd = odd.map(|(name, line, why)| format!("the label {name:?} ({}) {why}", files.line(line)));
    spaces.into_iter().chain(alike).chain(odd).collect()
}

/// Returns what a class may be instead of one.
fn odd(name: &str, names: &[String]) -> Option<&'static str> {
    match name {
        "nan" | "NaN" | "NaT" | "None" | "null" | "NULL" | "<NA>" | "N/A" => {
            Some("may be a missing value: remove its records if it is")
        }
        // -1, 0 and 1 may be negative, neutral and positive.
        "-1" if ["0", "1", "2"].iter().all(|other| names.iter().any(|name| name == other)) => {
            Some("is a class here; in data sets of Hugging Face it stands for no label: remove its records if it does")
        }
        _ if name.starts_with('[') && name.ends_with(']') && name.contains(['\'', '"', ',']) => {
            Some("looks like a list: for several labels of a text set kind = \"multi-label\" and write JSON lists")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_sorted_numerically() {
        assert_eq!(names(&["10", "9", "-1", "9"]).unwrap(), ["-1", "9", "10"]);
        assert_eq!(names(&["10", "9", "x"]).unwrap(), ["10", "9", "x"]);
        assert_eq!(names(&["1.5", "10", "9"]).unwrap(), ["1.5", "10", "9"]);
    }

    fn labels(names: &[&str]) -> Vec<RawLabel> {
        names.iter().map(|&name| RawLabel::new(name, "label").unwrap()).collect()
    }

    /// The classes inferred from labels on the lines from 1.
    fn names(of: &[&str]) -> Result<Vec<String>, String> {
        let labels = labels(of);
        let classes = Classes::new(None, (1..).zip(&labels), &"a".into(), "").map_err(|e| e.to_string())?;
        Ok(classes.names)
    }

    #[test]
    fn a_class_in_several_forms_is_an_error() {
        for (of, expected) in [
            (&["0", "1", "0.0"][..], "the labels \"0\" (line 1) and \"0.0\" (line 3) differ only in form: write"),
            (&["2", "x", "2.0", "+2", "2e0"], "\"+2\" (line 4), \"2\" (line 1), \"2.0\" (line 3) and \"2e0\" (line 5)"),
            (&["0", "1", "true"], "\"1\" (line 2) and \"true\" (line 3)"),
            (&["False", "0", "1"], "\"0\" (line 2) and \"False\" (line 1)"),
            (&["-0", "0", "1"], "\"-0\" (line 1) and \"0\" (line 2)"),
            (&["01", "1"], "\"01\" (line 1) and \"1\" (line 2)"),
        ] {
            let message = names(of).unwrap_err();
            assert!(message.contains(expected), "{of:?}: {message}");
        }
        for of in [&["0.0", "1.0", "nan", "NaN"][..], &["true", "false"], &["inf", "infinity"], &["1", "1a", "one"]] {
            assert_eq!(names(of).unwrap().len(), of.len(), "{of:?}");
        }
        let given = ["1", "1.0"].map(String::from);
        let labels = labels(&["1", "1.0"]);
        assert!(Classes::new(Some(&given), (1..).zip(&labels), &"a".into(), "").is_ok(), "as the message says");
    }

    #[test]
    fn suspicious_labels_are_reported() {
        let labels = labels(&[" Pos", "pos", "neg "]);
        let files = Files::from("a");
        let names = Classes::new(None, (1..).zip(&labels), &files, "").unwrap().names;
        assert_eq!(names, ["Pos", "neg", "pos"]);
        let found = remarks(&names, (1..).zip(&labels), &files);
        let alike = r#"the labels "Pos" (line 1) and "pos" (line 2) differ only in case"#;
        assert_eq!(found, ["spaces around 2 labels removed (first: line 1)", alike]);
        assert!(remarks(&["a".into(), "b".into()], (1..).zip(&labels[1..2]), &files).is_empty());
        assert!(RawLabel::new("  ", "label").is_err());
    }

    #[test]
    fn labels_that_may_be_none_are_reported() {
        let found = |of: &[&str]| {
            let labels = labels(of);
            let files = Files::from("a");
            let names = Classes::new(None, (1..).zip(&labels), &files, "").unwrap().names;
            remarks(&names, (1..).zip(&labels), &files)
        };
        let only = |of: &[&str], says: &str| {
            let found = found(of);
            assert!(found.len() == 1 && found[0].contains(says), "{of:?}: {found:?}");
        };
        only(&["pos", "neg", "nan"], "the label \"nan\" (line 3) may be a missing value");
        only(&["0", "1", "2", "-1"], "the label \"-1\" (line 4) is a class here; in data sets");
        only(&["['a']", "b"], "the label \"['a']\" (line 1) looks like a list");
        assert!(found(&["-1", "0", "1"]).is_empty() && found(&["[x]", "none", "O"]).is_empty());
    }
}
