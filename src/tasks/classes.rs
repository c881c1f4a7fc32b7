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
    /// Of the classes, and of the numbers of classes that files name, or of these names if the classes are numbers.
    indices: HashMap<String, u32>,
    /// The names that the files have for their classes by their numbers, if those that name them agree.
    of_files: Vec<String>,
}

impl Classes {
    /// Uses the given classes; or those that the files name, `of_files`, if they agree and files without names have
    /// only these names and integers. Else infers them from the `labels` of the files with their lines, sorted
    /// numerically if all are integers, else as strings.
    ///
    /// # Errors
    /// A duplicate class; inferred classes that are the same number or truth value in several forms, or a number where
    /// files name their classes; more inferred classes than half the labels, which almost certainly means a text
    /// column: the message contains `advice` (exit 2).
    pub fn new<'a>(
        given: Option<&[String]>,
        labels: impl Iterator<Item = (usize, &'a RawLabel)>,
        of_files: &[Option<&[String]>],
        files: &Files,
        advice: &str,
    ) -> Result<Self> {
        let named: Vec<&[String]> = of_files.iter().copied().flatten().collect();
        let alike: &[String] = match named.split_first() {
            Some((first, rest)) if rest.iter().all(|names| names == first) => first,
            _ => &[],
        };
        let names = match given {
            Some(names) => names.to_vec(),
            None if !alike.is_empty() && named.len() == of_files.len() => alike.to_vec(),
            None => infer(labels, (&named, alike), files, advice)?,
        };
        let mut indices = HashMap::new();
        for (name, index) in names.iter().zip(0..) {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::input(format!(
                    "the list of labels has a duplicate: {name:?}; list every label once"
                )));
            }
        }
        let counts =
            names.len() <= alike.len() && (0..).zip(&names).all(|(n, name): (usize, _)| n.to_string() == *name);
        // If the files' names are numbers themselves, a number is such a name. A part of a stream may have the files
        // with names, or not: its numbers are only what they say.
        if !alike.iter().any(|name| is_integer(name)) && (counts || !files.are_pieces()) {
            for (n, name) in alike.iter().enumerate() {
                let (n, name) = (n.to_string(), name.clone());
                let (from, to) = if counts { (n, name) } else { (name, n) };
                if let Some(&index) = indices.get(&from) {
                    indices.entry(to).or_insert(index);
                }
            }
        }
        Ok(Classes { names, indices, of_files: alike.to_vec() })
    }

    /// Returns the index of a label, or an error message; `what` is the term for a label in messages.
    pub fn index(&self, label: &RawLabel, what: &str) -> Result<u32, String> {
        let raw = label.as_str();
        self.indices.get(raw).copied().ok_or_else(|| {
            let (n, known, of_files) = (self.names.len(), shown(&self.names), shown(&self.of_files));
            let are_numbers = self.names.iter().any(|name| number(name).is_some());
            let hint = if self.of_files.iter().any(|name| name == raw) {
                let remedy = "use these names in task.labels, or in id2label of the model";
                format!("; the file names its classes (ClassLabel) {of_files}: {remedy}")
            } else if self.of_files.is_empty() && is_integer(raw) && !are_numbers {
                "; the file has numbers where the labels are names: write the names".to_owned()
            } else {
                String::new()
            };
            format!("the {what} {raw:?} is not one of the {n} known: {known}{hint}")
        })
    }
}

/// Formats the first names for a message.
fn shown(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    shown.join(", ") + if names.len() > SHOWN { ", ..." } else { "" }
}

