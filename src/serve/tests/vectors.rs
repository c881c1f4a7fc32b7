//! Vectors over HTTP.

use super::{Host, options, request, x};
use crate::data::Dataset;
use crate::serve::Options;
use crate::serve::abilities::Reader;
use crate::serve::embedder::Embedder;
use crate::serve::predicting::predict;
use crate::serve::server::Ability;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer::tests::folder;
use rustix::net::sockopt;
use serde_json::{Value, json};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

fn embedder() -> Ability {
    let tokenizer = Tokenizer::from_folder(folder().path()).unwrap();
    Ability::Read(Box::new(Reader::Embed(Embedder { tokenizer, max_length: 16 })))
}

#[test]
fn vectors_have_the_form_of_openai() {
    // The vector of a text: its length in tokens, and a half.
    let run = |dataset: &Dataset| Ok((0..dataset.len()).map(|i| vec![dataset.length(i) as f32, 0.5]).collect());
    let host = Host::start(options(), embedder(), move |exit| predict(exit, 100, run));
    let ask = |body: Value| host.post("/v1/embeddings", &body);
    let vector = |index: u32, numbers: Value| json!({"object": "embedding", "index": index, "embedding": numbers});
    let mut expected = json!({"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7},
                              "data": [vector(0, json!([4.0, 0.5])), vector(1, json!([3.0, 0.5]))]});
    assert_eq!(ask(json!({"input": [" a b ", "c"], "model": "m", "encoding_format": "float"})).json(), expected);
    // 4 and 0.5 as little-endian fp32: 00 00 80 40 00 00 00 3f.
    expected["data"] = json!([vector(0, json!("AACAQAAAAD8="))]);
    expected["usage"] = json!({"prompt_tokens": 4, "total_tokens": 4});
    assert_eq!(ask(json!({"input": "a b", "encoding_format": "base64", "user": "u"})).json(), expected);
    // Clients send null for what they leave out.
    let answer = ask(json!({"input": "a b", "encoding_format": null, "dimensions": null, "user": null}));
    let text = "{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[4.0,0.5]}],\
                \"model\":\"m\",\"usage\":{\"prompt_tokens\":4,\"total_tokens\":4}}";
    assert_eq!((answer.status, answer.body.as_str()), (200, text));
    let message = "input 0: each input of this model is a string: token ids are not accepted";
    for body in [json!({"input": [[1, 2]]}), json!({"input": [1, 2]})] {
        assert_eq!(ask(body).json()["error"]["message"], message);
    }
    for body in [
        json!({"input": "a", "dimensions": 1}),
        json!({"input": "a", "encoding_format": "int8"}),
        json!({"input": [true]}),
        json!({}),
    ] {
        assert_eq!(ask(body.clone()).status, 400, "{body}");
    }
    assert_eq!(host.post("/v1/classify", &x(&["x"])).status, 404);
    host.end();
}

/// It would keep one of the server's connections for ever.
#[test]
fn a_client_that_does_not_read_is_disconnected() {
    // Much more than the buffers between server and client.
    let run = |dataset: &Dataset| Ok(vec![vec![0.0; 4_000_000]; dataset.len()]);
    let options = Options { timeout: Duration::from_secs(2), ..options() };
    let host = Host::start(options, embedder(), move |exit| predict(exit, 100, run));
    let mut stream = host.connect();
    sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    let body = json!({"input": "a", "encoding_format": "base64"}).to_string();
    stream.write_all(&request("POST", "/v1/embeddings", "", body.as_bytes())).unwrap();
    let began = Instant::now();
    while stream.write_all(b"x").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "the connection is still there");
        thread::sleep(Duration::from_millis(20));
    }
    // There was an answer.
    host.until("trainer_requests_total{route=\"/v1/embeddings\",status=\"200\"} 1");
    host.end();
}
