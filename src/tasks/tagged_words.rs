//! Encodes words with tags for token classification.

use super::classes::Classes;
use super::record_filter::RecordFilter;
use super::texts::single;
use crate::data::example::NO_LABEL;
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::{Example, Label};
use crate::error::{Context, Error, Result};
use crate::text::Tokenizer;
use crate::text::files::Files;
use crate::text::files::split;
use crate::text::parallel::on_all_cores;
use crate::text::tagged::{self, Tagged, TaggedFormat, TaggedSource};
use crate::text::words::{EncodedWords, WordTokenizer, marks};
use serde_json::json;
use std::collections::BTreeMap;

/// Encodes a file of sentences to examples of at most `max_length` tokens.
///
/// As in Hugging Face's `run_ner`, the tag of a word is the label of its first token; other tokens and special tokens
/// have no label. If no tags are read, as for prediction, class 0 marks the first tokens.
#[derive(Debug, Clone)]
pub struct TaggedWords {
    pub source: TaggedSource,
    /// The tags in order of their ids; `None`: those that the files name, if they agree; else inferred from the data,
    /// sorted as strings.
    pub labels: Option<Vec<String>>,
    pub max_length: usize,
    /// Whether to mark the words.
    pub words: bool,
}

/// The words without a token, for which the model makes no prediction, because they were truncated or the tokenizer
/// drops all of their characters: for each example, word indices in ascending order with their tag classes.
pub type LostWords = BTreeMap<usize, Vec<(usize, u32)>>;

impl Encode for TaggedWords {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let TaggedSource { words, tags, on_bad_record, .. } = &self.source;
        // An unknown format fails on reading.
        let formats: Vec<_> =
            self.source.files.iter().map(|path| tagged::format_of(path, self.source.format).ok()).collect();
        let is_columnar = |format: &TaggedFormat| matches!(format, TaggedFormat::Records(own) if own.is_columnar());
        // Before tags had names, they were numbers.
        let named = tags.is_some() && formats.iter().flatten().any(is_columnar);
        let reading = (formats, words, tags, on_bad_record);
        let settings = format!("{:?}", ("tagged words", self.max_length, &self.labels, reading));
        let settings = if named { settings + " with names of classes" } else { settings };
        if self.words { settings + " with words" } else { settings }
    }

    /// # Errors
    /// Those of [`tagged::read`]; unless invalid records are skipped: an unknown tag, a sentence without tokens (up to
    /// ten reasons listed with file and lines). So many distinct tags that the column must be wrong.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let TaggedSource { files, tags, on_bad_record, .. } = &self.source;
        let read = tagged::read(&self.source)?;
        let classes = |column: &String| -> Result<Classes> {
            let tags = read.records.iter().flat_map(|sentence| sentence.tags.iter().map(|tag| (sentence.line, tag)));
            let advice = "is the last column, or tags_column, the tag?";
            Classes::new(self.labels.as_deref(), tags, &read.class_names(column), files, advice)
        };
        let classes = tags.as_ref().map(classes).transpose().context(files)?;
        let mut filter = RecordFilter::new(files, *on_bad_record, tags.is_some(), read.skipped);
        let is_conll = |number: usize| {
            let path = files.iter().nth(split(number).0);
            path.is_some_and(|path| tagged::format_of(path, self.source.format).is_ok_and(|f| f == TaggedFormat::Conll))
        };
        let sentences = read.records.iter().map(|sentence| match tag_classes(sentence, classes.as_ref()) {
            Ok(found) => (sentence.line, Ok((sentence, found))),
            // In CoNLL each word is on its own line.
            Err((word, why)) => (sentence.line + if is_conll(sentence.line) { word } else { 0 }, Err(why)),
        });
        let sentences = filter.keep(sentences)?;

        let special = tokenizer.wordless_ids();
        let tokenizer = WordTokenizer::new(tokenizer);
        let encoded = on_all_cores(&sentences, |(sentence, _)| tokenizer.encode(&sentence.words, self.max_length));
        let encoded = encoded.into_iter().collect::<Result<Vec<_>>>()?;
        let truncated = encoded.iter().filter(|e| e.encoded.truncated).count();
        let examples = sentences.iter().zip(encoded);
        let examples = examples.map(|((sentence, tags), words)| {
            let marked = self.words.then(|| marks(&words.encoded, &words.word_ids, &special));
            (sentence.line, example(words, tags).map(|(example, lost)| (example, lost, marked)))
        });
        let examples = filter.keep(examples)?;
        let lost = examples.iter().map(|(_, lost, _)| lost.clone()).enumerate();
        let lost: LostWords = lost.filter(|(_, lost)| !lost.is_empty()).collect();
        let remark = (!lost.is_empty()).then(|| {
            let words: usize = lost.values().map(Vec::len).sum();
            format!("{words} words have no token (truncated, or dropped by the tokenizer) and no prediction")
        });
        let mut extras = Extras::default();
        let examples = examples.into_iter().map(|(example, _, marked)| {
            extras.words.extend(marked);
            example
        });
        let examples = examples.collect();
        let labels = classes.map(|classes| classes.names);
        let tags = read.records.iter().flat_map(|sentence| sentence.tags.iter().map(|tag| (sentence.line, tag)));
        let odd = super::classes::remarks(labels.as_deref().unwrap_or_default(), tags, files);
        let remarks = read.remarks.into_iter().chain(odd).chain(remark).collect();
        let plain = Encoded::plain(examples, read.hashes, filter.bad, truncated);
        Ok(Encoded { labels, remarks, references: json!(lost), extras, ..plain })
    }
}

