//! Encodes records of text and label for classification and regression.

use super::classes::{self, Classes};
use super::corpus::many;
use super::record_filter::RecordFilter;
use crate::data::prepare::{Encode, Encoded};
use crate::data::{Example, Label};
use crate::error::{Context, Error, Result};
use crate::text::files::Files;
use crate::text::records::{self, RawLabel, Record, Records, Source};
use crate::text::tokenizer::{self, Tokenizer};

/// Minimum number of records for comparing the first row with the others.
const ENOUGH_RECORDS: usize = 10;

/// The type of the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Single-label.
    Class {
        /// Class names by index. `None`: inferred from the data, sorted as strings.
        labels: Option<Vec<String>>,
    },
    /// Multi-label: any number of classes, including none.
    Flags {
        /// As in [`Target::Class`].
        labels: Option<Vec<String>>,
    },
    /// A finite number.
    Value,
    /// No label is read.
    None,
}

/// Encodes a file of labelled texts or pairs to examples of at most `max_length` tokens.
#[derive(Debug, Clone)]
pub struct Texts {
    pub source: Source,
    pub target: Target,
    pub max_length: usize,
}

impl Texts {
    /// Returns the source, with the label column only if labels are read.
    fn source(&self) -> Source {
        let mut source = self.source.clone();
        if self.target == Target::None {
            source.fields.label = None;
        }
        source.fields.many_labels = matches!(self.target, Target::Flags { .. });
        source
    }

    fn classes(&self, read: &Records) -> Result<Option<Classes>> {
        let (Target::Class { labels } | Target::Flags { labels }) = &self.target else { return Ok(None) };
        let files = &self.source.files;
        let advice = "is label_column right? (for a file without a header: columns)";
        let classes = Classes::new(labels.as_deref(), all_labels(&read.records), files, advice)?;
        if labels.is_none() {
            no_header(read, files)?;
        }
        Ok(Some(classes))
    }

    fn label(&self, record: &Record, classes: Option<&Classes>) -> Result<Label, String> {
        let labels = record.labels.as_slice();
        match (&self.target, classes, labels) {
            (Target::Flags { .. }, Some(classes), _) => {
                let mut flags = vec![false; classes.names.len()];
                for label in labels {
                    flags[classes.index(label, "label")? as usize] = true;
                }
                Ok(Label::Flags(flags))
            }
            (Target::Class { .. }, Some(classes), [label]) => classes.index(label, "label").map(Label::Class),
            (Target::Value, _, [label]) => {
                let raw = label.as_str();
                // A finite f64 may overflow to infinity as f32.
                let value = raw.trim().parse::<f64>().map(|value| value as f32).ok().filter(|value| value.is_finite());
                value.map(Label::Value).ok_or_else(|| format!("the label {raw:?} is not a finite number"))
            }
            (Target::None, ..) => Ok(Label::None),
            _ => Err("no label".into()),
        }
    }
}

impl Encode for Texts {
    fn files(&self) -> &Files {
        &self.source.files
    }

    fn settings(&self) -> String {
        let source = self.source();
        let Source { columns, header, fields, on_bad_record, .. } = &source;
        let reading = (records::formats(&source.files, source.format), columns, header, fields, on_bad_record);
        format!("{:?}", ("texts", self.max_length, &self.target, reading))
    }

    /// # Errors
    /// Those of [`records::read`]; unless invalid records are skipped: an unknown label, or one that is not a finite
    /// number; a text without tokens (up to ten reasons listed with file and lines). If classes are inferred from the
    /// data: too many classes, or a first row that looks like a header.
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let source = self.source();
        let read = records::read(&source)?;
        let classes = self.classes(&read).context(&source.files)?;
        let labelled = source.fields.label.is_some();
        let mut filter = RecordFilter::new(&source.files, source.on_bad_record, labelled, read.skipped);
        let label = |record| (self.label(record, classes.as_ref())).map(|label| (label, record));
        let labelled = filter.keep(read.records.iter().map(|record| (record.line, label(record))))?;

