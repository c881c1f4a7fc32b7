//! What a model can do: requests to token ids, and numbers to answers. Nothing here computes with the model.

use super::embedder::Embedder;
use super::failure::Failure;
use super::inputs::{Encoded, inputs, listed, refused};
use super::predicting::with_results;
use crate::data::Example;
use crate::error::Result;
use crate::ffi::device::attempt;
use crate::metrics::{Reading, TagSet};
use crate::tasks::answers::{self, Rules};
use crate::tasks::{Model, questions, tagged_words, texts, token_classification};
use crate::text::questions::Question;
use crate::text::tokenizer::Tokenizer;
use crate::text::words::WordTokenizer;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The ability of a model that reads text and generates none.
pub enum Reader {
    Classify(Classifier),
    Tags(Tagger),
    Answer(Answerer),
    Embed(Embedder),
}

/// Texts, or pairs, to labels, sets of labels or numbers.
pub struct Classifier {
    pub model: Arc<Model>,
    pub tokenizer: Tokenizer,
    pub max_length: usize,
    /// Whether the model was trained on pairs.
    pub pairs: bool,
}

/// Texts to tagged words and entities.
pub struct Tagger {
    tokenizer: WordTokenizer,
    labels: Vec<String>,
    /// The labels, and `O` if it is none of them.
    tags: Vec<String>,
    max_length: usize,
}

/// Questions about contexts to answers.
pub struct Answerer {
    pub tokenizer: Tokenizer,
    pub max_length: usize,
    pub doc_stride: usize,
    pub rules: Rules,
    /// Whether the model was trained with unanswerable questions.
    pub unanswerable: bool,
}

/// What the model has embeddings for.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings {
    pub tokens: usize,
    pub segments: usize,
}

impl Embeddings {
    /// # Errors
    /// 400: a token id or a segment without an embedding: the tokenizer is another model's.
    pub fn check<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a u32>,
        segments: impl IntoIterator<Item = &'a u8>,
    ) -> Result<(), Failure> {
        let id = ids.into_iter().copied().max().filter(|&id| id as usize >= self.tokens);
        let segment = segments.into_iter().copied().max().filter(|&segment| usize::from(segment) >= self.segments);
        match (id, segment) {
            (Some(id), _) => Err(Failure::invalid(format!(
                "the text has the token id {id}, but the model has {} embeddings: its folder has another tokenizer",
                self.tokens
            ))),
            (_, Some(_)) => {
                Err(Failure::invalid(format!("the text has two segments, but the model has {}", self.segments)))
            }
            (None, None) => Ok(()),
        }
    }
}

/// A text, its words, and those without a token.
struct Sentence {
    text: String,
    words: Vec<Word>,
    lost: Vec<(usize, u32)>,
}

/// A word of a text: its range in characters and in bytes.
struct Word {
    text: String,
    place: [usize; 2],
    bytes: [usize; 2],
}

impl Reader {
    /// The route of its requests.
    pub fn route(&self) -> &'static str {
        match self {
            Reader::Classify(_) => "/v1/classify",
            Reader::Tags(_) => "/v1/tags",
            Reader::Answer(_) => "/v1/answer",
            Reader::Embed(_) => "/v1/embeddings",
        }
    }

    /// Encodes the body of a request. Keys that are null count as absent.
    ///
    /// # Errors
    /// 400: a body of another form, a text that cannot be encoded.
    pub fn encode(&self, mut body: Map<String, Value>) -> Result<Encoded, Failure> {
        body.retain(|_, value| !value.is_null());
        let known: &[&str] = match self {
            Reader::Classify(_) | Reader::Tags(_) => &["input"],
            Reader::Answer(_) => &["question", "context"],
            Reader::Embed(_) => &["input", "encoding_format", "user"],
        };
        if let Some(key) = body.keys().find(|key| !known.contains(&key.as_str()) && *key != "model") {
            return Err(Failure::invalid(format!("unknown key {key:?}; this route has {}", known.join(" and "))));
        }
        // A panic of the tokenizer must not end the server.
        attempt(|| {
            Ok(match self {
                Reader::Classify(classifier) => classifier.encode(&body),
                Reader::Tags(tagger) => tagger.encode(&body),
                Reader::Answer(answerer) => answerer.encode(&body),
                Reader::Embed(embedder) => embedder.encode(&body),
            })
        })
        .unwrap_or_else(|e| Err(Failure::internal(e.to_string())))
    }
}

