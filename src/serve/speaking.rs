//! Answers of OpenAI's API for completions and chat completions: whole, or as server-sent events.

use super::queue::{Ended, Event};
use crate::generate::continuous::End;
use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc::UnboundedReceiver;

/// The end of the events.
const DONE: &str = "data: [DONE]\n\n";

/// What all parts of an answer have in common.
#[derive(Debug, Clone)]
pub struct Answer {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub chat: bool,
    pub prompt_tokens: usize,
    pub include_usage: bool,
}

impl Answer {
    /// Returns the whole answer.
    pub fn whole(&self, ended: &Ended) -> Value {
        let reason = reason(ended.end);
        let (object, choice) = match self.chat {
            true => {
                let message = json!({"role": "assistant", "content": ended.text});
                ("chat.completion", json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason}))
            }
            false => {
                let text = &ended.text;
                ("text_completion", json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason}))
            }
        };
        let mut answer = self.object(object, json!([choice]));
        answer.insert("usage".into(), self.usage(ended.tokens));
        Value::Object(answer)
    }

    /// Returns the event before the first part of a text.
    fn begin(&self) -> Option<String> {
        self.chat.then(|| self.part(&json!({"role": "assistant", "content": ""}), Value::Null))
    }

    /// Returns the events for what has happened to the text.
    fn events(&self, event: &Event) -> Vec<String> {
        match event {
            Event::Text(text) if self.chat => vec![self.part(&json!({"content": text}), Value::Null)],
            Event::Text(text) => vec![self.part(&json!(text), Value::Null)],
            Event::End(ended) => {
                let empty = if self.chat { json!({}) } else { json!("") };
                let usage = self.include_usage.then(|| {
                    let mut last = self.object(self.name(), json!([]));
                    last.insert("usage".into(), self.usage(ended.tokens));
                    data(&Value::Object(last))
                });
                let last = self.part(&empty, json!(reason(ended.end)));
                [last].into_iter().chain(usage).chain([DONE.to_owned()]).collect()
            }
            Event::Failed(failure) => vec![data(&failure.json())],
        }
    }

    fn name(&self) -> &'static str {
        if self.chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn part(&self, content: &Value, reason: Value) -> String {
        let key = if self.chat { "delta" } else { "text" };
        let choice = json!({"index": 0, key: content, "logprobs": null, "finish_reason": reason});
        let mut part = self.object(self.name(), json!([choice]));
        if self.include_usage {
            part.insert("usage".into(), Value::Null);
        }
        data(&Value::Object(part))
    }

    fn object(&self, name: &str, choices: Value) -> Map<String, Value> {
        Map::from_iter([
            ("id".to_owned(), json!(self.id)),
            ("object".to_owned(), json!(name)),
            ("created".to_owned(), json!(self.created)),
            ("model".to_owned(), json!(self.model)),
            ("choices".to_owned(), choices),
        ])
    }

    fn usage(&self, tokens: usize) -> Value {
        let prompt = self.prompt_tokens;
        json!({"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens})
    }
}

fn reason(end: End) -> &'static str {
    match end {
        End::Eos => "stop",
        End::Length => "length",
    }
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// The body of an answer that is sent token by token. Dropping it ends the text.
pub struct Stream {
    answer: Answer,
    events: UnboundedReceiver<Event>,
    /// What is to be sent before the next event.
    ready: VecDeque<String>,
    ended: bool,
}

impl Stream {
    /// `first` is the first event, which was awaited to know the status of the answer.
    pub fn new(answer: Answer, first: &Event, events: UnboundedReceiver<Event>) -> Self {
        let ready = answer.begin().into_iter().chain(answer.events(first)).collect();
        Stream { answer, events, ready, ended: is_last(first) }
    }
}

fn is_last(event: &Event) -> bool {
    !matches!(event, Event::Text(_))
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(text) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.events.poll_recv(cx)) {
                Some(event) => {
                    this.ended = is_last(&event);
                    this.ready.extend(this.answer.events(&event));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::failure::Failure;
    use std::future::poll_fn;
    use tokio::sync::mpsc;

    fn answer(chat: bool, include_usage: bool) -> Answer {
        let (id, model) = ("x-1".to_owned(), "m".to_owned());
        Answer { id, created: 7, model, chat, prompt_tokens: 3, include_usage }
    }

    fn ended(end: End) -> Event {
        Event::End(Ended { end, tokens: 2, text: "a b".into() })
    }

    /// The data of each event of a stream, `[DONE]` as a string.
    fn stream(answer: Answer, events: &[Event]) -> Vec<Value> {
        let (sender, receiver) = mpsc::unbounded_channel();
        events[1..].iter().for_each(|event| sender.send(event.clone()).unwrap());
        drop(sender);
        let mut stream = Stream::new(answer, &events[0], receiver);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut text = String::new();
        runtime.block_on(async {
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut stream).poll_frame(cx)).await {
                text.push_str(std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap());
            }
        });
        let all: Vec<&str> = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
        all.iter().map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
    }

    #[test]
    fn whole_answers_have_the_form_of_openai() {
        let Event::End(ended) = ended(End::Length) else { unreachable!("an end") };
        let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let message = json!({"role": "assistant", "content": "a b"});
        assert_eq!(
            answer(true, false).whole(&ended),
            json!({"id": "x-1", "object": "chat.completion", "created": 7, "model": "m", "usage": usage,
                   "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": "length"}]})
        );
        assert_eq!(
            answer(false, false).whole(&ended),
            json!({"id": "x-1", "object": "text_completion", "created": 7, "model": "m", "usage": usage,
                   "choices": [{"index": 0, "text": "a b", "logprobs": null, "finish_reason": "length"}]})
        );
    }

    #[test]
    fn streams_have_the_form_of_openai() {
        let text = |text: &str| Event::Text(text.to_owned());
        // A line break within a text does not end its event.
        let found = stream(answer(true, true), &[text("a\n\n"), text("b"), ended(End::Eos)]);
        let deltas: Vec<&Value> = found[..4].iter().map(|part| &part["choices"][0]["delta"]).collect();
        assert_eq!(
            deltas,
            [
                &json!({"role": "assistant", "content": ""}),
                &json!({"content": "a\n\n"}),
                &json!({"content": "b"}),
                &json!({})
            ]
        );
        assert_eq!(
            (&found[2]["choices"][0]["finish_reason"], &found[3]["choices"][0]["finish_reason"]),
            (&Value::Null, &json!("stop"))
        );
        assert!(found[..5].iter().all(|part| part["object"] == "chat.completion.chunk" && part["id"] == "x-1"));
        assert_eq!((&found[3]["usage"], &found[4]["choices"]), (&Value::Null, &json!([])));
        assert_eq!((&found[4]["usage"]["total_tokens"], &found[5], found.len()), (&json!(5), &json!("[DONE]"), 6));

        let found = stream(answer(false, false), &[text("a"), ended(End::Length)]);
        assert_eq!((&found[0]["choices"][0]["text"], &found[1]["choices"][0]["text"]), (&json!("a"), &json!("")));
        assert!(found[0].get("usage").is_none() && found[2] == "[DONE]" && found.len() == 3, "{found:?}");
        assert_eq!(stream(answer(false, false), &[ended(End::Eos)]).len(), 2);
        // An error in the middle is the last event.
        let found = stream(answer(false, false), &[text("a"), Event::Failed(Failure::late())]);
        assert_eq!((found.len(), &found[1]["error"]["code"]), (2, &json!("timeout")));
    }
}
