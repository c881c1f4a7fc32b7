//! Labels in `config.json`.

use serde_json::{Map, Value, json};

/// Reads `id2label` of a `config.json`, in order of ids; `None` if it is missing or its ids have gaps.
pub fn of_config(config: &Value) -> Option<Vec<String>> {
    let map = config.get("id2label")?.as_object()?;
    (0..map.len()).map(|i| map.get(&i.to_string())?.as_str().map(str::to_owned)).collect()
}

/// Returns `id2label` and `label2id` for these labels, in order of their ids.
pub fn entries(labels: &[String]) -> Map<String, Value> {
    let id2label = labels.iter().enumerate().map(|(i, l)| (i.to_string(), json!(l))).collect();
    let label2id = labels.iter().enumerate().map(|(i, l)| (l.clone(), json!(i))).collect();
    Map::from_iter([("id2label".into(), Value::Object(id2label)), ("label2id".into(), Value::Object(label2id))])
}
