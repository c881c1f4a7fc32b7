//! The tokenizer class that `transformers` 5 chooses for a folder.

use crate::error::{Error, Result};
use crate::text::special_tokens::json_of;
use serde_json::Value;
use std::path::Path;

/// A tokenizer class of `transformers`. All but [`Class::Backend`] rebuild the pipeline from vocabulary and settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `TokenizersBackend` (`PreTrainedTokenizerFast`): `tokenizer.json` as it is.
    Backend,
    Bert,
    Roberta,
    XlmRoberta,
    Camembert,
    Albert,
    XlNet,
    T5,
    Gpt2,
    GptNeoX,
    Qwen2,
    Llama,
}

/// The class of each `model_type`, of those that this program trains (`TOKENIZER_MAPPING_NAMES`).
const REGISTERED: &[(&str, &str)] = &[
    ("bert", "BertTokenizer"),
    ("distilbert", "BertTokenizer"),
    ("electra", "BertTokenizer"),
    ("roberta", "RobertaTokenizer"),
    ("xlm-roberta", "XLMRobertaTokenizer"),
    ("camembert", "CamembertTokenizer"),
    ("albert", "AlbertTokenizer"),
    ("xlnet", "XLNetTokenizer"),
    ("t5", "T5Tokenizer"),
    ("mt5", "T5Tokenizer"),
    ("gpt2", "GPT2Tokenizer"),
    ("mistral", "TokenizersBackend"),
    ("modernbert", "TokenizersBackend"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
];

/// Model types for which the class of the folder's files is ignored (`MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS`).
const REGISTERED_ONLY: &[&str] = &["qwen2"];

/// Classes with their aliases.
const CLASSES: &[(&str, Class)] = &[
    ("TokenizersBackend", Class::Backend),
    ("PreTrainedTokenizer", Class::Backend),
    ("BloomTokenizer", Class::Backend),
    ("ParakeetTokenizer", Class::Backend),
    ("BertTokenizer", Class::Bert),
    ("DistilBertTokenizer", Class::Bert),
    ("ElectraTokenizer", Class::Bert),
    ("LayoutLMTokenizer", Class::Bert),
    ("LxmertTokenizer", Class::Bert),
    ("MobileBertTokenizer", Class::Bert),
    ("SqueezeBertTokenizer", Class::Bert),
    ("RobertaTokenizer", Class::Roberta),
    ("BartTokenizer", Class::Roberta),
    ("LEDTokenizer", Class::Roberta),
    ("LongformerTokenizer", Class::Roberta),
    ("MvpTokenizer", Class::Roberta),
    ("XLMRobertaTokenizer", Class::XlmRoberta),
    ("CamembertTokenizer", Class::Camembert),
    ("AlbertTokenizer", Class::Albert),
    ("XLNetTokenizer", Class::XlNet),
    ("T5Tokenizer", Class::T5),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("LlamaTokenizer", Class::Llama),
    ("Phi3Tokenizer", Class::Llama),
];

/// Classes that split texts in Python code, which no `tokenizer.json` contains.
const PYTHON: &[&str] = &[
    "BartphoTokenizer",
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "BioGptTokenizer",
    "BlenderbotSmallTokenizer",
    "ByT5Tokenizer",
    "CTRLTokenizer",
    "CanineTokenizer",
    "CpmAntTokenizer",
    "CpmTokenizer",
    "EsmTokenizer",
    "FSMTTokenizer",
    "FlaubertTokenizer",
    "GPTNeoXJapaneseTokenizer",
    "GPTSw3Tokenizer",
    "M2M100Tokenizer",
    "MarianTokenizer",
    "MyT5Tokenizer",
    "PLBartTokenizer",
    "PerceiverTokenizer",
    "PhobertTokenizer",
    "ProphetNetTokenizer",
    "RagTokenizer",
    "RoCBertTokenizer",
    "SiglipTokenizer",
    "TapasTokenizer",
    "XLMTokenizer",
];

/// Classes of the `tokenizers` crate that rebuild the pipeline in ways that this program does not know.
const OTHER: &[&str] = &[
    "BarthezTokenizer",
    "BigBirdTokenizer",
    "BlenderbotTokenizer",
    "CLIPTokenizer",
    "CodeGenTokenizer",
    "CodeLlamaTokenizer",
    "CohereTokenizer",
    "ConvBertTokenizer",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "EsmcTokenizer",
    "FNetTokenizer",
    "FunnelTokenizer",
    "GemmaTokenizer",
    "HerbertTokenizer",
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MBart50Tokenizer",
    "MBartTokenizer",
    "MLukeTokenizer",
    "MPNetTokenizer",
    "MarkupLMTokenizer",
    "NllbTokenizer",
    "NougatTokenizer",
    "OpenAIGPTTokenizer",
    "PegasusTokenizer",
    "Qwen3_5Tokenizer",
    "ReformerTokenizer",
    "RemBertTokenizer",
    "RoFormerTokenizer",
    "SeamlessM4TTokenizer",
    "Siglip2Tokenizer",
    "SplinterTokenizer",
    "UdopTokenizer",
    "WhisperTokenizer",
    "XGLMTokenizer",
];

/// Returns the class of a folder; that of BERT for a mere `vocab.txt`. `json` is the text of its `tokenizer.json`,
/// `settings` its `tokenizer_config.json`.
///
/// # Errors
/// Exit 2: `config.json` is not JSON; a class that this program cannot rebuild, by name.
pub fn of_folder(dir: &Path, json: Option<&str>, settings: &Value) -> Result<Class> {
    let config = json_of(&dir.join("config.json"))?;
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let own = |json: &Value| json.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
    let (file, named) = match own(settings) {
        Some(class) => ("tokenizer_config.json", Some(class)),
        None => ("config.json", own(&config)),
    };
    let refused = |class: &str, why: &str| {
        let path = dir.join(file);
        let remedy = "\"PreTrainedTokenizerFast\" instead uses tokenizer.json as it is, here and in transformers";
        Error::input(format!("{}: tokenizer_class {class:?} {why}; {remedy}", path.display()))
    };
    let known = |class: &str| match class.strip_suffix("Fast").unwrap_or(class) {
        class if PYTHON.contains(&class) => {
            Err(refused(class, "splits texts in Python code, so this program cannot tokenize as it does"))
        }
        class if OTHER.contains(&class) => Err(refused(class, "rebuilds its tokenizer in a way not supported here")),
        class => Ok(CLASSES.iter().find(|(name, _)| *name == class).map(|(_, class)| *class)),
    };
    let registered = REGISTERED.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class);
    let only_registered = REGISTERED_ONLY.contains(&model_type);
    let Some(named) = named else {
        let is_bare = model_type.is_empty() && json.is_none();
        if is_bare && dir.join("vocab.txt").exists() {
            return Ok(Class::Bert);
        }
        return Ok(registered.map(known).transpose()?.flatten().unwrap_or(Class::Backend));
    };
    let class = match registered {
        Some(registered) if only_registered => known(registered)?,
        // Folders of Llama 3 name a class that is not theirs.
        _ if base(&named) == "LlamaTokenizer" && json.is_some_and(|json| json.contains("\"ByteLevel\"")) => None,
        Some("TokenizersBackend") => None,
        _ => known(&named)?,
    };
    let runs_code = settings.get("auto_map").is_some_and(|map| map.is_array() || map.get("AutoTokenizer").is_some());
    if class.is_none() && runs_code && !only_registered {
        return Err(refused(&named, "runs Python code of the model's own (auto_map)"));
    }
    Ok(class.unwrap_or(Class::Backend))
}

