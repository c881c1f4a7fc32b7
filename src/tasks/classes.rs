//! Labels as people write them become indices of classes.

use crate::error::{Error, Result};
use crate::text::records::RawLabel;
use std::collections::{BTreeSet, HashMap};

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
    /// The given classes, or those found among the `labels` of a file, sorted as strings.
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
    Ok(names.into_iter().map(String::from).collect())
}
