//! A file of records becomes a checked, tokenised, cached data set.

use super::cache::{self, CacheUse, Meta, VERSION};
use super::classes::Classes;
use super::dataset::Dataset;
use super::example::Example;
use crate::error::{Context, Error, Result};
use crate::text::records::{self, Record, Source};
use crate::text::tokenizer::Tokenizer;
use std::path::Path;

/// How many reasons for skipped records are kept.
const REASONS: usize = 100;

/// What the labels mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One class of many: of these, in this order, or those found in the data, sorted as strings.
    Class {
        /// The class names by class index.
        labels: Option<Vec<String>>,
    },
    /// A finite number.
    Value,
    /// No label is read.
    None,
}

/// A data set, ready for use.
pub struct Prepared {
    /// The examples, in the order of the file.
    pub dataset: Dataset,
    /// The class names by class index, for [`Target::Class`].
    pub labels: Option<Vec<String>>,
    /// The number of records left out; 0 unless the source skips bad ones.
    pub skipped: usize,
    /// Line and reason of the first of them (at most 100).
    pub skipped_reasons: Vec<(usize, String)>,
    /// The number of examples cut to the maximum length.
    pub truncated: usize,
    /// The rows that the embedding needs for this tokenizer.
    pub vocab_size: usize,
    /// The rows that the embedding of segments needs for these examples: one more than the largest segment.
    pub segments: usize,
    /// Whether the cache had it all.
    pub cache: CacheUse,
}

/// Reads, checks and tokenises a file with the tokenizer of a model folder, to at most `max_length` tokens an
/// example, or takes the same from the cache (`cache_dir`, else [`cache::default_dir`]).
///
/// # Errors
/// Those of [`records::read`] and [`Tokenizer::from_folder`]; unless bad records are skipped: a label that is not
/// in the list, or not a finite number; a text without any token (all exit 2, up to ten reasons listed with file and
/// lines). Where classes are found in the data: so many of them, or a first row so unlike the others, that the columns
/// must be wrong (exit 2).
pub fn prepare(
    source: &Source,
    model_dir: &Path,
    max_length: usize,
    target: &Target,
    cache_dir: Option<&Path>,
) -> Result<Prepared> {
    let mut source = source.clone();
    if *target == Target::None {
        source.fields.label = None;
    } else if source.fields.label.is_none() {
        return Err(Error::input(format!("{}: labels are needed; set label_column", source.path.display())));
    }
    let data_hash = records::hash_file(&source.path)?;
    let key = key(&source, &data_hash, &Tokenizer::fingerprint_of(model_dir)?, max_length, target)?;
    let build = || build(&source, model_dir, max_length, target, &data_hash, key);
    let default = cache::default_dir();
    let (dataset, meta, cache) = match cache_dir.or(default.as_deref()) {
        Some(dir) => cache::load_or_build(dir, &key, build)?,
        None => build().map(|(dataset, meta)| (dataset, meta, CacheUse::Built))?,
    };
    let Meta { labels, skipped, skipped_reasons, truncated, vocab_size, segments } = meta;
    Ok(Prepared { dataset, labels, skipped, skipped_reasons, truncated, vocab_size, segments, cache })
}

/// The hash of all that the data set follows from. Where the file lies is not part of it.
fn key(source: &Source, data: &[u8; 32], tokenizer: &[u8; 32], max_length: usize, target: &Target) -> Result<[u8; 32]> {
    // The debug form quotes strings, so that no two settings can look alike.
    let Source { columns, header, fields, on_bad_record, .. } = source;
    let reading = (records::format_of(source)?, columns, header, fields, on_bad_record);
    let settings = format!("{:?}", (VERSION, data, tokenizer, max_length, target, reading));
    Ok(*blake3::hash(settings.as_bytes()).as_bytes())
}

