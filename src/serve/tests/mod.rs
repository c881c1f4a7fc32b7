//! HTTP with engines that compute nothing: protocol, limits, shutdown.

mod texts;
mod vectors;

use super::abilities::{Embeddings, Reader, Tagger};
use super::metrics::Metrics;
use super::predicting::predict;
use super::queue::{Exit, queue};
use super::server::{Ability, Server};
use super::{Options, listen, runtime, with_engine};
use crate::data::example::NO_LABEL;
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer::tests::folder;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::Notify;

/// A running server.
struct Host {
    address: SocketAddr,
    stop: Arc<Notify>,
    ended: JoinHandle<Result<()>>,
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an error").to_owned()
    }
}

fn options() -> Options {
    Options {
        max_batch_tokens: 100,
        max_queue: 8,
        timeout: Duration::from_secs(60),
        read_timeout: Duration::from_secs(30),
        max_body_bytes: 1000,
        api_key: None,
    }
}

impl Host {
    fn start(
        options: Options,
        ability: Ability,
        engine: impl FnOnce(&mut Exit) -> Result<()> + Send + 'static,
    ) -> Self {
        let (listener, address) = listen("127.0.0.1", 0).unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (entrance, exit) = queue(options.max_queue, &metrics);
        let embeddings = Embeddings { tokens: 57, segments: 1 };
        let names = ["m", "a task"].map(String::from);
        let server = Server::new(options, names, (ability, embeddings), (entrance, metrics));
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let ended = thread::spawn(move || {
            let runtime = runtime()?;
            with_engine(server, exit, (&runtime, listener), async move { stopped.notified().await }, engine)
        });
        Host { address, stop, ended }
    }

    /// A server of tags: words whose first letter is x are B-x.
    fn tags(options: Options) -> Self {
        Self::gated(options, None)
    }

    /// The same; with a gate, each batch tells that it begins and waits until it may.
    fn gated(options: Options, gate: Option<(Sender<usize>, Receiver<()>)>) -> Self {
        let (dir, most) = (folder(), options.max_batch_tokens);
        let labels = ["O", "B-x"].map(String::from).to_vec();
        let tagger = Tagger::new(&Tokenizer::from_folder(dir.path()).unwrap(), labels, 16);
        let run = move |dataset: &Dataset| {
            if let Some((begun, go)) = &gate {
                // A test that is over waits for nothing.
                _ = begun.send(dataset.len());
                _ = go.recv();
            }
            let rows = (0..dataset.len()).map(|i| {
                let Label::Tokens(labels) = dataset.label(i) else { panic!("labels") };
                let words = dataset.ids(i).iter().zip(&labels).filter(|(_, label)| **label != NO_LABEL);
                let x = 5 + 2 * u32::from(b'x' - b'a');
                words.flat_map(|(&id, _)| if id == x { [0.0, 2.0] } else { [2.0, 0.0] }).collect()
            });
            Ok(rows.collect())
        };
        let ability = Ability::Read(Box::new(Reader::Tags(tagger)));
        Self::start(options, ability, move |exit| predict(exit, most, run))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes, and returns what comes until the connection ends.
    fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        response(stream)
    }

    fn send(&self, method: &str, path: &str, header: &str, body: &[u8]) -> Response {
        self.raw(&request(method, path, header, body))
    }

    fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", b"")
    }

    fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, "", body.to_string().as_bytes())
    }

    /// Sends a request from another thread.
    fn later(&self, path: &'static str, body: Value) -> JoinHandle<Response> {
        let mut stream = self.connect();
        stream.write_all(&request("POST", path, "", body.to_string().as_bytes())).unwrap();
        thread::spawn(move || response(stream))
    }

    /// Waits until the metrics have this line.
    fn until(&self, line: &str) {
        for _ in 0..1000 {
            if self.get("/metrics").body.lines().any(|own| own == line) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{line}: {}", self.get("/metrics").body);
    }

    fn end(self) {
        self.stop.notify_one();
        self.ended.join().unwrap().unwrap();
    }
}

fn request(method: &str, path: &str, header: &str, body: &[u8]) -> Vec<u8> {
    let n = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {n}\r\n{header}\r\n");
    [head.as_bytes(), body].concat()
}

fn response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    // A reset after the response is not an error.
    _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let head = head.to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = if head.contains("transfer-encoding: chunked") { chunks(body) } else { body.to_owned() };
    Response { status, head, body }
}

