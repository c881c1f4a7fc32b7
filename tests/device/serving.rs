//! `trainer serve` as people start it: what it answers is what `trainer predict` writes, alone and among others; it
//! completes what it has accepted when it is told to stop; and no bad request harms it.

use crate::common::cases::{CaseBench, Kind};
use crate::common::process::{Running, run, start, trainer};
use crate::common::runs::Bench;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use std::{slice, thread};

/// SIGTERM.
const TERMINATE: i32 = 15;

/// A server of the model in `folder`.
struct Server {
    process: Running,
    address: String,
}

impl Server {
    fn start(bench: &Bench, folder: &str, options: &[&str]) -> Self {
        let mut process = start(trainer(bench).args(["serve", folder, "--port", "0"]).args(options));
        process.until("the address", |text| text.contains("http://") && text.ends_with('\n'));
        let text = process.text();
        let address = text.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
        Server { process, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        stream
    }

    /// The answer to a request: status and body.
    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let mut stream = self.connect();
        send(&mut stream, path, body);
        answer(stream)
    }

    /// The answers to requests at the same time.
    fn together(&self, path: &str, bodies: &[Value]) -> Vec<Value> {
        thread::scope(|scope| {
            let ask = |body| move || self.post(path, body);
            let asked: Vec<_> = bodies.iter().map(|body| scope.spawn(ask(body))).collect();
            let answers = asked.into_iter().map(|asked| asked.join().unwrap());
            let read = |(status, body): (u16, String)| {
                assert_eq!(status, 200, "{body}");
                serde_json::from_str(&body).unwrap()
            };
            answers.map(read).collect()
        })
    }

    /// The statuses of what the server sends for these bytes until it closes the connection.
    fn statuses(&self, bytes: &[u8], half_closes: bool) -> Vec<u16> {
        let mut stream = self.connect();
        // The server may refuse a request before it has all of it.
        _ = stream.write_all(bytes);
        if half_closes {
            _ = stream.shutdown(Shutdown::Write);
        }
        let mut found = Vec::new();
        _ = stream.read_to_end(&mut found);
        let text = String::from_utf8_lossy(&found);
        let heads = text.match_indices("HTTP/1.").map(|(at, _)| text[at..].split(' ').nth(1));
        heads.map(|status| status.and_then(|status| status.parse().ok()).unwrap_or(0)).collect()
    }

    /// Its resident memory in bytes.
    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }

    /// Stops it by SIGTERM.
    fn stop(self) -> String {
        self.process.signal(TERMINATE);
        self.process.wait().expect(0).stderr
    }
}

fn send(stream: &mut TcpStream, path: &str, body: &Value) {
    let body = body.to_string();
    let head = "Host: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length";
    write!(stream, "POST {path} HTTP/1.1\r\n{head}: {}\r\n\r\n{body}", body.len()).unwrap();
}

fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
    (status, whole)
}