fn build(
    source: &Source,
    model_dir: &Path,
    max_length: usize,
    target: &Target,
    data_hash: &[u8; 32],
    key: [u8; 32],
) -> Result<(Dataset, Meta)> {
    let read = records::read(source)?;
    let path = source.path.display();
    if read.bytes_hash != *data_hash {
        return Err(Error::input(format!("{path}: the file changed while it was read; start again")));
    }
    let classes = Classes::new(target, &read).context(&path)?;
    let mut bad = read.skipped;
    let (labelled, wrong) =
        separate(read.records.iter().map(|record| classes.label(target, record)).zip(&read.records));
    bad.extend(wrong);
    records::settle_bad(source, labelled.len(), &bad)?;

    let tokenizer = Tokenizer::from_folder(model_dir)?;
    let inputs: Vec<_> = labelled.iter().map(|(_, r)| (r.text.as_str(), r.text_pair.as_deref())).collect();
    let encoded = tokenizer.encode_batch(&inputs, max_length)?;
    let truncated = encoded.iter().filter(|e| e.truncated).count();
    let segments = encoded.iter().flat_map(|e| &e.type_ids).max().map_or(1, |&largest| usize::from(largest) + 1);
    let examples = encoded.into_iter().zip(&labelled).map(|(encoded, &(label, record))| {
        let example = Example { ids: encoded.ids, type_ids: encoded.type_ids, label };
        let none = "the text has no token; the tokenizer adds none of its own";
        (if example.ids.is_empty() { Err(none.to_string()) } else { Ok(example) }, record)
    });
    let (examples, empty) = separate(examples);
    bad.extend(empty);
    records::settle_bad(source, examples.len(), &bad)?;

    bad.sort_unstable();
    let skipped = bad.len();
    bad.truncate(REASONS);
    let meta = Meta {
        labels: classes.names,
        skipped,
        skipped_reasons: bad,
        truncated,
        vocab_size: tokenizer.vocab_size(),
        segments,
    };
    Ok((Dataset::new(examples.into_iter().map(|(example, _)| example), key), meta))
}

/// The good ones with their records, and line and reason of the bad ones.
#[expect(clippy::type_complexity, reason = "two lists, named just above")]
fn separate<'a, T>(
    results: impl Iterator<Item = (Result<T, String>, &'a Record)>,
) -> (Vec<(T, &'a Record)>, Vec<(usize, String)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (result, record) in results {
        match result {
            Ok(value) => good.push((value, record)),
            Err(why) => bad.push((record.line, why)),
        }
    }
    (good, bad)
}

#[cfg(test)]
mod tests {
    use super::super::example::Label;
    use super::*;
    use crate::error::Kind;
    use crate::text::records::{Fields, OnBad};
    use std::path::PathBuf;

    /// A folder with a BERT vocabulary of letters, and a data file.
    struct Case {
        dir: tempfile::TempDir,
        source: Source,
        target: Target,
        max_length: usize,
    }

    impl Case {
        fn new(name: &str, content: &str, target: Target) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let letters = ('a'..='z').map(String::from);
            let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(letters);
            std::fs::write(dir.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
            std::fs::write(dir.path().join(name), content).unwrap();
            let (path, fields) = (dir.path().join(name), Fields::default());
            let source =
                Source { path, format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error };
            Case { dir, source, target, max_length: 8 }
        }

