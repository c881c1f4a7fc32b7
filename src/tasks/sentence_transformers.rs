//! The files of a sentence-transformers folder that describe how a model's hidden states become an embedding.

use crate::error::{Context, Error, Result};
use crate::nn::pooler::Picks;
use serde_json::{Value, json};
use std::path::Path;

const MODULES: &str = "modules.json";
const TRANSFORMER: &str = "sentence_bert_config.json";
const MODEL: &str = "config_sentence_transformers.json";

/// The names of the poolings that are supported.
const POOLINGS: [(Picks, &str, &str); 3] = [
    (Picks::First, "pooling_mode_cls_token", "cls"),
    (Picks::Mean, "pooling_mode_mean_tokens", "mean"),
    (Picks::Last, "pooling_mode_lasttoken", "lasttoken"),
];

/// The settings of such a folder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub pooling: Picks,
    pub normalizes: bool,
    /// Maximum number of tokens of a text.
    pub max_length: Option<usize>,
}

/// Reads the settings of a folder; `None` if it is not one of sentence-transformers.
///
/// # Errors
/// Exit 2: a file that cannot be read, and what would give other embeddings here: other modules, poolings, prompts,
/// texts in lower case.
pub fn read(folder: &Path) -> Result<Option<Settings>> {
    if !folder.join(MODULES).exists() {
        return Ok(None);
    }
    let refuse = |file: &str, why: String| Err(Error::input(format!("{}: {why}", folder.join(file).display())));
    let modules = read_json(folder, MODULES)?;
    let mut pooling = None;
    let mut normalizes = false;
    for module in modules.as_array().into_iter().flatten() {
        let [kind, path] = ["type", "path"].map(|key| module[key].as_str().unwrap_or_default());
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" if path.is_empty() => {}
            "Transformer" => return refuse(MODULES, format!("the model is in the folder {path:?}: move it here")),
            "Pooling" => {
                let file = format!("{path}/config.json");
                match picks(&read_json(folder, &file)?) {
                    Ok(picks) => pooling = Some(picks),
                    Err(why) => return refuse(&file, why),
                }
            }
            "Normalize" => normalizes = true,
            other => {
                let known = "Transformer, Pooling and Normalize";
                return refuse(MODULES, format!("the module {other:?} is not supported, only {known}"));
            }
        }
    }
    let Some(pooling) = pooling else { return refuse(MODULES, "there is no Pooling".into()) };
    let transformer = read_json(folder, TRANSFORMER)?;
    if transformer["do_lower_case"] == true {
        return refuse(TRANSFORMER, "do_lower_case = true is not supported: set it in tokenizer_config.json".into());
    }
    if let Some(prompt) = read_json(folder, MODEL)?["default_prompt_name"].as_str() {
        let why = "prompts are not added to texts here: write them into the texts, and remove this";
        return refuse(MODEL, format!("default_prompt_name = {prompt:?}: {why}"));
    }
    let max_length = transformer["max_seq_length"].as_u64().map(|length| length as usize);
    Ok(Some(Settings { pooling, normalizes, max_length }))
}

/// Returns the pooling of a configuration, or what is wrong with it.
fn picks(config: &Value) -> Result<Picks, String> {
    let flags = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && **value == true);
    let set: Vec<&str> = flags.map(|(key, _)| key.as_str()).chain(config["pooling_mode"].as_str()).collect();
    let known = POOLINGS.iter().find(|(_, flag, name)| set == [*flag] || set == [*name]);
    known.map(|(picks, ..)| *picks).ok_or_else(|| {
        let known = POOLINGS.map(|(_, _, name)| name).join(", ");
        format!("the pooling {set:?} is not supported, only one of {known}")
    })
}

/// Returns the content of a file, `null` if it does not exist.
fn read_json(folder: &Path, name: &str) -> Result<Value> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read_to_string(&path).input_context(path.display())?;
    serde_json::from_str(&text).input_context(path.display())
}

/// Returns names and contents of the files of a folder with these settings, and vectors of this width.
pub fn files(settings: &Settings, width: i64) -> Vec<(&'static str, Value)> {
    let module = |(i, (path, kind)): (usize, (&str, &str))| {
        let class = format!("sentence_transformers.models.{kind}");
        json!({"idx": i, "name": i.to_string(), "path": path, "type": class})
    };
    let all = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
    let modules: Value =
        all[..if settings.normalizes { 3 } else { 2 }].iter().copied().enumerate().map(module).collect();
    let mut pooling = json!({
        "word_embedding_dimension": width,
        "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
        "pooling_mode_weightedmean_tokens": false,
        "include_prompt": true
    });
    for (picks, flag, _) in POOLINGS {
        pooling[flag] = json!(picks == settings.pooling);
    }
    vec![
        (MODULES, modules),
        ("1_Pooling/config.json", pooling),
        (TRANSFORMER, json!({"max_seq_length": settings.max_length, "do_lower_case": false})),
        (MODEL, json!({"prompts": {}, "default_prompt_name": null, "similarity_fn_name": "cosine"})),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(settings: &Settings) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        for (name, value) in files(settings, 8) {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        }
        dir
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        for pooling in [Picks::First, Picks::Mean, Picks::Last] {
            for normalizes in [false, true] {
                let settings = Settings { pooling, normalizes, max_length: Some(64) };
                assert_eq!(read(written(&settings).path()).unwrap(), Some(settings));
            }
        }
        assert_eq!(read(Path::new("no such folder")).unwrap(), None);
    }

    #[test]
    fn what_would_give_other_vectors_is_refused() {
        let settings = Settings { pooling: Picks::Mean, normalizes: false, max_length: None };
        let transformer = json!({"type": "sentence_transformers.models.Transformer", "path": ""});
        for (name, content, part) in [
            ("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}), "[\"pooling_mode_max_tokens\"]"),
            (
                "1_Pooling/config.json",
                json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}),
                "is not supported, only one of cls, mean, lasttoken",
            ),
            (MODULES, json!([transformer]), "there is no Pooling"),
            (MODULES, json!([{"type": "a.Dense", "path": "2_Dense"}]), "the module \"Dense\" is not supported"),
            (MODULES, json!([{"type": "a.Transformer", "path": "0_T"}]), "in the folder \"0_T\""),
            (TRANSFORMER, json!({"do_lower_case": true}), "do_lower_case = true"),
            (MODEL, json!({"default_prompt_name": "query"}), "default_prompt_name = \"query\""),
        ] {
            let dir = written(&settings);
            std::fs::write(dir.path().join(name), content.to_string()).unwrap();
            let message = read(dir.path()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(part), "{message}");
        }
    }

    #[test]
    fn newer_files_name_the_pooling() {
        assert_eq!(picks(&json!({"pooling_mode": "lasttoken", "embedding_dimension": 8})), Ok(Picks::Last));
    }
}