        let inputs: Vec<_> = labelled.iter().map(|(_, r)| (r.text.as_str(), r.text_pair.as_deref())).collect();
        let encoded = tokenizer.encode_batch(&inputs, self.max_length)?;
        let truncated = encoded.iter().filter(|e| e.truncated).count();
        let examples = encoded.into_iter().zip(labelled);
        let examples = examples.map(|(encoded, (label, record))| (record.line, single(encoded, label)));
        let examples = filter.keep(examples)?;
        let plain = Encoded::plain(examples, read.hashes, filter.bad, truncated);
        // Without labels, there is no other hint that the first row may be a header.
        let guessed = read.guessed.filter(|_| self.target == Target::None && source.columns.is_none());
        let remark = |line| {
            format!(
                "{} is read as a record, as it contains no known column name (else set header = true)",
                source.files.line(line)
            )
        };
        let mut remarks = read.remarks;
        remarks.extend(guessed.map(remark));
        let is_blank = |record: &&Record| {
            record.text.trim().is_empty() && record.text_pair.as_ref().is_none_or(|pair| pair.trim().is_empty())
        };
        let blank = read.records.iter().filter(is_blank).count();
        remarks.extend((blank > 0).then(|| format!("{} blank", many(blank, "text"))));
        let labels = classes.map(|classes| classes.names);
        let names = labels.as_deref().unwrap_or_default();
        remarks.extend(classes::remarks(names, all_labels(&read.records), &source.files));
        Ok(Encoded { labels, remarks, ..plain })
    }
}

/// Returns the labels with the lines of their records.
fn all_labels(records: &[Record]) -> impl Iterator<Item = (usize, &RawLabel)> {
    records.iter().flat_map(|record| record.labels.iter().map(|label| (record.line, label)))
}

/// Returns an example of one sequence, or an error message.
pub(super) fn single(encoded: tokenizer::Encoded, label: Label) -> Result<Example, String> {
    if encoded.ids.is_empty() {
        return Err("the text has no tokens, and the tokenizer adds no special tokens".into());
    }
    Ok(Example::single(encoded.ids, encoded.type_ids, label))
}

