//! The inputs of a request, and what is left to do for its answer.

use super::failure::Failure;
use crate::data::Example;
use crate::error::Error;
use serde_json::{Map, Value, json};

/// Maximum number of inputs of a request, as in OpenAI's API for embeddings.
const INPUTS: usize = 2048;

/// Token ids of a request, and how to make its answer of the values of each example.
pub struct Encoded {
    pub examples: Vec<Example>,
    pub finish: Finish,
}

/// Makes the JSON of an answer of the values of each example and the model's name. It may take long.
pub type Finish = Box<dyn FnOnce(&[Vec<f32>], &str) -> Result<String, Failure> + Send>;

/// Encodes each of `input`, a list or one value.
///
/// # Errors
/// 400: there is none; too many; those of `encode`.
pub fn inputs<T>(body: &Map<String, Value>, encode: impl Fn(&Value) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    match body.get("input") {
        None | Some(Value::Null) => Err(Failure::invalid("\"input\" is missing: a text or a list of texts")),
        Some(Value::Array(list)) if list.is_empty() => Err(Failure::invalid("\"input\" is an empty list")),
        Some(Value::Array(list)) if list.len() > INPUTS => {
            let n = list.len();
            Err(Failure::invalid(format!("\"input\" is a list of {n}, but a request has at most {INPUTS}: divide it")))
        }
        Some(Value::Array(list)) => {
            let numbered = |(value, i): (&Value, usize)| {
                encode(value).map_err(|e| Failure { message: format!("input {i}: {}", e.message), ..e })
            };
            list.iter().zip(0..).map(numbered).collect()
        }
        Some(one) => Ok(vec![encode(one)?]),
    }
}

/// Converts an error of a text that cannot be encoded.
pub fn refused(e: Error) -> Failure {
    Failure::invalid(e.to_string())
}

/// Returns the answer with a list of results, one for each input.
pub fn listed(data: Value, model: &str) -> String {
    let mut answer = json!({"object": "list", "model": model});
    answer["data"] = data;
    answer.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_a_limited_number_of_inputs() {
        let count = |n: usize| {
            let body = json!({"input": vec![""; n]});
            inputs(body.as_object().unwrap(), |_| Ok(())).map(|all| all.len())
        };
        assert_eq!((count(1), count(INPUTS)), (Ok(1), Ok(INPUTS)));
        assert_eq!(count(0).unwrap_err().message, "\"input\" is an empty list");
        let failure = count(INPUTS + 1).unwrap_err();
        assert_eq!(failure.status.as_u16(), 400);
        assert_eq!(failure.message, "\"input\" is a list of 2049, but a request has at most 2048: divide it");
    }

    #[test]
    fn results_are_listed() {
        assert_eq!(listed(json!([{"label": "a"}]), "m"), r#"{"object":"list","model":"m","data":[{"label":"a"}]}"#);
    }
}