/// Encodes the words of one sentence without tags, as if they were a record; returns the example and its words without a
/// token, as in [`LostWords`].
///
/// # Errors
/// Exit 2: a sentence without tokens; as [`WordTokenizer::encode`].
pub fn one(tokenizer: &WordTokenizer, words: &[String], max_length: usize) -> Result<(Example, Vec<(usize, u32)>)> {
    example(tokenizer.encode(words, max_length)?, &vec![0; words.len()]).map_err(Error::input)
}

/// Returns the class of each word's tag, 0 without classes; or the index of a word and an error message for its tag.
fn tag_classes(sentence: &Tagged, classes: Option<&Classes>) -> Result<Vec<u32>, (usize, String)> {
    let Some(classes) = classes else { return Ok(vec![0; sentence.words.len()]) };
    let class = |(word, tag)| classes.index(tag, "tag").map_err(|why| (word, why));
    let found = sentence.tags.iter().enumerate().map(class).collect::<Result<_, _>>();
    found.map_err(|(word, why)| (word, format!("word {} ({:?}): {why}", word + 1, sentence.words[word])))
}

/// Returns the example of a sentence and its words without a token, or an error message.
fn example(words: EncodedWords, tags: &[u32]) -> Result<(Example, Vec<(usize, u32)>), String> {
    let mut labels = vec![NO_LABEL; words.encoded.ids.len()];
    let mut lost = Vec::new();
    for (word, (first, &class)) in words.firsts.iter().zip(tags).enumerate() {
        match first {
            Some(position) => labels[*position as usize] = class.cast_signed(),
            None => lost.push((word, class)),
        }
    }
    single(words.encoded, Label::Tokens(labels)).map(|example| (example, lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::{Prepared, prepare};
    use crate::error::Kind;
    use crate::tasks::fixtures;
    use crate::text::records::OnBad;
    use std::collections::HashSet;

    struct Case {
        dir: tempfile::TempDir,
        reader: TaggedWords,
    }

    impl Case {
        fn new(name: &str, content: &str) -> Self {
            let dir = fixtures::folder();
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let (words, tags, on_bad_record) = ("words".into(), Some("tags".into()), OnBad::Error);
            let source = TaggedSource { files: path.into(), format: None, words, tags, on_bad_record };
            Case { dir, reader: TaggedWords { source, labels: None, max_length: 6, words: false } }
        }

        fn prepare(&self) -> Result<Prepared> {
            prepare(&self.reader, self.dir.path(), Some(&self.dir.path().join("cache")))
        }

        fn message(&self) -> String {
            let error = self.prepare().err().unwrap();
            assert_eq!(error.kind(), Kind::Input);
            error.to_string()
        }

        fn lost(&self) -> LostWords {
            serde_json::from_value(self.prepare().unwrap().facts.references).unwrap()
        }
    }

    const NONE: i32 = NO_LABEL;
    /// `d-e` has three tokens, the zero-width space none.
    const SENTENCES: &str = "a\tO\nd-e\tB-x\n\nb\tI-x\n\u{200b}\tB-x\nc\tO\nd\tO\ne\tO\nf\tB-x\n";

    #[test]
    fn tags_are_labels_of_first_tokens() {
        let case = Case::new("a.conll", SENTENCES);
        let prepared = case.prepare().unwrap();
        let data = &prepared.dataset;
        assert_eq!(prepared.facts.labels.as_deref().unwrap(), ["B-x", "I-x", "O"]);
        assert_eq!(data.ids(0), [2, 5, 8, 1, 9, 3]);
        assert_eq!(data.label(0), Label::Tokens(vec![NONE, 2, 0, NONE, NONE, NONE]));
        assert_eq!(data.ids(1), [2, 6, 7, 8, 9, 3]);
        assert_eq!(data.label(1), Label::Tokens(vec![NONE, 1, 2, 2, 2, NONE]));
        assert_eq!(case.lost(), LostWords::from([(1, vec![(1, 0), (5, 0)])]), "one dropped, one truncated");
        assert_eq!(prepared.facts.truncated, 1);
        assert!(prepared.facts.remarks[0].starts_with("2 words have no token"), "{:?}", prepared.facts.remarks);
    }

    #[cfg(feature = "columnar")]
    #[test]
    fn tags_that_a_file_names_keep_their_order() {
        let mut case = Case::new("a.conll", SENTENCES);
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar/classes.parquet");
        (case.reader.source.files, case.reader.source.on_bad_record) = (path.clone().into(), OnBad::Skip);
        let prepared = case.prepare().unwrap();
        assert_eq!(prepared.facts.labels.as_deref().unwrap(), ["O", "B-x", "I-x"]);
        assert_eq!((prepared.dataset.len(), prepared.facts.skipped), (3, 2));
        assert_eq!(prepared.dataset.label(0), Label::Tokens(vec![NONE, 1, 2, NONE]));
        let numbers = case.dir.path().join("a.jsonl");
        std::fs::write(&numbers, r#"{"words": ["a", "b"], "tags": [1, 2]}"#).unwrap();
        case.reader.source.files = Files::find(&[path, numbers]).unwrap();
        let prepared = case.prepare().unwrap();
        assert_eq!(prepared.facts.labels.as_deref().unwrap(), ["O", "B-x", "I-x"], "numbers of the same classes");
        assert_eq!(prepared.dataset.label(3), Label::Tokens(vec![NONE, 1, 2, NONE]));
        case.reader.labels = Some(["0", "1", "2"].map(String::from).to_vec());
        assert_eq!(case.prepare().unwrap().dataset.label(0), Label::Tokens(vec![NONE, 1, 2, NONE]));
    }

    #[test]
    fn the_words_of_the_file_are_marked() {
        let mut case = Case::new("a.conll", SENTENCES);
        case.reader.words = true;
        let data = case.prepare().unwrap().dataset;
        assert_eq!((data.words(0), data.words(1)), (&[0, 1, 2, 3, 3, 0][..], &[0, 1, 2, 2, 2, 0][..]));
    }

    #[test]
    fn without_tags_first_tokens_are_marked() {
        let mut case = Case::new("a.conll", "a\nd-e\n");
        case.reader.source.tags = None;
        let prepared = case.prepare().unwrap();
        assert_eq!(prepared.dataset.label(0), Label::Tokens(vec![NONE, 0, 0, NONE, NONE, NONE]));
        assert_eq!((prepared.facts.labels, prepared.facts.remarks), (None, vec![]));
    }

    #[test]
    fn an_unknown_tag_is_reported_with_its_line() {
        let mut case = Case::new("a.conll", SENTENCES);
        case.reader.labels = Some(vec!["O".into(), "B-x".into()]);
        let message = case.message();
        let expected = "a.conll:4: word 1 (\"b\"): the tag \"I-x\" is not one of the 2 known: \"O\", \"B-x\"";
        assert!(message.contains(expected), "{message}");
        case.reader.labels = Some(vec!["O".into(), "I-x".into()]);
        assert!(case.message().contains("a.conll:2: word 2 (\"d-e\"): the tag \"B-x\""), "{}", case.message());
        case.reader.source.on_bad_record = OnBad::Skip;
        assert!(case.message().contains("a.conll:2: "), "no valid record remains");
        case.reader.labels = Some(vec!["B-x".into(), "O".into()]);
        let prepared = case.prepare().unwrap();
        assert_eq!((prepared.dataset.len(), prepared.facts.skipped, prepared.facts.skipped_reasons[0].0), (1, 1, 4));
        let line = r#"{"words": ["a", "b"], "tags": ["O", "B-y"]}"#;
        let mut case = Case::new("a.jsonl", &format!("{line}\n\n{line}\n"));
        case.reader.labels = Some(vec!["O".into()]);
        let message = case.message();
        assert!(message.contains("a.jsonl:1: word 2 (\"b\"): the tag \"B-y\""), "{message}");
        assert!(message.contains("(2 of 2 records: lines 1, 3)"), "{message}");
    }

    #[test]
    fn a_text_column_is_not_read_as_tags() {
        let rows: String = (0..60).map(|i| format!("a\tx{i}\n")).collect();
        let message = Case::new("a.conll", &rows).message();
        assert!(message.contains("a.conll: 60 different labels among 60: is the last column"), "{message}");
    }

    #[test]
    fn every_setting_changes_the_fingerprint() {
        let mut case = Case::new("a.conll", SENTENCES);
        let changes: [fn(&mut TaggedWords); 6] = [
            |_| {},
            |reader| reader.max_length = 7,
            |reader| reader.labels = Some(["O", "B-x", "I-x"].map(String::from).to_vec()),
            |reader| reader.source.on_bad_record = OnBad::Skip,
            |reader| reader.source.tags = None,
            |reader| reader.words = true,
        ];
        let fingerprints: HashSet<_> = changes
            .map(|change| {
                change(&mut case.reader);
                case.prepare().unwrap().dataset.fingerprint()
            })
            .into();
        assert_eq!(fingerprints.len(), changes.len());
    }
}
