use super::*;

fn read(content: &str) -> Result<Records<Conversation>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    std::fs::write(&path, content).unwrap();
    super::read(&ConversationSource::usual(path))
}

#[test]
fn both_layouts_are_read() {
    let content = r#"{"prompt": "a", "completion": "b", "messages": null}
{"messages": [{"role": "user", "content": "a", "name": null}, {"role": "assistant", "content": "b", "x": 1}], "tools": []}"#;
    let records = read(content).unwrap().records;
    assert_eq!(records[0].said, Said::Pair { prompt: "a".into(), completion: "b".into() });
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "x": 1}]);
    let (Value::Array(messages), tools) = (messages, Some(json!([]))) else { unreachable!() };
    let said = Said::Messages { messages, tools, without_loss: Vec::new() };
    assert_eq!(records[1], Conversation { line: 2, said, kwargs: Kwargs::new(), nulls: 0 });
}

#[test]
fn parts_are_joined_and_nested_nulls_left_out() {
    let call = json!({"function": {"name": "f", "arguments": {"x": 1, "y": null}}});
    let parts = json!([{"type": "text", "text": "a", "image": null}, {"type": "text", "text": "b"}]);
    let content = json!({
        "messages": [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "content": [{"type": "text", "text": "c"}]},
        ],
        "tools": [{"function": {"name": "f", "parameters": null}}],
    });
    let records = read(&content.to_string()).unwrap().records;
    let Said::Messages { messages, tools, .. } = &records[0].said else { panic!() };
    let calls = json!([{"function": {"name": "f", "arguments": {"x": 1}}}]);
    let wanted = json!([
        {"role": "user", "content": "ab"},
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "content": "c"},
    ]);
    assert_eq!(json!(messages), wanted);
    assert_eq!(tools, &Some(json!([{"function": {"name": "f"}}])));
    assert_eq!(records[0].nulls, 2);
}

/// Returns what a record says, with the column `chosen` as the setting's, or as usual.
fn says(line: &str, setting: &str) -> Result<Said, String> {
    let names = ["prompt", "completion", "messages"].map(|name| if name == setting { "chosen" } else { name }.into());
    let [prompt, completion, messages] = names;
    let source = ConversationSource { prompt, completion, messages, ..ConversationSource::usual("a") };
    said(serde_json::from_str(line).unwrap(), &source)
}

fn said_by(turns: &[(&str, &str)], without_loss: &[usize]) -> Result<Said, String> {
    let messages = turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
    Ok(Said::Messages { messages, tools: None, without_loss: without_loss.to_vec() })
}