impl Classifier {
    fn encode(&self, body: &Map<String, Value>) -> Result<Encoded, Failure> {
        let example = |input: &Value| {
            let (text, pair) = text_and_pair(input, self.pairs)?;
            texts::one(&self.tokenizer, text, pair, self.max_length).map_err(refused)
        };
        let examples = inputs(body, example)?;
        let (model, own) = (Arc::clone(&self.model), examples.clone());
        let finish = move |rows: &[Vec<f32>], name: &str| {
            let found = with_results(own, &Value::Null, rows, |results| json!(model.task.predictions(results, false)));
            Ok(listed(found, name))
        };
        Ok(Encoded { examples, finish: Box::new(finish) })
    }
}

/// Returns a text, and the second one of a pair.
fn text_and_pair(input: &Value, pairs: bool) -> Result<(&str, Option<&str>), Failure> {
    const FORM: &str = "each input of this model is";
    match (input, pairs) {
        (Value::String(text), false) => Ok((text, None)),
        (Value::Object(map), true) => match (map.get("text"), map.get("text_pair"), map.len()) {
            (Some(Value::String(text)), Some(Value::String(pair)), 2) => Ok((text, Some(pair))),
            _ => Err(Failure::invalid(format!("{FORM} {{\"text\": \"...\", \"text_pair\": \"...\"}}"))),
        },
        (_, false) => Err(Failure::invalid(format!("{FORM} a string"))),
        (_, true) => Err(Failure::invalid(format!("{FORM} a pair: {{\"text\": \"...\", \"text_pair\": \"...\"}}"))),
    }
}

impl Tagger {
    /// `labels` are the model's, in the order of their ids.
    pub fn new(tokenizer: &Tokenizer, labels: Vec<String>, max_length: usize) -> Self {
        let tags = token_classification::tags(&labels);
        Tagger { tokenizer: WordTokenizer::new(tokenizer), labels, tags, max_length }
    }

    fn encode(&self, body: &Map<String, Value>) -> Result<Encoded, Failure> {
        let sentence = |input: &Value| {
            let text = input.as_str().ok_or_else(|| Failure::invalid("each input of this model is a string"))?;
            let words = words(text);
            let plain: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
            let (example, lost) = tagged_words::one(&self.tokenizer, &plain, self.max_length).map_err(refused)?;
            Ok((example, Sentence { text: text.to_owned(), words, lost }))
        };
        let (examples, sentences): (Vec<Example>, Vec<_>) = inputs(body, sentence)?.into_iter().unzip();
        let (labels, tags) = (self.labels.clone(), self.tags.clone());
        let finish = move |rows: &[Vec<f32>], name: &str| {
            let set = TagSet::new(&tags);
            let sentence = |(sentence, row): (&Sentence, &Vec<f32>)| {
                let found = token_classification::tags_of(&labels, row, &sentence.lost);
                tagged(sentence, &found, &tags, set.as_ref())
            };
            Ok(listed(sentences.iter().zip(rows).map(sentence).collect(), name))
        };
        Ok(Encoded { examples, finish: Box::new(finish) })
    }
}

/// Returns the words of a text, separated by whitespace as for `trainer predict --text`.
fn words(text: &str) -> Vec<Word> {
    let (mut characters, mut end) = (0, 0);
    let word = |word: &str| {
        // A slice of the text.
        let start = word.as_ptr().addr() - text.as_ptr().addr();
        characters += text[end..start].chars().count();
        let first = characters;
        characters += word.chars().count();
        end = start + word.len();
        Word { text: word.to_owned(), place: [first, characters], bytes: [start, end] }
    };
    text.split_whitespace().map(word).collect()
}

/// Returns the words with their tags, and the entities, if the tags mark some.
fn tagged(sentence: &Sentence, found: &[(usize, f64)], tags: &[String], set: Option<&TagSet>) -> Value {
    let Sentence { text, words, .. } = sentence;
    let word = |(word, &(tag, score)): (&Word, &(usize, f64))| {
        let [start, end] = word.place;
        json!({"word": word.text, "tag": tags[tag], "score": score, "start": start, "end": end})
    };
    let classes: Vec<usize> = found.iter().map(|&(tag, _)| tag).collect();
    let spans = set.map(|set| (set.types(), set.entities(&classes, Reading::Lenient)));
    let entities = spans.iter().flat_map(|(types, spans)| {
        spans.iter().map(|span| {
            let (own, scores) = (&words[span.start..span.end], &found[span.start..span.end]);
            let score = scores.iter().map(|&(_, score)| score).sum::<f64>() / scores.len() as f64;
            let (first, last) = (&own[0], &own[own.len() - 1]);
            let word = &text[first.bytes[0]..last.bytes[1]];
            let (start, end) = (first.place[0], last.place[1]);
            json!({"entity_group": types[span.kind], "score": score, "word": word, "start": start, "end": end})
        })
    });
    let entities: Vec<Value> = entities.collect();
    json!({"words": words.iter().zip(found).map(word).collect::<Vec<_>>(), "entities": entities})
}

