//! Vectors over HTTP.

use super::{Host, options, x};
use crate::data::Dataset;
use crate::serve::abilities::Reader;
use crate::serve::embedder::Embedder;
use crate::serve::predicting::predict;
use crate::serve::server::Ability;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer::tests::folder;
use serde_json::{Value, json};

#[test]
fn vectors_have_the_form_of_openai() {
    let tokenizer = Tokenizer::from_folder(folder().path()).unwrap();
    let ability = Ability::Read(Box::new(Reader::Embed(Embedder { tokenizer, max_length: 16 })));
    // The vector of a text: its length in tokens, and a half.
    let run = |dataset: &Dataset| Ok((0..dataset.len()).map(|i| vec![dataset.length(i) as f32, 0.5]).collect());
    let host = Host::start(options(), ability, move |exit| predict(exit, 100, run));
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
