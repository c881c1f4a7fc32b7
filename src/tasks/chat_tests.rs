//! Compares encoded conversations with transformers, and tests truncation.

use super::*;
use crate::data::prepare::{Prepared, prepare};
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
    prepared_as(dir, content, max_length, false)
}

fn prepared_as(dir: &tempfile::TempDir, content: &str, max_length: usize, split_turns: bool) -> Result<Prepared> {
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, content).unwrap();
    let source = ConversationSource::usual(path);
    prepare(&Chat { source, max_length, split_turns }, dir.path(), Some(&dir.path().join("cache")))
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
                let rendered = template.render(&messages, tools.as_ref(), &Kwargs::new()).unwrap();
                assert_eq!(rendered.text, case["text"].as_str().unwrap(), "{what}");
                let prompt = template.prompt(&messages[..messages.len() - 1], tools.as_ref(), &Kwargs::new()).unwrap();
                assert_eq!(prompt, case["prompt"].as_str().unwrap(), "{what}");

                let tokens = writer
                    .write(&Said::Messages { messages, tools, without_loss: Vec::new() }, &Kwargs::new(), false)
                    .unwrap()
                    .pop()
                    .unwrap();
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

/// A template that renders reasoning only in the last answer, with and without `{% generation %}`.
const FORGETS: &str = "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}GEN{% if loop.last %}\
    {{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}</s>END{% else %}{{ m.content }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

#[test]
fn conversations_can_be_split_into_their_answers() {
    let turns =
        [("user", "one"), ("assistant", "<think>a</think>A"), ("user", "two"), ("assistant", "<think>b</think>B")];
    let messages = turns.map(|(role, content)| json!({"role": role, "content": content}));
    let content = json!({"messages": messages}).to_string();
    let marks = [["", ""], ["{% generation %}", "{% endgeneration %}"]];
    for (i, [before, after]) in marks.into_iter().enumerate() {
        let template = FORGETS.replace("GEN", before).replace("END", after);
        let dir = folder(&json!({"eos_token": "</s>"}), Some(&json!(template)));
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let split = prepared_as(&dir, &content, 512, true).unwrap().dataset;
        let wanted = [
            ("[user]one[assistant]", "<think>a</think>A</s>"),
            ("[user]one[assistant]A</s>[user]two[assistant]", "<think>b</think>B</s>"),
        ];
        assert_eq!(split.len(), 2);
        for (example, (prompt, answer)) in wanted.into_iter().enumerate() {
            let text = format!("{prompt}{answer}");
            assert_eq!(split.ids(example), tokenizer.ids(&text).unwrap(), "{text}");
            let Label::Tokens(labels) = split.label(example) else { panic!() };
            let learned: Vec<u32> = labels.iter().filter(|&&id| id != NO_LABEL).map(|id| id.cast_unsigned()).collect();
            assert_eq!(learned, tokenizer.ids(answer).unwrap(), "{template}");
        }
        let whole = prepared(&dir, &content, 512);
        assert_eq!(whole.is_ok(), i == 1);
        if let Err(e) = whole {
            let e = e.to_string();
            assert!(
                e.contains("cannot locate the answer of message 2") && e.contains("set task.split_turns = true"),
                "{e}"
            );
        }
    }
}

/// The same template with the content as parts, and with tools whose schema has nulls.
#[test]
fn parts_and_nulls_do_not_change_the_text() {
    let template = json!(
        "{{ tools | tojson if tools else '' }}{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}\
                          {% if add_generation_prompt %}[assistant]{% endif %}"
    );
    let dir = folder(&json!({"eos_token": "</s>"}), Some(&template));
    let said = |user: Value, answer: Value, tool: Value| {
        let messages = [json!({"role": "user", "content": user}), json!({"role": "assistant", "content": answer})];
        json!({"messages": messages, "tools": [tool]}).to_string()
    };
    let plain = said(json!("ab"), json!("c"), json!({"a": 1}));
    let parts = json!([{"type": "text", "text": "a", "image": null}, {"type": "text", "text": "b"}]);
    let other = said(parts, json!([{"type": "text", "text": "c"}]), json!({"a": 1, "b": null}));
    let [plain, other] = [plain, other].map(|content| prepared(&dir, &content, 512).unwrap());
    assert_eq!((plain.dataset.ids(0), plain.dataset.label(0)), (other.dataset.ids(0), other.dataset.label(0)));
    assert!(plain.facts.remarks.is_empty());
    assert!(
        other.facts.remarks[0].contains("null values in tools and tool calls of 1 records"),
        "{:?}",
        other.facts.remarks
    );
    let image =
        r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "c"}]}"#;
    let e = prepared(&dir, image, 512).err().unwrap().to_string();
    assert!(e.contains("a.jsonl:1: message 1: part 1 of the content is of type \"image\""), "{e}");
}

