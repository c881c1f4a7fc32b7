//! Names of classes in Parquet and Arrow files. `datasets` writes a column of classes (`ClassLabel`) as integers, and
//! the names of the classes into the metadata of the file.

use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};

/// The number that stands for no label.
const NO_LABEL: i64 = -1;

/// What is read of a column of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassValues {
    /// Their names; `null` for no label.
    Names,
    /// Their numbers as in the file: for labels that are no classes, such as scores.
    Numbers,
}

/// The columns of a file that are classes, or lists of classes, with the names of the classes by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClassLabels(BTreeMap<String, Vec<String>>);

impl ClassLabels {
    /// Reads what `datasets` writes into the metadata of a file. What is not of its form is ignored, and so are classes
    /// without names of their own.
    pub fn of(metadata: Option<&str>) -> Self {
        let json: Value = metadata.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let features = json["info"]["features"].as_object().into_iter().flatten();
        ClassLabels(features.filter_map(|(column, feature)| Some((column.clone(), names(feature)?))).collect())
    }

    /// Returns the names of the classes of a column.
    pub fn names(&self, column: &str) -> Option<&[String]> {
        self.0.get(column).map(Vec::as_slice)
    }

    /// Replaces the numbers of classes in a record by [`ClassValues::Names`]. A number that no class has stays.
    pub fn name_classes(&self, record: &mut Map<String, Value>) {
        for (column, names) in &self.0 {
            if let Some(value) = record.get_mut(column) {
                replace(value, names);
            }
        }
    }
}

/// Returns the names of a feature that is a class or a list of classes, at any depth; `None` for another feature.
fn names(feature: &Value) -> Option<Vec<String>> {
    // The form of lists that earlier versions of `datasets` wrote.
    if let Some(list) = feature.as_array() {
        return if let [element] = list.as_slice() { names(element) } else { None };
    }
    match feature["_type"].as_str()? {
        "ClassLabel" => {
            let names = feature["names"].as_array()?.iter().map(|name| match name {
                Value::String(name) => Some(name.trim().to_owned()),
                // As in `datasets`, whose names may be numbers.
                Value::Number(name) if name.is_i64() => Some(name.to_string()),
                _ => None,
            });
            let names: Vec<String> = names.collect::<Option<_>>()?;
            let distinct: HashSet<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
            let is_usable = !names.is_empty() && distinct.len() == names.len();
            is_usable.then_some(names)
        }
        "Sequence" | "List" | "LargeList" => names(&feature["feature"]),
        _ => None,
    }
}

/// Replaces integers by names. Other values stay.
fn replace(value: &mut Value, names: &[String]) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| replace(value, names)),
        Value::Number(number) => {
            let index = number.as_u64().and_then(|number| usize::try_from(number).ok());
            if let Some(name) = index.and_then(|index| names.get(index)) {
                *value = Value::from(name.as_str());
            } else if number.as_i64() == Some(NO_LABEL) {
                *value = Value::Null;
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(features: &Value) -> ClassLabels {
        ClassLabels::of(Some(&json!({"info": {"features": features}}).to_string()))
    }

    /// The record with names.
    fn named(labels: &ClassLabels, record: &Value) -> Value {
        let mut map = record.as_object().unwrap().clone();
        labels.name_classes(&mut map);
        Value::Object(map)
    }

    #[test]
    fn classes_are_found_in_every_form_of_the_metadata() {
        let class = json!({"names": ["O", "B-x"], "_type": "ClassLabel"});
        for feature in [
            class.clone(),
            json!({"num_classes": 2, "names": ["O", " B-x "], "names_file": null, "id": null, "_type": "ClassLabel"}),
            json!({"feature": class, "_type": "List"}),
            json!({"feature": class, "length": 3, "_type": "List"}),
            json!({"feature": class, "_type": "LargeList"}),
            json!({"feature": class, "length": -1, "id": null, "_type": "Sequence"}),
            json!({"feature": {"feature": class, "_type": "Sequence"}, "_type": "Sequence"}),
            json!([class]),
        ] {
            let found = labels(&json!({"text": {"dtype": "string", "_type": "Value"}, "y": feature}));
            assert_eq!(found.names("y"), Some(&["O".to_owned(), "B-x".to_owned()][..]), "{feature}");
            assert_eq!((found.names("text"), found.names("z")), (None, None));
        }
        let numbers = labels(&json!({"y": {"names": [3, "x"], "_type": "ClassLabel"}}));
        assert_eq!(numbers.names("y"), Some(&["3".to_owned(), "x".to_owned()][..]));
    }

    #[test]
    fn other_metadata_is_ignored() {
        let text = |text: &str| ClassLabels::of(Some(text));
        for found in [
            ClassLabels::of(None),
            text(""),
            text("{"),
            text("null"),
            text("[1]"),
            text("{\"info\": [{\"features\": 1}]}"),
            text("{\"info\": {\"features\": [{\"_type\": \"ClassLabel\"}]}}"),
            text(&"[".repeat(100_000)),
            labels(&json!({"y": null})),
            labels(&json!({"y": {"_type": 1, "names": ["a"]}})),
            labels(&json!({"y": {"_type": "ClassLabel"}})),
            labels(&json!({"y": {"_type": "ClassLabel", "names": []}})),
            labels(&json!({"y": {"_type": "ClassLabel", "names": "ab"}})),
            labels(&json!({"y": {"_type": "ClassLabel", "names": ["a", null]}})),
            labels(&json!({"y": {"_type": "ClassLabel", "names": ["a", " "]}})),
            labels(&json!({"y": {"_type": "ClassLabel", "names": ["a", "a "]}})),
            labels(&json!({"y": {"_type": "List"}})),
            labels(&json!({"y": []})),
            // A struct with a class, and a list of structs.
            labels(&json!({"y": {"z": {"_type": "ClassLabel", "names": ["a"]}}})),
            labels(&json!({"y": {"_type": "List", "feature": {"z": {"_type": "ClassLabel", "names": ["a"]}}}})),
        ] {
            assert_eq!(found, ClassLabels::default());
        }
    }

    #[test]
    fn numbers_become_names() {
        let class = json!({"names": ["neg", "pos"], "_type": "ClassLabel"});
        let labels = labels(&json!({"y": class, "list": {"feature": class, "_type": "List"}}));
        let of = |record: &Value| named(&labels, record);
        assert_eq!(of(&json!({"y": 1, "list": [0, 1], "x": 1})), json!({"y": "pos", "list": ["neg", "pos"], "x": 1}));
        assert_eq!(of(&json!({"y": -1, "list": [-1, null, 0]})), json!({"y": null, "list": [null, null, "neg"]}));
        // What is no number of a class is as it is.
        for other in [json!({}), json!({"y": null, "list": null}), json!({"y": "a", "list": []}), json!({"y": 1.0})] {
            assert_eq!(of(&other), other);
        }
        for number in [json!(2), json!(-2), json!(-100), json!(u64::MAX)] {
            let expected = json!({"y": number, "list": ["neg", number]});
            assert_eq!(of(&json!({"y": number, "list": [0, number]})), expected);
        }
    }
}
