//! Generated texts over HTTP.

use super::{Host, options, request, x};
use crate::serve::generating::tests::Echo;
use crate::serve::prompting::tests::prompting;
use crate::serve::server::Ability;
use crate::serve::{Options, generating};
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer::tests::folder;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

/// Starts a server of texts that repeat their prompts.
fn repeating(options: Options) -> Host {
    let ability = Ability::Generate(Box::new(prompting(json!({}), true)));
    Host::start(options, ability, |exit| {
        let dir = folder();
        generating::generate(exit, 100, &Tokenizer::from_folder(dir.path())?, &mut Echo::default())
    })
}

#[test]
fn texts_come_whole_or_token_by_token() {
    let host = repeating(options());
    let ask = |path: &str, body: Value| host.post(path, &body);
    let whole = ask("/v1/completions", json!({"prompt": "a b", "max_tokens": 5, "seed": 3}));
    let answer = whole.json();
    // The special token at the front is not in the text.
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["usage"]["total_tokens"]),
        (&json!("a b a"), &json!(8)),
        "{answer}"
    );
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-") && answer["object"] == "text_completion", "{answer}");
    let said = json!([{"role": "user", "content": "c"}]);
    let chat = ask("/v1/chat/completions", json!({"messages": said, "max_completion_tokens": 3, "stop": "c"})).json();
    assert_eq!(chat["choices"][0]["message"]["content"], "u ");
    assert_eq!(
        (&chat["choices"][0]["finish_reason"], &chat["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(2))
    );
    // A client sends an earlier answer back, an empty one too.
    let turns = json!([said[0], {"role": "assistant", "content": ""}, said[0]]);
    assert_eq!(ask("/v1/chat/completions", json!({"messages": turns, "max_tokens": 1})).status, 200);

    let body = json!({"messages": said, "max_tokens": 3, "stream": true, "stream_options": {"include_usage": true}});
    let stream = ask("/v1/chat/completions", body);
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let events: Vec<&str> =
        stream.body.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let parts: Vec<Value> = events[..events.len() - 1].iter().map(|part| serde_json::from_str(part).unwrap()).collect();
    let text: String = parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), &parts[parts.len() - 1]["usage"]["completion_tokens"]), ("u c u", &json!(3)));
    // An error is one before the stream begins.
    let refused = ask("/v1/chat/completions", json!({"messages": [], "stream": true}));
    assert_eq!((refused.status, refused.code().as_str()), (400, "invalid_request"));
    assert_eq!(ask("/v1/tags", x(&["x"])).status, 404);
    host.until("trainer_tokens_total{kind=\"generated\"} 11");
    host.end();
}

#[test]
fn a_model_without_a_chat_template_has_no_chats() {
    let ability = Ability::Generate(Box::new(prompting(json!({}), false)));
    let host = Host::start(options(), ability, |exit| {
        let dir = folder();
        generating::generate(exit, 100, &Tokenizer::from_folder(dir.path())?, &mut Echo::default())
    });
    assert_eq!(host.get("/v1/models").json()["data"][0]["routes"], json!(["/v1/completions"]));
    let refused = host.post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}]}));
    assert_eq!((refused.status, refused.code().as_str()), (404, "not_found"));
    let message = "/v1/chat/completions: the model m has no chat template: use /v1/completions";
    assert_eq!(refused.json()["error"]["message"], message);
    assert_eq!(host.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).status, 200);
    host.end();

    let host = repeating(options());
    let routes = json!(["/v1/completions", "/v1/chat/completions"]);
    assert_eq!(host.get("/v1/models").json()["data"][0]["routes"], routes);
    host.end();
}

/// A text whose client leaves is not generated to its end.
#[test]
fn a_stream_ends_with_its_connection() {
    let steps = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&steps);
    let ((step, stepped), (go, gate)) = (channel(), channel::<()>());
    let ability = Ability::Generate(Box::new(prompting(json!({"max_new_tokens": 12}), false)));
    let host = Host::start(options(), ability, move |exit| {
        let after = move |n| {
            *counted.lock().unwrap() = n;
            _ = step.send(());
            // After the test nothing waits.
            _ = gate.recv();
        };
        let mut echo = Echo::watched(after);
        let dir = folder();
        generating::generate(exit, 100, &Tokenizer::from_folder(dir.path())?, &mut echo)
    });
    let mut stream = host.connect();
    stream.write_all(&request("POST", "/v1/completions", "", b"{\"prompt\": \"a\", \"stream\": true}")).unwrap();
    for _ in 0..3 {
        stepped.recv().unwrap();
        go.send(()).unwrap();
    }
    stepped.recv().unwrap();
    let mut some = [0; 16];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    host.until("trainer_requests_total{route=\"/v1/completions\",status=\"200\"} 1");
    drop(go);
    host.end();
    assert_eq!(*steps.lock().unwrap(), 4);
}
