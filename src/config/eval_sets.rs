//! `data.eval_sets`: evaluation sets by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::data_files::DataFiles;
use super::value::Value;

/// Further evaluation sets, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, DataFiles>")]
pub struct EvalSets(pub BTreeMap<String, DataFiles>);

impl EvalSets {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &DataFiles)> {
        self.0.iter().map(|(name, files)| (name.as_str(), files))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the set whose metric this is, and the metric's own name: `("hard", "f1")` for `hard_f1`.
    pub fn split<'a>(&self, metric: &'a str) -> Option<(&str, &'a str)> {
        let of_set = |name: &str| metric.strip_prefix(name)?.strip_prefix('_');
        // A name may begin with another one.
        let names = self.0.keys().filter(|name| of_set(name).is_some());
        let name = names.max_by_key(|name| name.len())?;
        Some((name, of_set(name)?))
    }
}

impl TryFrom<BTreeMap<String, DataFiles>> for EvalSets {
    type Error = String;

    fn try_from(sets: BTreeMap<String, DataFiles>) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match sets.keys().find(|name| name.is_empty() || !name.chars().all(plain)) {
            Some(name) => Err(format!("{name:?}: a name is part of the names of metrics: use letters, digits, - _ .")),
            None => Ok(EvalSets(sets)),
        }
    }
}

impl Value for EvalSets {
    fn kind() -> String {
        "table of paths or lists of paths".into()
    }

    fn expected() -> String {
        "a table of names with their files, such as { hard = \"hard.jsonl\", news = [\"a.csv\", \"b.csv\"] }".into()
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Result<Self, String>> {
        if let Some(word) = value.as_str() {
            let sets: BTreeMap<String, DataFiles> = serde_json::from_str(word).ok()?;
            return Some(sets.try_into());
        }
        let DeValue::Table(entries) = value else { return None };
        let set = |(name, files): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
            let name = name.get_ref().to_string();
            let files = DataFiles::from_toml(files.get_ref());
            let files = files.unwrap_or_else(|| Err(format!("expected {}", DataFiles::expected())));
            let files = files.map_err(|why| format!("{name:?}: {why}"))?;
            Ok((name, files))
        };
        let sets: Result<BTreeMap<_, _>, String> = entries.iter().map(set).collect();
        Some(sets.and_then(Self::try_from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Option<Result<EvalSets, String>> {
        EvalSets::from_toml(DeValue::parse(toml).unwrap().get_ref())
    }

    #[test]
    fn sets_are_read_and_written() {
        let sets = read("{ hard = \"h.csv\", b-2 = [\"a\", \"b\"] }").unwrap().unwrap();
        let json = r#"{"b-2":["a","b"],"hard":"h.csv"}"#;
        assert_eq!(serde_json::to_string(&sets).unwrap(), json);
        assert_eq!(serde_json::from_str::<EvalSets>(json).unwrap(), sets);
        assert_eq!(sets.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b-2", "hard"]);
    }

    #[test]
    fn other_values_are_refused() {
        assert!(read("1").is_none() && read("[\"a\"]").is_none() && read("\"a.csv\"").is_none());
        for (toml, wanted) in [
            ("{ 'a b' = \"x\" }", "\"a b\": a name is part of the names of metrics: use letters, digits, - _ ."),
            ("{ a = 1 }", "\"a\": expected a path in quotes, or a list of such paths"),
            ("{ a = [] }", "\"a\": the list is empty: name at least one file"),
        ] {
            assert_eq!(read(toml).unwrap().unwrap_err(), wanted);
        }
    }

    #[test]
    fn a_metric_belongs_to_the_set_with_the_longest_name() {
        let sets = read("{ hard = \"h\", hard_new = \"n\" }").unwrap().unwrap();
        assert_eq!(sets.split("hard_new_f1"), Some(("hard_new", "f1")));
        assert_eq!(sets.split("hard_f1"), Some(("hard", "f1")));
        assert_eq!((sets.split("harder_f1"), sets.split("f1")), (None, None));
    }
}