#[test]
fn other_forms_are_recognized() {
    let turns = [("system", "s"), ("user", "a"), ("assistant", "b")];
    for line in [
        r#"{"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b", "weight": 1}], "tools": ""}"#,
        r#"{"conversation": [{"role": "User", "content": "a"}, {"role": "gpt", "value": "b"}], "system": "s"}"#,
        r#"{"instruction": "a", "input": "", "output": "b", "system": "s", "history": []}"#,
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "model", "content": "b"}], "prompt": "a", "completion": null}"#,
        r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
            "completion": [{"role": "assistant", "content": "b"}]}"#,
    ] {
        assert_eq!(says(line, ""), said_by(&turns, &[]), "{line}");
    }
    let pair = |prompt: &str| Ok(Said::Pair { prompt: prompt.into(), completion: "c".into() });
    assert_eq!(says(r#"{"instruction": "a", "input": "b", "output": "c", "history": null}"#, ""), pair("a\nb"));
    assert_eq!(says(r#"{"instruction": "a", "output": "c"}"#, ""), pair("a"));
    let history = r#"{"instruction": "c", "output": "d", "history": [["a", "b"]]}"#;
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    assert_eq!(says(history, ""), said_by(&turns, &[]));
    let tool = r#"{"conversations": [{"from": "observation", "value": "o"}, {"from": "gpt", "value": "b"}],
                   "tools": "[{\"name\": \"f\"}]"}"#;
    let Said::Messages { messages, tools, .. } = says(tool, "").unwrap() else { panic!() };
    assert_eq!((&messages[0]["role"], tools), (&json!("tool"), Some(json!([{"name": "f"}]))));
}

#[test]
fn answers_of_the_prompt_and_of_weight_zero_have_no_loss() {
    let turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];
    let message = |n: usize, more: &str| format!(r#"{{"role": "{}", "content": "{}"{more}}}"#, turns[n].0, turns[n].1);
    let plain = |n| message(n, "");
    let line = format!(r#"{{"prompt": [{}, {}, {}], "completion": [{}]}}"#, plain(0), plain(1), plain(2), plain(3));
    assert_eq!(says(&line, ""), said_by(&turns, &[0]));
    let weighted = |first: &str, second: &str| {
        let parts = [plain(0), message(1, first), plain(2), message(3, second)];
        says(&format!(r#"{{"messages": [{}]}}"#, parts.join(", ")), "")
    };
    assert_eq!(weighted(r#", "weight": 1"#, r#", "weight": 0.0"#), said_by(&turns, &[1]));
    assert!(weighted(r#", "weight": 0"#, r#", "weight": 0"#).unwrap_err().contains("nothing to train on"));
    assert!(weighted(r#", "weight": 0.5"#, "").unwrap_err().contains("must be 0 or 1"));
    assert_eq!(weighted(r#", "train": false"#, r#", "training": true"#), said_by(&turns, &[0]));
    assert_eq!(weighted(r#", "train": true, "weight": 0"#, r#", "train": true"#), said_by(&turns, &[0]));
    assert!(weighted(r#", "train": 0"#, "").unwrap_err().contains("must be true or false"));
}

/// The advice for each form of a preference pair reads it.
#[test]
fn a_preference_pair_is_read_as_its_message_says() {
    let user = r#"{"role": "user", "content": "a"}"#;
    let answer = r#"{"role": "assistant", "content": "b"}"#;
    let turns = [("user", "a"), ("assistant", "b")];
    for (line, setting, expected) in [
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#.to_owned(),
            "completion",
            Ok(Said::Pair { prompt: "a".into(), completion: "b".into() }),
        ),
        (
            format!(r#"{{"prompt": [{user}], "chosen": [{answer}], "rejected": [{answer}]}}"#),
            "completion",
            said_by(&turns, &[]),
        ),
        (format!(r#"{{"chosen": [{user}, {answer}], "rejected": [{user}]}}"#), "messages", said_by(&turns, &[])),
        (
            format!(r#"{{"prompt": "a", "chosen": [{user}, {answer}], "rejected": [{user}]}}"#),
            "messages",
            said_by(&turns, &[]),
        ),
    ] {
        let why = says(&line, "").unwrap_err();
        assert!(why.contains("preference pair") && why.contains(&format!("{setting}_column = \"chosen\"")), "{why}");
        assert_eq!(says(&line, setting), expected, "{line}");
    }
    let texts = says(r#"{"chosen": "a b", "rejected": "a c"}"#, "").unwrap_err();
    assert!(texts.contains("set kind = \"causal-lm\" and text_column = \"chosen\""), "{texts}");
}

#[test]
fn errors_name_the_problem() {
    let of = |message: &str| format!("{{\"messages\": [{message}]}}");
    for (line, expected) in [
        ("{\"text\": 1}".to_owned(), "no column \"messages\"; the record has \"text\": set messages_column, or prompt"),
        (r#"{"prompt": "a"}"#.to_owned(), "no column \"completion\""),
        (r#"{"prompt": 1, "completion": "b"}"#.to_owned(), "column \"prompt\" is a number; it must be a string"),
        (r#"{"prompt": "a", "completion": ""}"#.to_owned(), "the completion is empty"),
        (r#"{"prompt": "a", "completion": "b", "messages": []}"#.to_owned(), "both \"messages\" and"),
        (r#"{"prompt": "a", "completion": "\ufdd0"}"#.to_owned(), "U+FDD0"),
        (r#"{"messages": "a"}"#.to_owned(), "is a string; it must be a list of messages"),
        (r#"{"messages": [], "tools": {}}"#.to_owned(), "\"tools\" is an object"),
        (r#"{"messages": [], "tools": [{}, "{}"]}"#.to_owned(), "tool 2 is a string; it must be an object"),
        (of(""), "no message has the role assistant"),
        (of(r#"{"role": "user", "content": "a"}"#), "no message has the role assistant"),
        (of("3"), "message 1: found a number"),
        (
            of(r#"{"role": "user", "content": "a"}, {"role": "bot", "content": "a"}"#),
            "message 2: the role \"bot\" is not",
        ),
        (of(r#"{"by": "user", "content": "a"}"#), "message 1: no role"),
        (of(r#"{"role": 1, "content": "a"}"#), "message 1: the role is a number"),
        (of(r#"{"role": "user"}"#), "message 1: no content"),
        (of(r#"{"role": "user", "content": [1]}"#), "message 1: part 1 of the content is a number"),
        (
            of(r#"{"role": "user", "content": [{"type": "image"}]}"#),
            "message 1: part 1 of the content is of type \"image\"; only text parts are supported",
        ),
        (of(r#"{"role": "user", "content": {}}"#), "message 1: the content is an object; it must be a string or"),
        (of(r#"{"role": "assistant", "content": ""}"#), "message 1: the assistant's content is empty"),
    ] {
        let message = read(&format!("{line}\n")).unwrap_err().to_string();
        assert!(message.contains("a.jsonl:1: ") && message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn a_record_may_have_variables_for_the_template() {
    let of = |kwargs: &str| {
        let line = format!(r#"{{"prompt": "a", "completion": "b", "chat_template_kwargs": {kwargs}}}"#);
        read(&line).map(|read| Value::Object(read.records[0].kwargs.clone())).map_err(|e| e.to_string())
    };
    let kwargs = r#"{"enable_thinking": false, "date": null, "documents": [{"title": "t", "id": null}]}"#;
    let wanted = json!({"enable_thinking": false, "documents": [{"title": "t"}]});
    assert_eq!(of(kwargs), Ok(wanted.clone()));
    assert_eq!(of(&json!(kwargs).to_string()), Ok(wanted), "JSON of an object, as in a cell of CSV");
    for none in ["null", "{}", "\"\""] {
        assert_eq!(of(none), Ok(json!({})), "{none}");
    }
    for (wrong, why) in [
        ("[]", "\"chat_template_kwargs\" is an array; it must be an object"),
        ("\"x\"", "\"chat_template_kwargs\" is a string; it must be an object"),
        (r#"{"tools": []}"#, "\"chat_template_kwargs\" has the key \"tools\""),
    ] {
        let message = of(wrong).unwrap_err();
        assert!(message.contains(&format!("a.jsonl:1: {why}")), "{message}");
    }
}

#[test]
fn a_rejected_answer_is_not_trained_on() {
    let line = |label: &str| format!(r#"{{"prompt": "a", "completion": "b", "label": {label}}}"#);
    let pair = Said::Pair { prompt: "a".into(), completion: "b".into() };
    assert_eq!(says(&line("true"), ""), Ok(pair.clone()));
    assert_eq!(says(&line("\"x\""), ""), Ok(pair));
    let why = says(&line("false"), "").unwrap_err();
    assert!(why.starts_with("\"label\" is false, so \"completion\" is a rejected answer"), "{why}");
}
