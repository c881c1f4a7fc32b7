//! Compares encoded conversations with transformers, and tests truncation.

use super::*;
use crate::data::prepare::{Prepared, prepare};
use crate::text::records::OnBad;
use std::path::PathBuf;

fn reference() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/chat/templates.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Creates a folder with the reference tokenizer, these special tokens and an optional template.
fn folder(special: &Value, template: Option<&Value>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/chat/tokenizer.json");
    std::fs::copy(tokenizer, dir.path().join("tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), special.to_string()).unwrap();
    if let Some(template) = template {
        std::fs::write(dir.path().join("chat_template.jinja"), template.as_str().unwrap()).unwrap();
    }
    dir
}

fn prepared(dir: &tempfile::TempDir, content: &str, max_length: usize) -> Result<Prepared> {
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, content).unwrap();
    let [prompt, completion, messages] = ["prompt", "completion", "messages"].map(String::from);
    let source = ConversationSource {
        files: path.into(),
        format: None,
        prompt,
        completion,
        messages,
        on_bad_record: OnBad::Error,
    };
    prepare(&Chat { source, max_length }, dir.path(), Some(&dir.path().join("cache")))
}

/// Texts, tokens, answers and prompts of every template, marked and not.
#[test]
fn templates_are_those_of_transformers() {
    for (name, family) in reference().as_object().unwrap() {
        for kind in ["tagged", "plain"] {
            let dir = folder(&family["special"], Some(&family[kind]));
            let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
            let writer = Writer::new(&tokenizer).unwrap();
            let template = writer.template.as_ref().unwrap();
            for (i, case) in family["cases"].as_array().unwrap().iter().enumerate() {
                let what = format!("{name}, {kind}, conversation {i}");
                let messages = case["messages"].as_array().unwrap().clone();
                let tools = Some(case["tools"].clone()).filter(|tools| !tools.is_null());
                let rendered = template.render(&messages, tools.as_ref()).unwrap();
                assert_eq!(rendered.text, case["text"].as_str().unwrap(), "{what}");
                let prompt = template.prompt(&messages[..messages.len() - 1], tools.as_ref()).unwrap();
                assert_eq!(prompt, case["prompt"].as_str().unwrap(), "{what}");

                let tokens = writer.write(&Said::Messages { messages, tools }).unwrap();
                assert_eq!(json!(tokens.ids), case["ids"], "{what}");
                let answers: Vec<u8> = tokens.labels.iter().map(|&label| u8::from(label != NO_LABEL)).collect();
                assert_eq!(json!(answers), case["answers"], "{what}");
                let labelled = tokens.ids.iter().zip(&tokens.labels).filter(|(_, label)| **label != NO_LABEL);
                assert!(labelled.into_iter().all(|(&id, &label)| id.cast_signed() == label), "{what}");
            }
        }
    }
}

/// Zephyr's end of text is its padding too: it has a label all the same.
#[test]
fn a_prompt_with_its_completion_goes_through_the_template() {
    let all = reference();
    let family = &all["zephyr"];
    let dir = folder(&family["special"], Some(&family["plain"]));
    let data = prepared(&dir, "{\"prompt\": \"What is 2 + 2?\", \"completion\": \"It is 4.\"}\n", 512).unwrap();
    assert_eq!(json!(data.dataset.ids(0)), family["cases"][0]["ids"]);
    let Label::Tokens(labels) = data.dataset.label(0) else { panic!() };
    let eos = data.dataset.ids(0).iter().rposition(|&id| id == 2).unwrap();
    assert_eq!((labels[eos], labels[eos + 1]), (2, NO_LABEL));
    assert_eq!(data.dataset.collation(), &Collation::NextToken);
}

#[test]
fn without_a_template_the_texts_are_joined() {
    let dir = folder(&json!({"eos_token": "</s>"}), None);
    let content = r#"{"prompt": "Hi", "completion": " yes"}
{"prompt": "Hi", "completion": "yes</s>"}"#;
    let data = prepared(&dir, content, 512).unwrap().dataset;
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    for (i, text) in ["Hi yes</s>", "Hiyes</s>"].into_iter().enumerate() {
        assert_eq!(data.ids(i), tokenizer.ids(text).unwrap(), "one end of text");
        let Label::Tokens(labels) = data.label(i) else { panic!() };
        assert_eq!(labels[..2], [NO_LABEL; 2]);
        assert!(labels[2..].iter().zip(&data.ids(i)[2..]).all(|(&label, &id)| label == id.cast_signed()));
    }
    let e = prepared(&dir, r#"{"messages": [{"role": "assistant", "content": "a"}]}"#, 512).err().unwrap().to_string();
    assert!(e.contains("a.jsonl:1: messages need a chat template, and ") && e.contains("chat_template.jinja"), "{e}");
}

#[test]
fn truncated_answers_are_reported() {
    let dir = folder(&json!({"eos_token": "</s>"}), None);
    let content = r#"{"prompt": "aaaaaaaa", "completion": "b"}
{"prompt": "a", "completion": "bbbbbbbbb"}
{"prompt": "a", "completion": "b"}"#;
    let data = prepared(&dir, content, 5).unwrap();
    assert_eq!((data.dataset.len(), data.dataset.lengths(), data.facts.truncated), (2, vec![5, 3], 1));
    assert_eq!(data.facts.remarks, ["1 skipped, as max_length = 5 truncates all answers (first: line 1)"]);
    let e = prepared(&dir, content.lines().next().unwrap(), 5).err().unwrap().to_string();
    assert!(e.contains("a.jsonl: no training examples: 1 skipped") && e.contains("raise max_length"), "{e}");
}

#[test]
fn errors_in_templates_name_file_and_line() {
    let message = |template: &str, config: Value, messages: &str| {
        let dir = folder(&config, (!template.is_empty()).then(|| json!(template)).as_ref());
        prepared(&dir, &format!("{{\"messages\": {messages}}}\n"), 512).err().unwrap().to_string()
    };
    let hello = r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    let broken = message("a\n{% if %}", json!({}), hello);
    assert!(broken.contains("chat_template.jinja:2: invalid chat template: "), "{broken}");
    let broken = message("", json!({"chat_template": "a\n{{ x"}), hello);
    assert!(broken.contains("tokenizer_config.json (chat_template):2: invalid chat template"), "{broken}");
    let none = message("", json!({"chat_template": [{"name": "rag", "template": "x"}]}), hello);
    assert!(none.contains("no template is named \"default\""), "{none}");
    let refuses = message("a\n{{ raise_exception('roles!') }}", json!({}), hello);
    assert!(refuses.contains("a.jsonl:1: ") && refuses.contains("chat_template.jinja:2: the chat template rejects"));
    assert!(refuses.contains("roles!"), "{refuses}");
    let other = message("{{ messages | length }}{{ messages[-1].content }}", json!({}), hello);
    assert!(other.contains("cannot locate the answer of message 2"), "{other}");
    assert!(other.contains("{% generation %}"), "{other}");
}

#[test]
fn named_templates_are_selected_by_tools() {
    let named = |name: &str, text: &str| json!({"name": name, "template": format!("{text}{{% generation %}}b{{% endgeneration %}}")});
    let dir = folder(&json!({"chat_template": [named("default", "x"), named("tool_use", "y")]}), None);
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let template = ChatTemplate::of_folder(dir.path(), tokenizer.special_texts()).unwrap().unwrap();
    assert_eq!(template.render(&[], None).unwrap().text, "xb");
    let with_tools = template.render(&[], Some(&json!([]))).unwrap();
    assert_eq!((with_tools.text.as_str(), with_tools.answers.as_slice()), ("yb", std::slice::from_ref(&(1..2))));
}

/// Llama 3 has an end-of-turn token; zephyr uses EOS.
#[test]
fn the_end_of_answers_is_inferred_from_the_template() {
    let all = reference();
    for (name, kind) in all.as_object().unwrap().keys().flat_map(|name| [(name, "plain"), (name, "tagged")]) {
        let family = &all[name];
        let dir = folder(&family["special"], Some(&family[kind]));
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let end = answer_end(&tokenizer).unwrap().map(|id| tokenizer.token(id));
        let expected = match name.as_str() {
            "llama" => "<|eot_id|>",
            "qwen" => "<|im_end|>",
            _ => "</s>",
        };
        assert_eq!(end.as_deref(), Some(expected), "{name} {kind}");
    }
    let dir = folder(&json!({"eos_token": "</s>"}), None);
    assert_eq!(answer_end(&Tokenizer::from_folder(dir.path()).unwrap()).unwrap(), None);
}