fn chunks(mut rest: &str) -> String {
    let mut text = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    text
}

fn x(texts: &[&str]) -> Value {
    json!({ "input": texts })
}

#[test]
fn words_and_entities_have_their_places() {
    let host = Host::tags(options());
    let answer = host.post("/v1/tags", &json!({"input": ["a \u{e9} x ", ""], "model": "m"}));
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("m")), "{}", answer.body);
    let data = &answer.json()["data"];
    let of = |key: &str| data[0]["words"].as_array().unwrap().iter().map(|word| word[key].clone()).collect::<Vec<_>>();
    assert_eq!(
        (of("tag"), of("word")),
        (vec![json!("O"), json!("O"), json!("B-x")], vec![json!("a"), json!("\u{e9}"), json!("x")])
    );
    assert_eq!((of("start"), of("end")), (vec![json!(0), json!(2), json!(4)], vec![json!(1), json!(3), json!(5)]));
    let entity = &data[0]["entities"][0];
    assert_eq!(
        [&entity["entity_group"], &entity["word"], &entity["start"], &entity["end"]],
        [&json!("x"), &json!("x"), &json!(4), &json!(5)]
    );
    // softmax([0, 2]).
    assert!((entity["score"].as_f64().unwrap() - 0.880_797_077_977_882_3).abs() < 1e-9, "{entity}");
    assert_eq!(data[1], json!({"words": [], "entities": []}));
    // One text, and a second request on the same connection.
    let mut stream = host.connect();
    let body = json!({"input": "x"}).to_string();
    let first = format!("POST /v1/tags HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(&[first.as_bytes(), &request("GET", "/health", "", b"")].concat()).unwrap();
    let both = response(stream);
    assert!(both.body.contains("\"B-x\"") && both.body.ends_with("{\"status\":\"ok\"}"), "{}", both.body);
    host.end();
}

#[test]
fn bad_requests_are_refused_and_the_server_goes_on() {
    let host = Host::tags(options());
    let long = vec![b' '; 1001];
    let chunked = "POST /v1/tags HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let in_chunks = [chunked.as_bytes(), b"400\r\n", &[b' '; 0x400], b"\r\n0\r\n\r\n"].concat();
    let post = |body: &[u8]| request("POST", "/v1/tags", "", body);
    for (bytes, status, code) in [
        (request("GET", "/nowhere", "", b""), 404, "not_found"),
        (request("GET", "/v1/tags", "", b""), 405, "method_not_allowed"),
        (request("POST", "/v1/classify", "", b"{}"), 404, "not_found"),
        (request("POST", "/v1/chat/completions", "", b"{}"), 404, "not_found"),
        (post(b"{\"input\": \"x\", \"model\": \"other\"}"), 404, "model_not_found"),
        (post(b""), 400, "invalid_request"),
        (post(b"{\"input\": "), 400, "invalid_request"),
        (post(b"{\"input\": \"\xff\"}"), 400, "invalid_request"),
        (post(b"[]"), 400, "invalid_request"),
        (post(b"{}"), 400, "invalid_request"),
        (post(b"{\"input\": []}"), 400, "invalid_request"),
        (post(b"{\"input\": [\"x\", 1]}"), 400, "invalid_request"),
        (post(b"{\"input\": \"x\", \"top\": 1}"), 400, "invalid_request"),
        (post(&[b'['; 900]), 400, "invalid_request"),
        (post(&long), 413, "request_too_large"),
        (in_chunks, 413, "request_too_large"),
        (post(&vec![b' '; 300_000]), 413, "request_too_large"),
    ] {
        let answer = host.raw(&bytes);
        let sent = String::from_utf8_lossy(&bytes);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{sent}: {}", answer.body);
        assert!(answer.head.contains("content-type: application/json") && !answer.head.contains("access-control"));
    }
    let message = host.post("/v1/answer", &json!({})).json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "/v1/answer: the model m was fine-tuned for a task: use /v1/tags");
    // No HTTP at all.
    assert!([0, 400].contains(&host.raw(b"\x16\x03\x01\r\n\r\n").status));
    for model in [json!("m"), json!("dummy"), json!("tgi"), Value::Null] {
        assert_eq!(host.post("/v1/tags", &json!({"input": "x", "model": model})).status, 200, "{model}");
    }
    host.end();
}