impl Answerer {
    fn encode(&self, body: &Map<String, Value>) -> Result<Encoded, Failure> {
        let [question, context] = ["question", "context"].map(|key| {
            let text = body.get(key).and_then(Value::as_str);
            text.ok_or_else(|| Failure::invalid(format!("{key:?} must be a string")))
        });
        let (question, context) = (question?.to_owned(), context?.into());
        let question = Question { line: 1, id: String::new(), context, question, answers: Vec::new() };
        let lengths = (self.max_length, self.doc_stride);
        let (examples, references) =
            questions::one(&self.tokenizer, &self.rules, lengths, question).map_err(refused)?;
        let (own, unanswerable) = (examples.clone(), self.unanswerable);
        let finish = move |rows: &[Vec<f32>], _: &str| {
            let located = with_results(own, &references, rows, |results| answers::located(results, unanswerable));
            let answer = located.into_iter().next().map(|found| {
                let (start, end) = (found.place.start, found.place.end);
                json!({"answer": found.answer, "score": found.score, "start": start, "end": end})
            });
            Ok(answer.unwrap_or_default().to_string())
        };
        Ok(Encoded { examples, finish: Box::new(finish) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::folder;
    use std::slice;

    #[test]
    fn inputs_are_texts_or_pairs() {
        let pair = json!({"text": "a", "text_pair": "b"});
        assert_eq!(text_and_pair(&json!("a"), false), Ok(("a", None)));
        assert_eq!(text_and_pair(&pair, true), Ok(("a", Some("b"))));
        for (input, pairs) in [
            (json!("a"), true),
            (pair, false),
            (json!({"text": "a"}), true),
            (json!({"text": "a", "text_pair": 1}), true),
            (json!({"text": "a", "text_pair": "b", "label": "c"}), true),
            (json!(1), false),
        ] {
            assert_eq!(text_and_pair(&input, pairs).unwrap_err().status.as_u16(), 400, "{input}");
        }
        let numbered =
            inputs(json!({"input": ["a", 1]}).as_object().unwrap(), |value| text_and_pair(value, false).map(|_| ()));
        assert_eq!(numbered.unwrap_err().message, "input 1: each input of this model is a string");
    }

    #[test]
    fn tokens_without_an_embedding_are_refused() {
        let embeddings = Embeddings { tokens: 5, segments: 1 };
        assert!(embeddings.check(&[4, 0], &[0]).is_ok() && embeddings.check(&[], &[]).is_ok());
        let says = |ids: &[u32], segments: &[u8]| embeddings.check(ids, segments).unwrap_err().message;
        assert!(says(&[0, 5], &[0]).contains("the token id 5, but the model has 5 embeddings"));
        assert!(says(&[0], &[1]).contains("two segments"));
    }

    /// The scores of the windows' tokens point to an answer after letters of several bytes.
    #[test]
    fn an_answer_has_its_place_in_characters() {
        let dir = folder();
        let rules = Rules {
            n_best_size: 20,
            max_answer_length: 30,
            null_score_diff_threshold: 0.0,
            version_2_with_negative: None,
        };
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let reader = Answerer { tokenizer, max_length: 16, doc_stride: 2, rules, unanswerable: false };
        let body = json!({"question": "q", "context": "\u{2014} \u{e9} c d"});
        let reader = Reader::Answer(reader);
        let Encoded { examples, finish } = reader.encode(body.as_object().unwrap().clone()).unwrap();
        // [CLS] q [SEP] \u{2014} e c d [SEP]: from e to c.
        assert_eq!(examples[0].ids.len(), 8);
        let mut row = vec![0.0; 16];
        (row[2 * 4], row[2 * 5 + 1]) = (9.0, 9.0);
        let found: Value = serde_json::from_str(&finish(slice::from_ref(&row), "m").unwrap()).unwrap();
        assert_eq!([&found["answer"], &found["start"], &found["end"]], [&json!("\u{e9} c"), &json!(2), &json!(5)]);
        let encode = |body: Value| reader.encode(body.as_object().unwrap().clone());
        let refused = |body: Value| encode(body).err().unwrap();
        assert!(refused(json!({"question": "q"})).message.contains("\"context\" must be a string"));
        assert!(encode(json!({"question": "q", "context": "a", "x": null})).is_ok());
        assert!(refused(json!({"question": "q", "context": "a", "x": 1})).message.contains("unknown key \"x\""));
    }
}