/// Whether `tokenizer_config.json` names the class that uses `tokenizer.json` as it is.
pub fn is_backend(settings: &Value) -> bool {
    let class = settings.get("tokenizer_class").and_then(Value::as_str).map(base);
    class.is_some_and(|class| matches!(class, "PreTrainedTokenizer" | "TokenizersBackend"))
}

/// Whether the class of a folder depends on its `model_type` alone.
///
/// # Errors
/// `config.json` is not JSON (exit 2).
pub fn is_fixed(dir: &Path) -> Result<bool> {
    let config = json_of(&dir.join("config.json"))?;
    Ok(config.get("model_type").and_then(Value::as_str).is_some_and(|kind| REGISTERED_ONLY.contains(&kind)))
}

fn base(class: &str) -> &str {
    class.strip_suffix("Fast").unwrap_or(class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn class(model_type: &str, settings: Value, json: Option<&str>) -> Result<Class> {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({"model_type": model_type});
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        of_folder(dir.path(), json, &settings)
    }

    #[test]
    fn the_class_depends_on_model_type_and_files() {
        let of = |model_type: &str, name: &str| class(model_type, json!({"tokenizer_class": name}), None).unwrap();
        assert_eq!(class("gpt2", Value::Null, None).unwrap(), Class::Gpt2);
        assert_eq!(class("llama", Value::Null, None).unwrap(), Class::Backend);
        assert_eq!(of("gpt2", "PreTrainedTokenizerFast"), Class::Backend);
        assert_eq!(of("bert", "DistilBertTokenizerFast"), Class::Bert);
        assert_eq!(of("roberta", "XLMRobertaTokenizer"), Class::XlmRoberta);
        assert_eq!(
            (of("mistral", "LlamaTokenizerFast"), of("modernbert", "BertTokenizer")),
            (Class::Backend, Class::Backend)
        );
        assert_eq!(
            (of("qwen2", "PreTrainedTokenizerFast"), of("qwen3", "TokenizersBackend")),
            (Class::Qwen2, Class::Backend)
        );
        assert_eq!((of("llama", "LlamaTokenizer"), of("bert", "NoSuchTokenizer")), (Class::Llama, Class::Backend));
        let bytes = Some(r#"{"decoder": {"type": "ByteLevel"}}"#);
        assert_eq!(class("llama", json!({"tokenizer_class": "LlamaTokenizerFast"}), bytes).unwrap(), Class::Backend);
    }

    #[test]
    fn classes_that_cannot_be_rebuilt_are_named() {
        for (name, why) in [
            ("BertJapaneseTokenizer", "splits texts in Python code"),
            ("PhobertTokenizer", "splits texts in Python code"),
            ("DebertaV2TokenizerFast", "rebuilds its tokenizer"),
        ] {
            let message = class("bert", json!({"tokenizer_class": name}), None).unwrap_err().to_string();
            let name = name.trim_end_matches("Fast");
            assert!(message.contains("tokenizer_config.json: ") && message.contains(name), "{message}");
            assert!(message.contains(why) && message.contains("PreTrainedTokenizerFast"), "{message}");
        }
        let own = json!({"tokenizer_class": "XTokenizer", "auto_map": {"AutoTokenizer": ["x.XTokenizer", null]}});
        assert!(class("llama", own, None).unwrap_err().to_string().contains("auto_map"));
    }
}
