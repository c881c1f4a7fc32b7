//! Sentences of words with a tag each: what token classification reads.

use super::classes::Classes;
use super::sieve::Sieve;
use super::texts::single;
use crate::data::collation::Collation;
use crate::data::example::NO_LABEL;
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Example, Label};
use crate::error::{Context, Result};
use crate::text::tagged::{self, Tagged, TaggedFormat, TaggedSource};
use crate::text::tokenizer::{Tokenizer, on_all_cores};
use crate::text::words::{EncodedWords, WordTokenizer};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// A file of sentences and how it becomes examples of at most `max_length` tokens.
///
/// As in Hugging Face's `run_ner`, a word's tag is the label of its first token; its other tokens and the special ones
/// have none. Where the source asks for no tags, as for prediction, class 0 marks the places.
#[derive(Debug, Clone)]
pub struct TaggedWords {
    pub source: TaggedSource,
    /// The tags in the order of their ids; `None`: those found in the data, sorted as strings.
    pub labels: Option<Vec<String>>,
    pub max_length: usize,
}

/// The words without a token, which the model says nothing of: because they were cut off, or because the tokenizer drops
/// all of their characters. By example, in ascending order, with the class of their tags.
pub type LostWords = BTreeMap<usize, Vec<(usize, u32)>>;

impl Encode for TaggedWords {
    fn files(&self) -> Vec<&Path> {
        vec![&self.source.path]
    }

    fn settings(&self) -> String {
        let TaggedSource { words, tags, on_bad_record, .. } = &self.source;
        // A source of no known format fails when it is read.
        let reading = (tagged::format_of(&self.source).ok(), words, tags, on_bad_record);
        format!("{:?}", ("tagged words", self.max_length, &self.labels, reading))
    }

    /// # Errors
    /// Those of [`tagged::read`]; unless bad records are skipped: a tag that is not in the list, a sentence without any
    /// token (up to ten reasons listed with file and lines). So many tags found that the column must be wrong.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let TaggedSource { path, tags, on_bad_record, .. } = &self.source;
        let rows = tagged::format_of(&self.source)? == TaggedFormat::Conll;
        let read = tagged::read(&self.source)?;
        let classes = || {
            let tags = read.records.iter().flat_map(|sentence| &sentence.tags);
            Classes::new(self.labels.as_deref(), tags, "is the last column, or tags_column, the tag?")
        };
        let classes = tags.is_some().then(classes).transpose().context(path.display())?;
        let mut sieve = Sieve::new(path, *on_bad_record, tags.is_some(), read.skipped);
        let sentences = read.records.iter().map(|sentence| match tag_classes(sentence, classes.as_ref()) {
            Ok(found) => (sentence.line, Ok((sentence, found))),
            // In CoNLL each word has a line of its own.
            Err((word, why)) => (sentence.line + if rows { word } else { 0 }, Err(why)),
        });
        let sentences = sieve.keep(sentences)?;

        let tokenizer = WordTokenizer::new(tokenizer);
        let encoded = on_all_cores(&sentences, |(sentence, _)| tokenizer.encode(&sentence.words, self.max_length))?;
        let truncated = encoded.iter().filter(|e| e.encoded.truncated).count();
        let examples = sentences.iter().zip(encoded);
        let examples = sieve.keep(examples.map(|((sentence, tags), words)| (sentence.line, example(words, tags))))?;
        let lost: LostWords =
            examples.iter().map(|(_, lost)| lost.clone()).enumerate().filter(|(_, lost)| !lost.is_empty()).collect();
        let remark = (!lost.is_empty()).then(|| {
            let words: usize = lost.values().map(Vec::len).sum();
            format!("{words} words have no token (cut off, or dropped by the tokenizer): nothing is told of them")
        });
        Ok(Encoded {
            examples: examples.into_iter().map(|(example, _)| example).collect(),
            collation: Collation::Plain,
            hashes: vec![read.bytes_hash],
            labels: classes.map(|classes| classes.names),
            skipped: sieve.bad,
            truncated,
            remarks: remark.into_iter().collect(),
            references: json!(lost),
        })
    }
}

/// The class of each word's tag, 0 where there are no classes; or the index of a word and what is wrong with its tag.
fn tag_classes(sentence: &Tagged, classes: Option<&Classes>) -> Result<Vec<u32>, (usize, String)> {
    let Some(classes) = classes else { return Ok(vec![0; sentence.words.len()]) };
    let class = |(word, tag)| classes.index(tag, "tag").map_err(|why| (word, why));
    let found = sentence.tags.iter().enumerate().map(class).collect::<Result<_, _>>();
    found.map_err(|(word, why)| (word, format!("word {} ({:?}): {why}", word + 1, sentence.words[word])))
}

/// The example of a sentence with the words that have no token, or what is wrong with it.
fn example(words: EncodedWords, tags: &[u32]) -> Result<(Example, Vec<(usize, u32)>), String> {
    let mut labels = vec![NO_LABEL; words.encoded.ids.len()];
    let mut lost = Vec::new();
    for (word, (first, &class)) in words.firsts.iter().zip(tags).enumerate() {
        match first {
            Some(place) => labels[*place as usize] = class.cast_signed(),
            None => lost.push((word, class)),
        }
    }
    single(words.encoded, Label::Tokens(labels)).map(|example| (example, lost))
}