#[test]
fn slow_and_vanished_clients_do_not_stop_the_server() {
    let host = Host::tags(Options { read_timeout: Duration::from_secs(1), ..options() });
    let whole = request("POST", "/v1/tags", "", b"{\"input\": \"x\"}");
    // A header, and a body, that never end: the server ends the connection.
    let (part, almost) = (host.raw(&whole[..20]), host.raw(&whole[..whole.len() - 1]));
    assert!([0, 408].contains(&part.status), "{}", part.head);
    assert_eq!((almost.status, almost.code().as_str()), (408, "request_timeout"));
    // Clients that leave in the middle, and one that half-closes its connection.
    for n in [0, 20, whole.len() - 1, whole.len()] {
        host.connect().write_all(&whole[..n]).unwrap();
    }
    let mut half = host.connect();
    half.write_all(&whole).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    _ = response(half);
    assert_eq!(host.post("/v1/tags", &x(&["x"])).status, 200);
    host.end();
}

#[test]
fn a_full_queue_refuses_and_what_nobody_waits_for_is_not_computed() {
    let ((begun, begins), (go, gate)) = (channel(), channel());
    let host = Host::gated(Options { max_queue: 2, max_batch_tokens: 3, ..options() }, Some((begun, gate)));
    let first = host.later("/v1/tags", x(&["a"]));
    assert_eq!(begins.recv().unwrap(), 1);
    let second = host.later("/v1/tags", x(&["x"]));
    host.until("trainer_queued_requests 1");
    let leaves = host.connect();
    (&leaves).write_all(&request("POST", "/v1/tags", "", x(&["b"]).to_string().as_bytes())).unwrap();
    host.until("trainer_queued_requests 2");
    let refused = host.post("/v1/tags", &x(&["c"]));
    assert_eq!((refused.status, refused.code().as_str()), (429, "queue_full"));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    drop(leaves);
    host.until("trainer_requests_total{route=\"/v1/tags\",status=\"499\"} 1");
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!([first, second].map(|sent| sent.join().unwrap().status), [200, 200]);
    // The batches of the first and of the second request, and none of the third.
    assert_eq!(begins.recv().unwrap(), 1);
    host.end();
    assert!(begins.try_recv().is_err());
}

#[test]
fn an_answer_that_takes_too_long_is_an_error() {
    let ((begun, _begins), (go, gate)) = (channel(), channel());
    let host = Host::gated(Options { timeout: Duration::from_millis(100), ..options() }, Some((begun, gate)));
    let late = host.post("/v1/tags", &x(&["a"]));
    assert_eq!((late.status, late.code().as_str()), (504, "timeout"));
    drop(go);
    host.end();
}

#[test]
fn a_stopping_server_completes_what_it_has_accepted() {
    let ((begun, begins), (go, gate)) = (channel(), channel());
    let host = Host::gated(options(), Some((begun, gate)));
    let accepted = host.later("/v1/tags", x(&["x"]));
    begins.recv().unwrap();
    assert_eq!(host.get("/health").status, 200);
    host.stop.notify_one();
    while host.get("/health").status == 200 {
        thread::sleep(Duration::from_millis(5));
    }
    let refused = host.post("/v1/tags", &x(&["x"]));
    assert_eq!((refused.status, refused.code().as_str()), (503, "shutting_down"));
    go.send(()).unwrap();
    let answer = accepted.join().unwrap();
    assert_eq!((answer.status, &answer.json()["data"][0]["words"][0]["tag"]), (200, &json!("B-x")));
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
    host.ended.join().unwrap().unwrap();
    assert!(TcpStream::connect(host.address).is_err());
}

#[test]
fn a_key_is_needed_if_there_is_one() {
    let host = Host::tags(Options { api_key: Some("secret".into()), ..options() });
    let with = |header: &str| host.send("GET", "/v1/models", header, b"");
    for header in
        ["", "Authorization: Bearer other\r\n", "Authorization: secret\r\n", "Authorization: Bearer secrets\r\n"]
    {
        let answer = with(header);
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"), "{header}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
    }
    let models = with("authorization: bearer secret\r\n").json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["routes"]), (&json!("m"), &json!(["/v1/tags"])));
    assert_eq!((host.get("/metrics").status, host.get("/health").status), (401, 200));
    let page = host.get("/");
    assert!(page.head.contains("default-src 'none'") && page.body.contains("<title>"), "{}", page.head);
    assert!(!page.body.contains("://") && !page.body.contains("innerHTML"), "nothing from elsewhere, no markup");
    host.end();
}
