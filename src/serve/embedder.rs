//! Texts to vectors, in the form of OpenAI's API for embeddings.

use super::failure::Failure;
use super::inputs::{Encoded, inputs, refused};
use crate::tasks::{short, texts};
use crate::text::tokenizer::Tokenizer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

/// Texts to vectors.
pub struct Embedder {
    pub tokenizer: Tokenizer,
    pub max_length: usize,
}

impl Embedder {
    /// Encodes the body of a request.
    ///
    /// # Errors
    /// 400: inputs that are no texts, another format, a text that cannot be encoded.
    pub fn encode(&self, body: &Map<String, Value>) -> Result<Encoded, Failure> {
        let encodes = match body.get("encoding_format").map(|format| format.as_str()) {
            None | Some(Some("float")) => false,
            Some(Some("base64")) => true,
            Some(_) => return Err(Failure::invalid("\"encoding_format\" must be \"float\" or \"base64\"")),
        };
        let example = |input: &Value| match input {
            Value::String(text) => texts::one(&self.tokenizer, text, None, self.max_length).map_err(refused),
            Value::Number(_) | Value::Array(_) => {
                Err(Failure::invalid("each input of this model is a string: token ids are not accepted"))
            }
            _ => Err(Failure::invalid("each input of this model is a string")),
        };
        let examples = inputs(body, example)?;
        let tokens: usize = examples.iter().map(|example| example.ids.len()).sum();
        let finish = move |rows: &[Vec<f32>], model: &str| {
            let data = rows
                .iter()
                .enumerate()
                .map(|(index, row)| Embedding { object: "embedding", index, embedding: Vector { row, encodes } })
                .collect();
            let usage = Usage { prompt_tokens: tokens, total_tokens: tokens };
            let answer = Answer { object: "list", data, model, usage };
            serde_json::to_string(&answer).map_err(|e| Failure::internal(e.to_string()))
        };
        Ok(Encoded { examples, finish: Box::new(finish) })
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Numbers, or base64 of little-endian fp32.
struct Vector<'a> {
    row: &'a [f32],
    encodes: bool,
}

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.encodes {
            true => {
                let bytes: Vec<u8> = self.row.iter().flat_map(|number| number.to_le_bytes()).collect();
                serializer.serialize_str(&STANDARD.encode(bytes))
            }
            false => serializer.collect_seq(self.row.iter().copied().map(short)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// They are written as a [`Value`] writes them, which would take much more memory.
    #[test]
    fn numbers_are_the_shortest_decimals_of_fp32() {
        let row = [0.1, -0.0, 3.0, 1e-7, 1.5e16, 2.5e20, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY];
        let text = |encodes| serde_json::to_string(&Vector { row: &row, encodes }).unwrap();
        assert_eq!(text(false), json!(row.map(short)).to_string());
        assert!(text(false).starts_with("[0.1,-0.0,3.0,1e-7,"), "{}", text(false));
        assert_eq!(text(true).len(), 2 + 4 * 40_usize.div_ceil(3));
    }
}
