//! Labels as people write them become indices of classes.

use super::corpus::many;
use crate::error::{Error, Result};
use crate::text::records::RawLabel;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many labels a message shows.
const SHOWN: usize = 12;
/// Where labels are found in the data, up to so many are always taken for classes.
const FEW_LABELS: usize = 50;

/// The class names and their indices.
pub(super) struct Classes {
    /// The class names by class index.
    pub names: Vec<String>,
    indices: HashMap<String, u32>,
}

impl Classes {
    /// The given classes, or those found among the `labels` of a file: sorted as numbers if all are whole numbers, else as
    /// strings.
    ///
    /// # Errors
    /// A class given twice; more than half as many classes found as labels, which are texts, all but surely: then
    /// `advice` is given (exit 2).
    pub fn new<'a>(given: Option<&[String]>, labels: impl Iterator<Item = &'a RawLabel>, advice: &str) -> Result<Self> {
        let names = given.map_or_else(|| found(labels, advice), |names| Ok(names.to_vec()))?;
        let mut indices = HashMap::new();
        for (name, index) in names.iter().zip(0..) {
            if indices.insert(name.clone(), index).is_some() {
                return Err(Error::input(format!("the list of labels has {name:?} twice; name every label once")));
            }
        }
        Ok(Classes { names, indices })
    }

    /// The index of a label, or what is wrong with it; `what` is what labels are called here.
    pub fn index(&self, label: &RawLabel, what: &str) -> Result<u32, String> {
        let raw = label.as_str();
        self.indices.get(raw).copied().ok_or_else(|| {
            let shown: Vec<String> = self.names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
            let more = if self.names.len() > SHOWN { ", ..." } else { "" };
            format!("the {what} {raw:?} is not one of the {} known: {}{more}", self.names.len(), shown.join(", "))
        })
    }
}

fn found<'a>(labels: impl Iterator<Item = &'a RawLabel>, advice: &str) -> Result<Vec<String>> {
    let (mut names, mut all) = (BTreeSet::new(), 0);
    for label in labels {
        names.insert(label.as_str());
        all += 1;
    }
    if names.len() > FEW_LABELS && names.len() > all / 2 {
        return Err(Error::input(format!("{} different labels among {all}: {advice}", names.len())));
    }
    let mut names: Vec<&str> = names.into_iter().collect();
    // 10 after 9. Names of one number, such as 1 and 01, stay in the order of strings.
    if let Ok(numbers) = names.iter().map(|name| name.parse::<i64>()).collect::<Result<Vec<i64>, _>>() {
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|&i| numbers[i]);
        names = order.into_iter().map(|i| names[i]).collect();
    }
    Ok(names.into_iter().map(String::from).collect())
}

/// What a person should look at in the labels of a file, whose classes have these names.
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
    fn whole_numbers_are_sorted_as_numbers() {
        let labels =
            |names: &[&str]| names.iter().map(|&name| RawLabel::new(name, "label").unwrap()).collect::<Vec<_>>();
        let names = |of: &[&str]| Classes::new(None, labels(of).iter(), "").unwrap().names;
        assert_eq!(names(&["10", "9", "-1", "9"]), ["-1", "9", "10"]);
        assert_eq!(names(&["10", "9", "x"]), ["10", "9", "x"]);
        assert_eq!(names(&["1.5", "10", "9"]), ["1.5", "10", "9"]);
    }

    #[test]
    fn odd_labels_are_told() {
        let labels = [" Pos", "pos", "neg "].map(|name| RawLabel::new(name, "label").unwrap());
        let names = Classes::new(None, labels.iter(), "").unwrap().names;
        assert_eq!(names, ["Pos", "neg", "pos"]);
        let told = remarks(&names, labels.iter());
        assert_eq!(told, ["spaces around 2 labels removed", r#"the labels ["Pos", "pos"] differ only in case"#]);
        assert!(remarks(&["a".into(), "b".into()], labels[1..2].iter()).is_empty());
        assert!(RawLabel::new("  ", "label").is_err());
    }
}