#[test]
fn line_ends_of_templates_are_newlines() {
    let template = json!("{% for m in messages %}\r\n[{{ m.role }}]\r\n{{ m.content }}</s>{% endfor %}\r\n");
    let dir = folder(&json!({"eos_token": "</s>"}), Some(&template));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let template = ChatTemplate::of_folder(dir.path(), tokenizer.special_texts()).unwrap().unwrap();
    let said = json!([{"role": "user", "content": "a\r\n"}]);
    assert_eq!(template.prompt(said.as_array().unwrap(), None, &Kwargs::new()).unwrap(), "[user]\na\r\n</s>");
}

#[test]
fn named_templates_are_selected_by_tools() {
    let named = |name: &str, text: &str| json!({"name": name, "template": format!("{text}{{% generation %}}b{{% endgeneration %}}")});
    let dir = folder(&json!({"chat_template": [named("default", "x"), named("tool_use", "y")]}), None);
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let template = ChatTemplate::of_folder(dir.path(), tokenizer.special_texts()).unwrap().unwrap();
    assert_eq!(template.render(&[], None, &Kwargs::new()).unwrap().text, "xb");
    let with_tools = template.render(&[], Some(&json!([])), &Kwargs::new()).unwrap();
    assert_eq!((with_tools.text.as_str(), with_tools.answers.as_slice()), ("yb", std::slice::from_ref(&(1..2))));
}

/// In `transformers` they overwrite special tokens too.
#[test]
fn a_record_may_have_variables_for_its_template() {
    let template = json!(
        "{{ eos_token }}{% if thinks is defined %}{{ thinks }}{% endif %}{{ documents is none }}\
         {% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}"
    );
    let dir = folder(&json!({"eos_token": "</s>"}), Some(&template));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    let writer = Writer::new(&tokenizer).unwrap();
    let template = writer.template.as_ref().unwrap();
    let kwargs = json!({"thinks": false, "eos_token": "x", "documents": []}).as_object().unwrap().clone();
    let messages = [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"})];
    let text = |kwargs: &Kwargs| template.render(&messages, None, kwargs).unwrap().text;
    assert_eq!([text(&Kwargs::new()), text(&kwargs)], ["</s>Trueab</s>", "xFalseFalseab</s>"]);
    assert_eq!(template.prompt(&messages[..1], None, &kwargs).unwrap(), "xFalseFalsea");
    assert_eq!(template.render_turns(&messages, None, &kwargs).unwrap()[0].text, "xFalseFalseab</s>");

    let pair = Said::Pair { prompt: "a".into(), completion: "b".into() };
    let ids = |kwargs: &Kwargs| writer.write(&pair, kwargs, false).unwrap().remove(0).ids;
    assert_eq!(ids(&kwargs), tokenizer.ids("xFalseFalseab</s>").unwrap());
    let record = |kwargs: &Value| json!({"prompt": "a", "completion": "b", "chat_template_kwargs": kwargs});
    let content = [record(&json!(kwargs)), record(&Value::Null)].map(|record| format!("{record}\n")).concat();
    let data = prepared(&dir, &content, 512).unwrap().dataset;
    assert_eq!([data.ids(0), data.ids(1)], [ids(&kwargs), ids(&Kwargs::new())]);
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