/// What `trainer predict` writes for records.
fn predicted(bench: &Bench, folder: &str, records: &[Value], options: &[&str]) -> Vec<Value> {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    fs::write(bench.path("in.jsonl"), lines.join("\n")).unwrap();
    let args = ["predict", "--model", folder, "--input", "in.jsonl", "--output", "out.jsonl"];
    run(trainer(bench).args(args).args(options)).expect(0);
    let text = fs::read_to_string(bench.path("out.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn records(bench: &Bench) -> Vec<Value> {
    let text = fs::read_to_string(bench.path("train.jsonl")).unwrap();
    text.lines().take(32).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_near(found: &Value, wanted: &Value) {
    let [a, b] = [found, wanted].map(|score| score.as_f64().unwrap());
    assert!((a - b).abs() < 1e-5, "{a} instead of {b}");
}

#[test]
fn classes_are_those_of_predict() {
    let bench = Bench::new("bert-classification");
    let model = bench.model.to_str().unwrap();
    let records = records(&bench);
    let wanted = predicted(&bench, model, &records, &[]);
    // Few tokens in a batch: the last request's examples are in several.
    let server = Server::start(&bench, model, &["--max-batch-tokens", "64"]);
    let texts: Vec<Value> = records.iter().map(|record| record["text"].clone()).collect();
    let one = |text: &Value| json!({"input": text});
    let bodies: Vec<Value> = texts.iter().map(one).chain([json!({"input": texts})]).collect();
    let answers = server.together("/v1/classify", &bodies);
    let all = answers.last().unwrap()["data"].as_array().unwrap();
    assert_eq!(all.len(), wanted.len());
    for ((answer, together), wanted) in answers.iter().zip(all).zip(&wanted) {
        for found in [&answer["data"][0], together] {
            assert_eq!(found["label"], wanted["label"], "{answer} {wanted}");
            assert_near(&found["score"], &wanted["score"]);
        }
    }
    let (status, body) = server.post("/v1/chat/completions", &json!({"messages": []}));
    assert!(status == 404 && body.contains("fine-tuned for sequence-classification: use /v1/classify"), "{body}");
    let said = server.stop();
    assert!(said.contains("stopping"), "{said}");
}

#[test]
fn tags_are_those_of_predict() {
    let bench = CaseBench::new("bert-tokens", Kind::Tags);
    let records = records(&bench);
    let wanted = predicted(&bench, "model", &records, &[]);
    let server = Server::start(&bench, "model", &[]);
    let words = |record: &Value| -> Vec<String> { serde_json::from_value(record["words"].clone()).unwrap() };
    let bodies: Vec<Value> = records.iter().map(|record| json!({"input": words(record).join(" ")})).collect();
    let answers = server.together("/v1/tags", &bodies);
    for ((answer, record), wanted) in answers.iter().zip(&records).zip(&wanted) {
        let found = answer["data"][0]["words"].as_array().unwrap();
        let of = |key: &str| found.iter().map(|word| word[key].clone()).collect::<Value>();
        assert_eq!((of("tag"), of("word")), (wanted["tags"].clone(), record["words"].clone()));
    }
    server.stop();
}

#[test]
fn answers_are_those_of_predict() {
    let bench = CaseBench::new("distilbert-answers", Kind::Answers);
    let records = records(&bench);
    // The settings of training are in the folder.
    let trained = "output_dir = \"x\"\n[model]\npath = \"model\"\n[task]\nkind = \"question-answering\"\n\
                   doc_stride = 4\n[data]\ntrain = \"train.jsonl\"\nmax_length = 16\n";
    fs::write(bench.model.join("trainer_config.toml"), trained).unwrap();
    let wanted = predicted(&bench, "model", &records, &[]);
    let server = Server::start(&bench, "model", &[]);
    let body = |record: &Value| json!({"question": record["question"], "context": record["context"]});
    let answers = server.together("/v1/answer", &records.iter().map(body).collect::<Vec<_>>());
    for ((answer, record), wanted) in answers.iter().zip(&records).zip(&wanted) {
        assert_eq!(answer["answer"], wanted["answer"], "{answer} {wanted}");
        assert_near(&answer["score"], &wanted["score"]);
        let [start, end] = ["start", "end"].map(|key| answer[key].as_u64().unwrap() as usize);
        let context: Vec<char> = record["context"].as_str().unwrap().chars().collect();
        assert_eq!(context[start..end].iter().collect::<String>(), answer["answer"].as_str().unwrap());
    }
    server.stop();
}

#[test]
fn texts_are_those_of_predict() {
    let bench = CaseBench::new("gpt2-causal", Kind::CausalLm);
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} ch{% endif %}";
    fs::write(bench.model.join("chat_template.jinja"), template).unwrap();
    let texts: Vec<Value> = records(&bench).iter().map(|record| record["text"].clone()).collect();
    let user = |text: &Value| json!([{"role": "user", "content": text}]);
    let plain: Vec<Value> = texts.iter().map(|text| json!({"text": text})).collect();
    let said: Vec<Value> = texts.iter().map(|text| json!({"messages": user(text)})).collect();
    let lengths: Vec<usize> = (0..texts.len()).map(|i| [5, 9][i % 2]).collect();
    let of_predict =
        |records: &[Value]| [5, 9].map(|n| predicted(&bench, "model", records, &["--max-new-tokens", &n.to_string()]));
    let wanted = [of_predict(&plain), of_predict(&said)];
    // Room for about ten texts: they wait, join and leave.
    let server = Server::start(&bench, "model", &["--max-batch-tokens", "256"]);
    let completion = |text: &Value, n: usize| json!({"prompt": text, "max_tokens": n});
    let alone = server.together("/v1/completions", &[completion(&texts[3], lengths[3])]).remove(0);
    let asked = || texts.iter().zip(&lengths);
    let completions: Vec<Value> = asked().map(|(text, &n)| completion(text, n)).collect();
    let chats: Vec<Value> = asked().map(|(text, &n)| json!({"messages": user(text), "max_tokens": n})).collect();
    let [completions, chats] = thread::scope(|scope| {
        let first = scope.spawn(|| server.together("/v1/completions", &completions));
        let second = scope.spawn(|| server.together("/v1/chat/completions", &chats));
        [first, second].map(|answers| answers.join().unwrap())
    });
    assert_eq!(completions[3]["choices"], alone["choices"]);
    for (i, &n) in lengths.iter().enumerate() {
        let found = [&completions[i]["choices"][0]["text"], &chats[i]["choices"][0]["message"]["content"]];
        for (found, wanted) in found.into_iter().zip(&wanted) {
            assert_eq!(*found, wanted[i % 2][i]["text"], "{i}");
        }
        assert!(completions[i]["usage"]["completion_tokens"].as_u64().unwrap() as usize <= n);
    }

    // A stream has the same text; sampling by a seed has what a file's first record gets.
    let body = json!({"prompt": texts[3], "max_tokens": lengths[3], "stream": true});
    let (_, events) = server.post("/v1/completions", &body);
    let parts =
        events.split_terminator("\n\n").filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok());
    let streamed: String =
        parts.filter_map(|part: Value| Some(part["choices"][0]["text"].as_str()?.to_owned())).collect();
    assert_eq!(Some(streamed.as_str()), alone["choices"][0]["text"].as_str());
    let own = ["--do-sample", "--temperature=2", "--seed", "5", "--max-new-tokens", "9"];
    let sampled = predicted(&bench, "model", &plain[..1], &own).remove(0);
    let body = json!({"prompt": texts[0], "max_tokens": 9, "temperature": 2, "seed": 5});
    let found = &server.together("/v1/completions", &vec![body; 4]);
    assert!(found.iter().all(|found| found["choices"][0]["text"] == sampled["text"]), "{found:?} {sampled}");
    server.stop();
}

#[test]
fn sigterm_ends_the_server_when_its_answers_are_complete() {
    let bench = CaseBench::new("gpt2-causal", Kind::CausalLm);
    let server = Server::start(&bench, "model", &[]);
    let mut stream = server.connect();
    send(&mut stream, "/v1/completions", &json!({"prompt": "aa bd", "max_tokens": 20, "stream": true}));
    // It has been accepted when its first byte comes.
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    let said = server.stop();
    assert!(said.contains("stopping: requests that were accepted are completed"), "{said}");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn what_cannot_be_served_is_an_error_at_the_start() {
    let bench = CaseBench::new("t5-tied-relu", Kind::Seq2Seq);
    let ended = run(trainer(&bench).args(["serve", "model"])).expect(2);
    let says = "fine-tuned for seq2seq, which is not served: use trainer predict";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    let bench = Bench::new("bert-classification");
    let model = bench.model.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fs::write(bench.path("key"), "\n").unwrap();
    for (options, says) in [
        (["--port", port.as_str()], "--host 127.0.0.1 --port"),
        (["--api-key-file", "key"], "--api-key-file key: the key is empty"),
    ] {
        let ended = run(trainer(&bench).args(["serve", model]).args(options)).expect(2);
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
}

/// A POST request with any body, and a header that announces its size.
fn request(body: &[u8]) -> Vec<u8> {
    framed(&format!("Content-Length: {}\r\n", body.len()), body)
}

fn framed(header: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /v1/classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
    [head.as_bytes(), body].concat()
}

/// Requests that no client should send, with whether the client then half-closes its connection.
fn bad_requests() -> Vec<(Vec<u8>, bool)> {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let noise: Vec<u8> = (0..400_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let bare = |text: &str| text.as_bytes().to_vec();
    let many = (0..500).map(|i| format!("X-{i}: y\r\n")).collect::<String>();
    let whole = vec![
        // JSON that is none, or not what the route reads.
        request(b""),
        request(b"{\"input\": \"x"),
        request(b"{\"input\": \"\xff\xfe\"}"),
        request(b"{\"input\": \"\\ud800\"}"),
        request(b"\xef\xbb\xbf{}"),
        request(&[b'['; 50_000]),
        request(&b"{\"a\":".repeat(20_000)),
        request(b"{\"input\": 5}"),
        request(b"{\"input\": null}"),
        request(b"{\"input\": {\"text\": \"x\"}}"),
        request(b"{\"input\": [[\"x\"]]}"),
        request(b"{\"input\": \"x\", \"top\": 1e999}"),
        request(b"{\"input\": \"x\", \"model\": \"other\"}"),
        request(b"{\"input\": \"x\", \"model\": {}}"),
        request(b"{} {}"),
        request(&noise),
        // Sizes that are wrong.
        request(&vec![b' '; 1_048_577]),
        framed("Content-Length: 99999999999999999999999\r\n", b"{}"),
        framed("Content-Length: -1\r\n", b"{}"),
        framed("Content-Length: 2\r\nContent-Length: 3\r\n", b"{} "),
        framed("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
        framed("Expect: 100-continue\r\nContent-Length: 2000000\r\n", b""),
        framed("Transfer-Encoding: gzip, chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
        framed(CHUNKED, b"zz\r\n{}\r\n"),
        framed(CHUNKED, b"ffffffffffffffffff\r\n{}"),
        framed(CHUNKED, &[b"2\r\n{}\r\n".as_slice(), &noise].concat()),
        // Headers, methods and protocols that are wrong.
        framed(&format!("X: {}\r\n", "y".repeat(500_000)), b"{}"),
        framed(&many, b"{}"),
        framed("X\0: y\r\n", b"{}"),
        framed("No colon\r\n", b"{}"),
        bare("PUT /v1/classify HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare("DELETE / HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare("CONNECT x:1 HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare("OPTIONS * HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare("GET /v1/../../etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare("GET /%zz%00 HTTP/1.1\r\nConnection: close\r\n\r\n"),
        bare(&format!("GET /{} HTTP/1.1\r\nConnection: close\r\n\r\n", "a".repeat(100_000))),
        bare("GET / HTTP/9.9\r\n\r\n"),
        bare("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        bare("\x16\x03\x01\x02\r\n\r\n"),
        [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), &noise, b"\r\n\r\n"].concat(),
        [request(b"{\"input\": "), noise.clone()].concat(),
    ];
    // Requests that end before they are complete.
    let parts = vec![
        Vec::new(),
        bare("G"),
        bare("GET /\r\n"),
        request(b"{\"input\": \"x\"}")[..30].to_vec(),
        framed("Content-Length: 500\r\n", b"{\"input\": \"x\"}"),
        framed("Content-Length: 99999999999\r\n", b"{}"),
        framed(CHUNKED, b"5\r\n{\"i"),
        noise,
    ];
    whole.into_iter().map(|bytes| (bytes, false)).chain(parts.into_iter().map(|bytes| (bytes, true))).collect()
}

/// 10,000 bad requests by 8 clients at a time, while others send their requests slowly, or leave in the middle.
#[test]
fn bad_requests_change_nothing() {
    const REQUESTS: usize = 10_000;
    const CLIENTS: usize = 8;
    let bench = Bench::new("bert-classification");
    let server = Server::start(&bench, bench.model.to_str().unwrap(), &[]);
    let good = json!({"input": ["a text", "and another one"]});
    let answer = || server.together("/v1/classify", slice::from_ref(&good)).remove(0)["data"].take();
    let wanted = answer();
    let check = |found: &Value| {
        for i in 0..2 {
            assert_eq!(found[i]["label"], wanted[i]["label"]);
            assert_near(&found[i]["score"], &wanted[i]["score"]);
        }
    };
    let bad = bad_requests();
    let slow: Vec<TcpStream> = (0..64)
        .map(|i| {
            let mut stream = server.connect();
            stream.write_all(&request(b"{\"input\": \"x\"}")[..i]).unwrap();
            stream
        })
        .collect();
    let abuse = |requests: usize| {
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (server, bad, answer, check) = (&server, &bad, &answer, &check);
                scope.spawn(move || {
                    for i in (client..requests).step_by(CLIENTS) {
                        let (bytes, half_closes) = &bad[i % bad.len()];
                        if i % 50 == 7 {
                            // A client that has left when the answer comes.
                            _ = server.connect().write_all(bytes);
                        }
                        let found = server.statuses(bytes, *half_closes);
                        let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
                        let refused = |status: &u16| (200..500).contains(status) || [503, 504].contains(status);
                        assert!(found.iter().all(refused), "{found:?}: {sent}");
                        if i % 500 == client {
                            check(&answer());
                        }
                    }
                });
            }
        });
    };
    // What threads and buffers need once is allocated first.
    abuse(REQUESTS / 5);
    let before = server.resident();
    abuse(REQUESTS - REQUESTS / 5);
    let after = server.resident();
    // A leak of 4 KB per request would be as much.
    assert!(after < before + 32 * 1024 * 1024, "{before} bytes before, {after} after");
    drop(slow);
    check(&answer());
    server.stop();
}
