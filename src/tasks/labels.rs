//! The labels that a model folder already knows.

use serde_json::Value;

/// `id2label` of a `config.json`, in the order of ids; `None` when there is none or its ids have gaps.
pub fn of_config(config: &Value) -> Option<Vec<String>> {
    let map = config.get("id2label")?.as_object()?;
    (0..map.len()).map(|i| map.get(&i.to_string())?.as_str().map(str::to_owned)).collect()
}

/// Whether the folder holds a classifier already (by `architectures`), so that the order of its labels has a meaning.
pub fn has_classifier(config: &Value) -> bool {
    let names = config.get("architectures").and_then(Value::as_array);
    names.is_some_and(|names| names.iter().filter_map(Value::as_str).any(|n| n.ends_with("ForSequenceClassification")))
}
