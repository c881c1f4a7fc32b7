//! The keys of a GGUF file (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, "Standardized key-value pairs").

use crate::checkpoint::gguf::encoding::Encoding;
use crate::checkpoint::gguf::metadata::{ALIGNMENT, Value};
use crate::models::llama_cpp::{Description, Number};
use crate::text::chat_template::TemplateSource;
use crate::text::llama_cpp::LlamaCppTokenizer;

/// The version of the quantized types.
const QUANTIZATION: u32 = 2;
/// Parts of a model's name by which llama.cpp strips the blanks after its special tokens.
const STRIPPING: [&str; 2] = ["phi-3", "phi3"];

/// Returns the keys of a model called `title`.
pub fn keys(
    title: &str,
    encoding: Encoding,
    model: &Description,
    tokenizer: &LlamaCppTokenizer,
    templates: &[TemplateSource],
) -> Vec<(String, Value)> {
    let mut keys = vec![
        ("general.architecture".to_owned(), text(model.architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.alignment".to_owned(), Value::Integer(ALIGNMENT as u32)),
        ("general.file_type".to_owned(), Value::Integer(encoding.file_type())),
    ];
    let lower = title.to_lowercase();
    if !STRIPPING.iter().any(|name| lower.contains(name)) {
        keys.push(("general.name".to_owned(), text(title)));
    }
    if encoding == Encoding::Q8_0 {
        keys.push(("general.quantization_version".to_owned(), Value::Integer(QUANTIZATION)));
    }
    keys.extend(model.keys.iter().map(|&(key, number)| {
        let value = match number {
            Number::Integer(number) => Value::Integer(number),
            Number::Real(number) => Value::Real(number),
            Number::Word(word) => text(word),
        };
        (format!("{}.{key}", model.architecture), value)
    }));
    let mut set = |key: &str, value: Value| keys.push((format!("tokenizer.ggml.{key}"), value));
    set("model", text(tokenizer.model));
    set("pre", text(tokenizer.pre));
    set("tokens", Value::Texts(tokenizer.tokens.clone()));
    if !tokenizer.scores.is_empty() {
        set("scores", Value::Reals(tokenizer.scores.clone()));
    }
    set("token_type", Value::Integers(tokenizer.types.clone()));
    if !tokenizer.merges.is_empty() {
        set("merges", Value::Texts(tokenizer.merges.clone()));
    }
    for &(key, id) in &tokenizer.special {
        set(key, Value::Integer(id));
    }
    set("add_bos_token", Value::Flag(tokenizer.adds_bos));
    // llama.cpp would add it to prompts.
    set("add_eos_token", Value::Flag(false));
    if let Some(space) = tokenizer.adds_space {
        set("add_space_prefix", Value::Flag(space));
    }
    let others: Vec<String> =
        templates.iter().map(|template| template.name.clone()).filter(|name| name != "default").collect();
    for template in templates {
        let key = match template.name.as_str() {
            "default" => "tokenizer.chat_template".to_owned(),
            name => format!("tokenizer.chat_template.{name}"),
        };
        keys.push((key, text(&template.without_marks())));
    }
    if !others.is_empty() {
        keys.push(("tokenizer.chat_templates".to_owned(), Value::Texts(others)));
    }
    keys
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
