//! Tests of reading labelled texts: labels, values, words, weights, the cache.

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
    words: bool,
}

impl Case {
    fn new(name: &str, content: &str, target: Target) -> Self {
        let dir = fixtures::folder();
        std::fs::write(dir.path().join(name), content).unwrap();
        let (files, fields) = (dir.path().join(name).into(), Fields::default());
        let source = Source { files, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error };
        Case { dir, source, target, max_length: 8, words: false }
    }

    fn prepare(&self) -> Result<Prepared> {
        let cache = self.dir.path().join("cache");
        let (source, target, max_length) = (self.source.clone(), self.target.clone(), self.max_length);
        prepare(&Texts { source, target, max_length, words: self.words }, self.dir.path(), Some(&cache))
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

/// Files with classes that `tests/reference/columnar.py` wrote with `datasets`; two records have no label.
#[cfg(feature = "columnar")]
#[test]
fn classes_that_files_name_keep_their_order() {
    let path = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar").join(name);
    let mut case = Case::new("a.jsonl", "{\"text\": \"a\", \"label\": \"awful\"}\n", FOUND);
    case.source.on_bad_record = OnBad::Skip;
    case.source.files = Files::find(&[path("classes.parquet"), path("classes.arrow")]).unwrap();
    let prepared = case.prepare().unwrap();
    assert_eq!(prepared.facts.labels.unwrap(), ["terrible", "ok", "great", "unused"]);
    let labels: Vec<Label> = (0..prepared.dataset.len()).map(|i| prepared.dataset.label(i)).collect();
    assert_eq!(labels, [2, 0, 1, 2, 0, 1].map(Label::Class));
    case.source.files = Files::find(&[path("classes.parquet"), case.dir.path().join("a.jsonl")]).unwrap();
    let labels = case.prepare().unwrap().facts.labels.unwrap();
    assert_eq!(labels, ["awful", "great", "ok", "terrible"], "a file without names of classes");

    let numbers = "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": \"great\"}\n";
    std::fs::write(case.dir.path().join("a.jsonl"), numbers).unwrap();
    let prepared = case.prepare().unwrap();
    assert_eq!(prepared.facts.labels.unwrap(), ["terrible", "ok", "great", "unused"], "numbers of the same classes");
    assert_eq!([3, 4].map(|i| prepared.dataset.label(i)), [1, 2].map(Label::Class));

    case.source.files = path("classes.arrow").into();
    case.target = given(&["0", "1", "2"]);
    let data = case.prepare().unwrap().dataset;
    assert_eq!([0, 1, 2].map(|i| data.label(i)), [2, 0, 1].map(Label::Class), "known by their numbers");
    case.target = given(&["x"]);
    let message = case.message();
    let expected = "the label \"great\" is not one of the 1 known: \"x\"; the file names its classes \
                    (ClassLabel) \"terrible\", \"ok\", \"great\", \"unused\": use these names in task.labels";
    assert!(message.contains(expected), "{message}");
    case.target = given(&["great", "terrible"]);
    let prepared = case.prepare().unwrap();
    assert_eq!((prepared.dataset.len(), prepared.dataset.label(0)), (2, Label::Class(0)));
    case.target = Target::Value;
    let data = case.prepare().unwrap().dataset;
    let labels: Vec<Label> = (0..data.len()).map(|i| data.label(i)).collect();
    assert_eq!(labels, [2.0, 0.0, 1.0, -1.0].map(Label::Value), "a number is not named");
    case.source.fields.label = Some("large".into());
    case.target = Target::Flags { labels: None };
    let prepared = case.prepare().unwrap();
    assert_eq!(prepared.facts.labels.unwrap(), ["terrible", "ok", "great", "unused"]);
    assert_eq!(prepared.dataset.label(0), Label::Flags(vec![false, false, false, true]));
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
fn words_are_marked_and_change_nothing_else() {
    let mut case = Case::new("a.tsv", "text\ttext_pair\tlabel\na-b [SEP] c\td e\t1\n\t\t0\nf\t\t1\n", FOUND);
    case.max_length = 12;
    let plain = case.prepare().unwrap().dataset;
    assert!(plain.words(0).is_empty() && !plain.has_words());
    case.words = true;
    for _ in 0..2 {
        let data = case.prepare().unwrap().dataset;
        assert_ne!(data.fingerprint(), plain.fingerprint());
        assert!((0..3).all(|i| data.ids(i) == plain.ids(i)));
        assert_eq!(data.words(0), [0, 1, 2, 2, 0, 2, 0, 1, 2, 0], "{:?}", data.ids(0));
        assert_eq!((data.words(1), data.words(2)), (&[0; 3][..], &[0, 1, 0, 0][..]));
    }
}

#[test]
fn weights_of_examples() {
    let mut case = Case::new("a.csv", "weight,label,text\n2,x,a\n0.5,y,b\n0,x,c\n", FOUND);
    let plain = case.prepare().unwrap().dataset;
    assert!(!plain.is_weighted() && plain.weight(0) == 1.0);
    case.source.fields.weight = Some("weight".into());
    for _ in 0..2 {
        let data = case.prepare().unwrap().dataset;
        assert_eq!([0, 1, 2].map(|i| data.weight(i)), [2.0, 0.5, 0.0]);
        assert!(data.is_weighted() && data.fingerprint() != plain.fingerprint());
    }
    let mut case = Case::new("b.csv", "weight,label,text\n-1,x,a\nnan,y,b\n,x,c\ntwo,x,c\n1e39,y,c\n1,y,c\n", FOUND);
    case.source.fields.weight = Some("weight".into());
    let message = case.message();
    let expected = "b.csv:2: the weight (column \"weight\") is \"-1\"; it must be a finite number >= 0";
    assert!(message.contains(expected), "{message}");
    assert!((3..7).all(|line| message.contains(&format!("b.csv:{line}: the weight"))), "{message}");
    case.source.on_bad_record = OnBad::Skip;
    assert_eq!(case.prepare().unwrap().dataset.weight(0), 1.0);
    let lines = "{\"text\": \"a\", \"label\": \"x\", \"w\": 3}\n{\"text\": \"a\", \"label\": \"y\", \"w\": null}\n\
                 {\"text\": \"a\", \"label\": \"y\"}\n";
    let mut case = Case::new("c.jsonl", lines, FOUND);
    case.source.fields.weight = Some("w".into());
    let message = case.message();
    assert!(message.contains("c.jsonl:2: the weight (column \"w\") is null; it must be a number >= 0"), "{message}");
    let missing = "c.jsonl:3: no column \"w\"; the record has \"text\", \"label\": set weight_column";
    assert!(message.contains(missing), "{message}");
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