        fn prepare(&self) -> Result<Prepared> {
            let cache = self.dir.path().join("cache");
            prepare(&self.source, self.dir.path(), self.max_length, &self.target, Some(&cache))
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
    fn labels_are_found_and_sorted_as_strings() {
        let case = Case::new("a.tsv", "a b\t10\nc\t9\nd e f g h i j k\t10\n", FOUND);
        let prepared = case.prepare().unwrap();
        assert_eq!(prepared.labels.unwrap(), ["10", "9"]);
        assert_eq!((prepared.truncated, prepared.skipped, prepared.vocab_size), (1, 0, 31));
        let data = prepared.dataset;
        assert_eq!((data.len(), data.lengths()), (3, vec![4, 3, 8]));
        assert_eq!((data.ids(0), data.label(0)), (&[2, 5, 6, 3][..], Label::Class(0)));
        assert_eq!((data.label(1), prepared.segments), (Label::Class(1), 1));
        let pairs = Case::new("a.tsv", "text\ttext_pair\tlabel\na\tb\t1\n", FOUND);
        assert_eq!(
            [pairs.prepare(), pairs.prepare()].map(|prepared| prepared.unwrap().segments),
            [2, 2],
            "built and hit"
        );
    }

    #[test]
    fn given_labels_keep_their_order_and_are_complete() {
        let mut case = Case::new("a.jsonl", "{\"text\": \"a\", \"label\": 0}\n", given(&["1", "0"]));
        assert_eq!(case.prepare().unwrap().dataset.label(0), Label::Class(1));
        case.target = given(&["1", "2"]);
        let message = case.message();
        assert!(message.contains("a.jsonl:1: the label \"0\" is not one of the 2 known: \"1\", \"2\""), "{message}");
        case.target = given(&["1", "1"]);
        assert!(case.message().contains("twice"));
    }

    /// Columns that must be wrong, and are not taken for classes.
    #[test]
    fn labels_that_cannot_be_classes_are_refused() {
        let texts: String = (0..60).map(|i| format!("text {i}\tgood\n")).collect();
        let mut case = Case::new("a.tsv", &texts, FOUND);
        case.source.columns = Some(vec!["label".into(), "text".into()]);
        let message = case.message();
        assert!(message.contains("a.tsv: 60 labels in 60 examples: is label_column right?"), "{message}");

        let rows = "a\tgood\nb\tbad\n".repeat(5);
        let mut case = Case::new("b.tsv", &format!("review\tsentiment\n{rows}"), FOUND);
        let message = case.message();
        assert!(message.contains("b.tsv: line 1 looks like a header (\"review\", \"sentiment\")"), "{message}");
        assert!(message.contains("set text_column and label_column, or header = false"), "{message}");
        case.source.header = Some(false);
        assert_eq!(case.prepare().unwrap().labels.unwrap(), ["bad", "good", "sentiment"]);
        let few = Case::new("c.tsv", "review\tsentiment\na\tgood\nb\tbad\n", FOUND);
        assert_eq!(few.prepare().unwrap().dataset.len(), 3, "too few to tell");
        let numbers = Case::new("d.tsv", &format!("review\t5\n{rows}"), FOUND);
        assert_eq!(numbers.prepare().unwrap().dataset.len(), 11, "no column is called 5");
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
        assert_eq!((prepared.dataset.len(), prepared.skipped, prepared.skipped_reasons[0].0), (1, 4, 2));
    }

    #[test]
    fn a_second_start_is_a_hit_with_the_same_content() {
        let case = Case::new("a.tsv", "a\t1\n\t0\n", FOUND);
        let built = case.prepare().unwrap();
        let hit = case.prepare().unwrap();
        assert_eq!((built.cache, hit.cache), (CacheUse::Built, CacheUse::Hit));
        assert_eq!((built.labels, built.vocab_size), (hit.labels, hit.vocab_size));
        assert_eq!((hit.dataset.lengths(), hit.dataset.fingerprint()), (vec![3, 2], built.dataset.fingerprint()));
    }

    #[test]
    fn everything_that_shapes_the_data_changes_the_fingerprint() {
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
        std::fs::write(&case.source.path, "a\t1\nb\t1\n").unwrap();
        next(&case);
        case.source.format = Some(records::Format::Csv);
        case.source.columns = Some(vec!["text".into()]);
        next(&case);
        std::fs::write(case.dir.path().join("tokenizer_config.json"), "{\"do_lower_case\": false}").unwrap();
        next(&case);
    }

    #[test]
    fn labels_are_not_read_for_prediction_and_needed_otherwise() {
        let mut case = Case::new("a.jsonl", "{\"text\": \"a\"}\n", Target::None);
        assert_eq!(case.prepare().unwrap().dataset.label(0), Label::None);
        (case.target, case.source.fields.label) = (FOUND, None);
        assert!(case.message().contains("set label_column"));
    }

    #[test]
    fn sst2_is_read_tokenised_and_cached_whole() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/sst2/train.tsv");
        if !path.exists() {
            eprintln!("SKIPPED: no SST-2 at {}; see shared/data", path.display());
            return;
        }
        let mut case = Case::new("unused.tsv", "", FOUND);
        (case.source.path, case.max_length) = (path, 128);
        let (built, hit) = (case.prepare().unwrap(), case.prepare().unwrap());
        assert_eq!((built.dataset.len(), hit.dataset.len(), hit.cache), (6920, 6920, CacheUse::Hit));
        assert_eq!(hit.labels.unwrap(), ["0", "1"]);
        let positive = (0..6920).filter(|&i| hit.dataset.label(i) == Label::Class(1)).count();
        assert_eq!(positive, 3610);
        assert!((0..6920).all(|i| built.dataset.ids(i) == hit.dataset.ids(i)));
    }
}