/// Infers the classes. `named` are those of the files that name them, and `alike` their names if they agree.
fn infer<'a>(
    labels: impl Iterator<Item = (usize, &'a RawLabel)>,
    (named, alike): (&[&[String]], &[String]),
    files: &Files,
    advice: &str,
) -> Result<Vec<String>> {
    let (mut lines, mut all) = (BTreeMap::new(), 0);
    for (line, label) in labels {
        lines.entry(label.as_str()).or_insert(line);
        all += 1;
    }
    let is_name = |names: &[String], label: &str| names.iter().any(|name| name == label);
    if !alike.is_empty() && lines.keys().all(|label| is_integer(label) || is_name(alike, label)) {
        return Ok(alike.to_vec());
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
    let is_other = |label: &str| number(label).is_some() && !named.iter().any(|names| is_name(names, label));
    if let (Some(names), Some((label, line))) = (named.first(), lines.iter().find(|(label, _)| is_other(label))) {
        return Err(Error::input(format!(
            "the label {label:?} ({}) is a number, and files name their classes ({}): write the names in all files, or \
             list the labels in task.labels",
            files.line(*line),
            shown(names)
        )));
    }
    Ok(sorted(lines.into_keys()))
}

fn is_integer(label: &str) -> bool {
    label.parse::<i64>().is_ok()
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
/// Exit 2: classes of different sources that are the same number or truth value in several forms; those of one are
/// integers, and those of another names.
pub(super) fn union(lists: &[&[String]]) -> Result<(Vec<String>, Option<String>)> {
    if let Some(first) = lists.first().filter(|first| lists.iter().all(|list| list == *first)) {
        return Ok((first.to_vec(), None));
    }
    let there = || lists.iter().filter(|list| !list.is_empty());
    let numbers = there().find(|list| list.iter().all(|name| is_integer(name)));
    let others = there().find(|list| !list.iter().any(|name| is_integer(name)));
    if let (Some(numbers), Some(names)) = (numbers, others) {
        return Err(Error::input(format!(
            "the labels of one source are numbers ({}), those of another names ({}): write the names in all sources, \
             or list the labels of all in task.labels",
            shown(numbers),
            shown(names)
        )));
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
        let classes = Classes::new(None, (1..).zip(&labels), &[], &"a".into(), "").map_err(|e| e.to_string())?;
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
        assert!(Classes::new(Some(&given), (1..).zip(&labels), &[], &"a".into(), "").is_ok(), "as the message says");
    }

    /// The classes of labels on the lines from 1 of files with these names of classes, and the indices of the labels or
    /// what is wrong with one.
    fn with_files(
        given: Option<&[String]>,
        of: &[&str],
        of_files: &[Option<&[String]>],
    ) -> Result<(Vec<String>, Vec<u32>), String> {
        let labels = labels(of);
        let classes = Classes::new(given, (1..).zip(&labels), of_files, &"a".into(), "").map_err(|e| e.to_string())?;
        let indices = labels.iter().map(|label| classes.index(label, "label")).collect::<Result<_, _>>()?;
        Ok((classes.names, indices))
    }

    #[test]
    fn numbers_are_those_of_the_classes_that_files_name() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<String>>();
        let (pos, other, stars) = (list(&["pos", "neg"]), list(&["pos", "no"]), list(&["1", "2"]));
        let of = |labels: &[&str], of_files: &[Option<&[String]>]| with_files(None, labels, of_files);
        let (known, numbers) = (Some(&pos[..]), list(&["0", "1"]));
        assert_eq!(of(&["neg", "1", "0"], &[known, None]), Ok((pos.clone(), vec![1, 1, 0])));
        assert_eq!(of(&["neg"], &[None, known, known]), Ok((pos.clone(), vec![1])));
        assert_eq!(of(&["neg", "x"], &[known, None]), Ok((list(&["neg", "x"]), vec![0, 1])));
        assert_eq!(of(&["no", "neg"], &[known, Some(&other)]), Ok((list(&["neg", "no"]), vec![1, 0])));
        assert_eq!(of(&["2", "1"], &[Some(&stars), None]), Ok((stars.clone(), vec![1, 0])));
        let unknown = |label: &str, known: &str| format!("the label {label:?} is not one of the 2 known: {known}");
        for label in ["2", "-100", "-1"] {
            assert_eq!(of(&["neg", label], &[known, None]), Err(unknown(label, "\"pos\", \"neg\"")));
        }
        assert_eq!(of(&["0", "1"], &[Some(&stars), None]), Err(unknown("0", "\"1\", \"2\"")), "0 may be 1");
        let message = "the label \"1\" (line 2) is a number, and files name their classes (\"pos\", \"neg\"): write";
        for (of_files, labels) in
            [([known, None], ["x", "1"]), ([known, Some(&other[..])], ["neg", "1"]), ([known, None], ["0.0", "1"])]
        {
            let found = of(&labels, &of_files).unwrap_err();
            let message =
                if labels[0] == "0.0" { message.replace("1\" (line 2", "0.0\" (line 1") } else { message.into() };
            assert!(found.starts_with(&message), "{found}");
        }

        // Classes of a model, or of task.labels.
        assert_eq!(with_files(Some(&numbers), &["neg", "0"], &[known]), Ok((numbers.clone(), vec![1, 0])));
        assert_eq!(with_files(Some(&pos), &["0", "neg"], &[known, None]), Ok((pos.clone(), vec![0, 1])));
        let without = with_files(Some(&pos), &["0"], &[None]).unwrap_err();
        let hint = "; the file has numbers where the labels are names: write the names";
        assert_eq!(without, unknown("0", "\"pos\", \"neg\"") + hint);
        let hint = "; the file names its classes (ClassLabel) \"pos\", \"no\": use these names in task.labels";
        let without = with_files(Some(&list(&["0", "neg"])), &["no"], &[Some(&other)]).unwrap_err();
        assert!(without.contains(hint), "{without}");
    }

    #[test]
    fn numbers_and_names_of_sources_are_an_error() {
        let [numbers, names, mixed] = [["0", "1"], ["neg", "pos"], ["1", "x"]].map(|list| list.map(String::from));
        let found = union(&[&names, &[], &numbers]).unwrap_err().to_string();
        let expected = "the labels of one source are numbers (\"0\", \"1\"), those of another names (\"neg\", \"pos\")";
        assert!(found.contains(expected), "{found}");
        assert_eq!(union(&[&numbers, &mixed, &[]]).unwrap().0, ["0", "1", "x"]);
    }

    #[test]
    fn suspicious_labels_are_reported() {
        let labels = labels(&[" Pos", "pos", "neg "]);
        let files = Files::from("a");
        let names = Classes::new(None, (1..).zip(&labels), &[], &files, "").unwrap().names;
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
            let (labels, files) = (labels(of), Files::from("a"));
            let names = Classes::new(None, (1..).zip(&labels), &[], &files, "").unwrap().names;
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