/// Rejects a first row that was assumed to be a record, but whose label is not a number and unique: almost certainly a
/// header.
fn no_header(read: &Records, files: &Files) -> Result<()> {
    let first = read.records.first().filter(|first| read.guessed == Some(first.line));
    let Some((first, [label])) = first.map(|first| (first, first.labels.as_slice())) else { return Ok(()) };
    let others = read.records.iter().skip(1).flat_map(|record| &record.labels);
    let few = read.records.len() < ENOUGH_RECORDS;
    if few
        || label.as_str().trim().parse::<f64>().is_ok()
        || others.into_iter().any(|other| other.as_str() == label.as_str())
    {
        return Ok(());
    }
    Err(Error::input(format!(
        "{} looks like a header ({:?}, {:?}): set text_column and label_column, or header = false",
        files.line(first.line),
        first.text,
        label.as_str()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::CacheUse;
    use crate::data::prepare::{Prepared, prepare};
    use crate::error::Kind;
    use crate::tasks::fixtures;
    use crate::text::records::{Fields, OnBad};
    use std::path::PathBuf;

    /// A folder with a BERT vocabulary of letters, and a data file in it.
    struct Case {
        dir: tempfile::TempDir,
        source: Source,
        target: Target,
        max_length: usize,
    }

    impl Case {
        fn new(name: &str, content: &str, target: Target) -> Self {
            let dir = fixtures::folder();
            std::fs::write(dir.path().join(name), content).unwrap();
            let (files, fields) = (dir.path().join(name).into(), Fields::default());
            let source =
                Source { files, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error };
            Case { dir, source, target, max_length: 8 }
        }

        fn prepare(&self) -> Result<Prepared> {
            let cache = self.dir.path().join("cache");
            let (source, target, max_length) = (self.source.clone(), self.target.clone(), self.max_length);
            prepare(&Texts { source, target, max_length }, self.dir.path(), Some(&cache))
        }

        fn message(&self) -> String {
            let error = self.prepare().err().unwrap();
            assert_eq!(error.kind(), Kind::Input);
            error.to_string()
        }
    }

    const FOUND: Target = Target::Class { labels: None };

    fn given(labels: &[&str]) -> Target {
        Target::Class { labels: Some(labels.iter().map(|l| l.to_string()).collect()) }
    }

    #[test]
    fn labels_are_inferred_and_sorted() {
        let case = Case::new("a.tsv", "a b\t10\nc\t9\nd e f g h i j k\t10\n", FOUND);
        let prepared = case.prepare().unwrap();
        assert_eq!(prepared.facts.labels.unwrap(), ["9", "10"]);
        assert_eq!((prepared.facts.truncated, prepared.facts.skipped, prepared.facts.vocab_size), (1, 0, 14));
        let data = prepared.dataset;
        assert_eq!((data.len(), data.lengths()), (3, vec![4, 3, 8]));
        assert_eq!((data.ids(0), data.label(0)), (&[2, 5, 6, 3][..], Label::Class(1)));
        assert_eq!((data.label(1), prepared.facts.segments), (Label::Class(0), 1));
        let pairs = Case::new("a.tsv", "text\ttext_pair\tlabel\na\tb\t1\n", FOUND);
        assert_eq!(
            [pairs.prepare(), pairs.prepare()].map(|prepared| prepared.unwrap().facts.segments),
            [2, 2],
            "built and hit"
        );
    }

    #[test]
    fn given_labels_keep_their_order_and_others_are_errors() {
        let mut case = Case::new("a.jsonl", "{\"text\": \"a\", \"label\": 0}\n", given(&["1", "0"]));
        assert_eq!(case.prepare().unwrap().dataset.label(0), Label::Class(1));
        case.target = given(&["1", "2"]);
        let message = case.message();
        assert!(message.contains("a.jsonl:1: the label \"0\" is not one of the 2 known: \"1\", \"2\""), "{message}");
        case.target = given(&["1", "1"]);
        assert!(case.message().contains("has a duplicate"));
    }

    /// Columns that are certainly not class labels.
    #[test]
    fn labels_that_cannot_be_classes_are_errors() {
        let texts: String = (0..60).map(|i| format!("text {i}\tgood\n")).collect();
        let mut case = Case::new("a.tsv", &texts, FOUND);
        case.source.columns = Some(vec!["label".into(), "text".into()]);
        let message = case.message();
        assert!(message.contains("a.tsv: 60 different labels among 60: is label_column right?"), "{message}");

        let rows = "a\tgood\nb\tbad\n".repeat(5);
        let mut case = Case::new("b.tsv", &format!("review\tsentiment\n{rows}"), FOUND);
        let message = case.message();
        assert!(message.contains("b.tsv: line 1 looks like a header (\"review\", \"sentiment\")"), "{message}");
        assert!(message.contains("set text_column and label_column, or header = false"), "{message}");
        case.source.header = Some(false);
        assert_eq!(case.prepare().unwrap().facts.labels.unwrap(), ["bad", "good", "sentiment"]);
        let few = Case::new("c.tsv", "review\tsentiment\na\tgood\nb\tbad\n", FOUND);
        assert_eq!(few.prepare().unwrap().dataset.len(), 3, "too few records to compare");
        let numbers = Case::new("d.tsv", &format!("review\t5\n{rows}"), FOUND);
        assert_eq!(numbers.prepare().unwrap().dataset.len(), 11, "no column is named 5");
    }

    #[test]
    fn many_labels_become_flags() {
        let found = || Target::Flags { labels: None };
        let content = "text\tlabel\na\tyes, no\nb\t\nc\tno\n";
        let prepared = Case::new("a.tsv", content, found()).prepare().unwrap();
        assert_eq!(prepared.facts.labels.unwrap(), ["no", "yes"]);
        let labels: Vec<Label> = (0..3).map(|i| prepared.dataset.label(i)).collect();
        assert_eq!(labels, [[true, true], [false, false], [true, false]].map(|flags| Label::Flags(flags.to_vec())));
        let content = "{\"text\": \"a\", \"label\": [\"no\"]}\n{\"text\": \"a\", \"label\": [\"no\", \"si\"]}\n";
        let mut case = Case::new("a.jsonl", content, Target::Flags { labels: Some(vec!["no".into()]) });
        let message = case.message();
        assert!(message.contains("a.jsonl:2: the label \"si\" is not one of the 1 known: \"no\""), "{message}");
        case.source.on_bad_record = OnBad::Skip;
        assert_eq!(case.prepare().unwrap().dataset.len(), 1);
    }

    #[test]
    fn values_are_finite_numbers() {
        let mut case = Case::new("a.tsv", "a\t1\nb\t -2.5e-1\n", Target::Value);
        let data = case.prepare().unwrap().dataset;
        assert_eq!((data.label(0), data.label(1)), (Label::Value(1.0), Label::Value(-0.25)));
        case = Case::new("a.tsv", "a\t1\nb\tgood\nc\tnan\nd\t1e39\ne\tinf\n", Target::Value);
        let message = case.message();
        for line in ["a.tsv:2: the label \"good\" is not", "a.tsv:3: ", "a.tsv:4: ", "a.tsv:5: "] {
            assert!(message.contains(line), "{message}");
        }
        case.source.on_bad_record = OnBad::Skip;
        let prepared = case.prepare().unwrap();
        assert_eq!((prepared.dataset.len(), prepared.facts.skipped, prepared.facts.skipped_reasons[0].0), (1, 4, 2));
    }

    #[test]
    fn a_second_run_hits_the_cache_with_the_same_content() {
        let case = Case::new("a.tsv", "a\t1\n\t0\n", FOUND);
        let built = case.prepare().unwrap();
        let hit = case.prepare().unwrap();
        assert_eq!((built.cache, hit.cache), (CacheUse::Built, CacheUse::Hit));
        assert_eq!(built.facts, hit.facts);
        assert_eq!((hit.dataset.lengths(), hit.dataset.fingerprint()), (vec![3, 2], built.dataset.fingerprint()));
    }

    #[test]
    fn every_setting_changes_the_fingerprint() {
        let mut case = Case::new("a.tsv", "a\t1\n", FOUND);
        let mut seen = vec![case.prepare().unwrap().dataset.fingerprint()];
        let mut next = |case: &Case| {
            let fingerprint = case.prepare().unwrap().dataset.fingerprint();
            assert!(!seen.contains(&fingerprint), "change {}", seen.len());
            seen.push(fingerprint);
        };
        case.max_length = 9;
        next(&case);
        case.target = given(&["1"]);
        next(&case);
        case.target = Target::None;
        next(&case);
        case.source.on_bad_record = OnBad::Skip;
        next(&case);
        std::fs::write(case.dir.path().join("a.tsv"), "a\t1\nb\t1\n").unwrap();
        next(&case);
        case.source.format = Some(records::Format::Csv);
        case.source.columns = Some(vec!["text".into()]);
        next(&case);
        std::fs::write(case.dir.path().join("tokenizer_config.json"), "{\"do_lower_case\": false}").unwrap();
        next(&case);
    }

    #[test]
    fn labels_are_not_read_for_prediction() {
        let case = Case::new("a.jsonl", "{\"text\": \"a\"}\n", Target::None);
        let data = case.prepare().unwrap();
        assert_eq!((data.dataset.label(0), data.facts.remarks.len()), (Label::None, 0));
        let mut case = Case::new("a.csv", "a\nb\n", Target::None);
        case.source.columns = Some(vec!["text".into()]);
        assert!(case.prepare().unwrap().facts.remarks.is_empty(), "columns say that there is no header");
        case.source.columns = None;
        let remarks = case.prepare().unwrap().facts.remarks;
        assert!(remarks.len() == 1 && remarks[0].starts_with("line 1 is read as a record"), "{remarks:?}");
    }

    #[test]
    fn sst2_is_read_tokenised_and_cached_whole() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/sst2/train.tsv");
        if !path.exists() {
            eprintln!("SKIPPED: no SST-2 at {}; see shared/data", path.display());
            return;
        }
        let mut case = Case::new("unused.tsv", "", FOUND);
        (case.source.files, case.max_length) = (path.into(), 128);
        let (built, hit) = (case.prepare().unwrap(), case.prepare().unwrap());
        assert_eq!((built.dataset.len(), hit.dataset.len(), hit.cache), (6920, 6920, CacheUse::Hit));
        assert_eq!(hit.facts.labels.unwrap(), ["0", "1"]);
        let positive = (0..6920).filter(|&i| hit.dataset.label(i) == Label::Class(1)).count();
        assert_eq!(positive, 3610);
        assert!((0..6920).all(|i| built.dataset.ids(i) == hit.dataset.ids(i)));
    }
}
