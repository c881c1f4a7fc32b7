use super::*;
use crate::config::Config;
use crate::data::{Dataset, Example, prepare};
use std::path::PathBuf;

/// A folder with a tokenizer of letters, and shards.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(shards: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
        let words = words.into_iter().chain(('a'..='z').map(String::from));
        std::fs::write(dir.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
        std::fs::create_dir(dir.path().join("s")).unwrap();
        let folder = Folder(dir);
        shards.iter().for_each(|(name, text)| std::fs::write(folder.shards().join(name), text).unwrap());
        folder
    }

    fn shards(&self) -> PathBuf {
        self.0.path().join("s")
    }

    fn open(&self, max_length: usize, words: &[&str]) -> Arc<Shards> {
        let train = format!("data.train={}", self.shards().display());
        let mut all = vec!["output_dir=o", "model.path=m", "streaming=true", "max_steps=1", train.as_str()];
        all.extend(words);
        let words: Vec<String> = all.into_iter().map(str::to_owned).collect();
        let config = Config::load(None, &words).unwrap();
        let labels = config.task.labels.clone();
        Arc::new(Shards::open(&config, self.0.path(), max_length, labels).unwrap())
    }
}

/// The chunks of a pass from a position on.
fn chunks(shards: &Arc<Shards>, position: Position) -> Vec<Chunk> {
    let reader = Reader::new(Arc::clone(shards), position, None).unwrap();
    let of_pass = reader.map(Result::unwrap).map_while(|read| match read {
        Read::Chunk(chunk) => Some(chunk),
        Read::End => None,
    });
    of_pass.collect()
}

fn examples(chunks: &[Chunk]) -> Vec<Example> {
    chunks.iter().flat_map(|chunk| chunk.examples.clone()).collect()
}

fn all_of(dataset: &Dataset) -> Vec<Example> {
    (0..dataset.len()).map(|i| dataset.example(i, 0)).collect()
}

/// The examples as they are read without a stream.
fn whole(shards: &Shards) -> Vec<Example> {
    let encoder = reading(shards).encoder_of(&shards.files, "data.train").unwrap();
    all_of(&prepare(encoder.as_ref(), &shards.folder, None).unwrap().dataset)
}

/// `n` letters that differ between records.
fn letters(record: usize, n: usize) -> String {
    let letter = |i: usize| char::from(b'a' + ((record * 7 + i * i + record / 26) % 26) as u8).to_string();
    (0..n).map(letter).collect::<Vec<_>>().join(" ")
}

const ORDER: &str = "shuffle_buffer_size=1";

#[test]
fn windows_have_the_examples_of_the_files() {
    let record =
        |i: usize| format!("{{\"text\": \"{}\", \"label\": \"{}\"}}\n", letters(i, 1 + i % 5), ["x", "y"][i % 2]);
    let shard = |range: std::ops::Range<usize>| range.map(record).collect::<String>();
    let folder = Folder::new(&[("0.jsonl", shard(0..700)), ("1.jsonl", String::new()), ("2.jsonl", shard(700..2500))]);
    let shards = folder.open(16, &["kind=sequence-classification", "task.labels=['y', 'x']", ORDER]);
    let all = chunks(&shards, Position::default());
    let sizes: Vec<usize> = all.iter().map(|chunk| chunk.examples.len()).collect();
    assert_eq!(sizes, [1024, 1024, 452]);
    let expected = whole(&shards);
    assert_eq!(examples(&all), expected);
    let places: Vec<Place> = all.iter().map(|chunk| chunk.place).collect();
    assert_eq!((places[1], places[2].offset), (Place { shard: 2, offset: 324 }, 1348));
    for (i, chunk) in all.iter().enumerate() {
        let again = chunks(&shards, Position { place: chunk.place, ..Position::default() });
        assert_eq!(examples(&again), examples(&all[i..]), "from {:?}", chunk.place);
        assert!(chunk.progress <= 1.0 && chunk.notes.is_empty());
    }
    // The first examples stand for all.
    let sample = sample(&shards).unwrap();
    assert_eq!((sample.dataset.len(), sample.facts.labels), (1024, Some(vec!["y".to_owned(), "x".to_owned()])));
    assert_eq!(all_of(&sample.dataset), expected[..1024]);
    assert!(sample.facts.remarks[0].contains("3 shards of"), "{:?}", sample.facts.remarks);
    let other = folder.open(15, &["kind=sequence-classification", "task.labels=['y', 'x']", ORDER]);
    assert!(fingerprint(&other).unwrap() != sample.dataset.fingerprint());
    // Another order of the shards has the same examples.
    let shuffled = folder.open(16, &["kind=sequence-classification", "task.labels=['y', 'x']", "seed=3"]);
    let mut ids: Vec<_> = examples(&chunks(&shuffled, Position::default())).into_iter().map(|e| e.ids).collect();
    let mut sorted: Vec<_> = expected.into_iter().map(|e| e.ids).collect();
    ids.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(ids, sorted);
}

#[test]
fn documents_are_packed_in_windows() {
    let records: Vec<String> = (0..1500).map(|i| format!("{{\"text\": \"{}\"}}\n", letters(i, 1 + i % 40))).collect();
    let folder = Folder::new(&[("0.jsonl", records[..900].concat()), ("1.jsonl", records[900..].concat())]);
    let tokens = |examples: &[Example]| -> Vec<Vec<u32>> {
        let mut all: Vec<Vec<u32>> = Vec::new();
        for example in examples {
            let mut start = 0;
            for &n in &example.lengths {
                all.push(example.ids[start..start + n as usize].to_vec());
                start += n as usize;
            }
        }
        all.sort_unstable();
        all
    };
    for kind in ["kind=masked-lm", "kind=causal-lm"] {
        let shards = folder.open(64, &[kind, ORDER]);
        let all = chunks(&shards, Position::default());
        let (found, expected) = (examples(&all), whole(&shards));
        assert_eq!(all.len(), 2);
        assert!(
            found.len() <= expected.len() + 2,
            "{kind}: {} blocks, {} without windows",
            found.len(),
            expected.len()
        );
        assert_eq!(tokens(&found), tokens(&expected), "{kind}: every document once, whole");
        let again = chunks(&shards, Position { place: all[1].place, ..Position::default() });
        assert_eq!(examples(&again), all[1].examples);
    }
}

#[test]
fn every_task_reads_its_files_in_windows() {
    let answer = |i: usize| format!("{{\"context\": \"a b c d\", \"question\": \"x\", \"id\": \"q{i}\", \"answers\": ");
    let span = "{\"text\": [\"b c\"], \"answer_start\": [2]}}\n";
    let questions = |i: usize| answer(i) + span + &answer(i + 1) + "{\"text\": [], \"answer_start\": []}}\n";
    let choices = "{\"question\": \"q\", \"choices\": [\"x\", \"y z\"], \"label\": 1}\n".repeat(3);
    let flags = "{\"text\": \"a b\", \"label\": [\"x\"]}\n{\"text\": \"c\", \"label\": []}\n";
    let table = |first: char| format!("label;text\n1.5;\"{first}\nb\"\n2;c d\n");
    let pairs = "[{\"source\": \"a b\", \"target\": \"c\"},\n{\"source\": \"d\", \"target\": \"e f\"}]";
    for (ending, shards, words) in [
        (
            "conll",
            ["a O\nb B-x\n\nc O\n".to_owned(), "d B-x\n\ne O\n".into()],
            &["token-classification", "task.labels=['O', 'B-x']"][..],
        ),
        ("csv", [table('a'), table('z')], &["regression"]),
        ("jsonl", [flags.into(), flags.repeat(2)], &["multi-label", "task.labels=['x', 'y']"]),
        ("jsonl", [choices.clone(), choices], &["multiple-choice"]),
        ("json", [pairs.into(), pairs.into()], &["seq2seq"]),
        (
            "jsonl",
            [questions(0), questions(2)],
            &["question-answering", "version_2_with_negative=true", "doc_stride=2"],
        ),
        ("txt", ["a b\nc\n\nd\n".to_owned(), "e f\n".into()], &["masked-lm", "documents=lines", "packing=false"]),
    ] {
        let names = ["0", "1"].map(|name| format!("{name}.{ending}"));
        let folder = Folder::new(&[(&names[0], shards[0].clone()), (&names[1], shards[1].clone())]);
        std::fs::write(folder.0.path().join("config.json"), "{\"decoder_start_token_id\": 0}").unwrap();
        let kind = format!("kind={}", words[0]);
        let shards = folder.open(16, &[&[kind.as_str(), ORDER], &words[1..]].concat());
        let expected = whole(&shards);
        assert!(expected.len() >= 4, "{kind}");
        assert_eq!(examples(&chunks(&shards, Position::default())), expected, "{kind}");
        assert_eq!(all_of(&sample(&shards).unwrap().dataset)[..expected.len()], expected, "{kind}");
    }
}

#[test]
fn invalid_records_are_skipped_or_named() {
    let good = "{\"text\": \"a b\", \"label\": \"x\"}\n";
    let folder = Folder::new(&[
        ("0.jsonl", [good, "{\"text\": 1}\n", good].concat()),
        ("1.jsonl", "{}\n".to_owned()),
        ("2.jsonl", [good, "{\"text\": \"c\", \"label\": \"z\"}\n"].concat()),
    ]);
    let base = ["kind=sequence-classification", "task.labels=['x', 'y']", ORDER];
    let skips = folder.open(8, &[&base[..], &["on_bad_record=skip"]].concat());
    let all = chunks(&skips, Position::default());
    assert_eq!((all.len(), examples(&all).len(), all[0].notes.len()), (1, 3, 1));
    let note = &all[0].notes[0];
    assert!(note.starts_with("3 invalid records skipped (first: ") && note.contains("0.jsonl:2: "), "{note}");
    let strict = folder.open(8, &base);
    let error = sample(&strict).err().unwrap().to_string();
    assert!(error.contains("0.jsonl:2: ") && error.contains("1.jsonl:1: "), "{error}");
    assert!(error.contains("on_bad_record = \"skip\""), "{error}");
    // Nothing but invalid records.
    std::fs::write(folder.shards().join("0.jsonl"), "{}\n").unwrap();
    std::fs::write(folder.shards().join("2.jsonl"), "").unwrap();
    let error = sample(&folder.open(8, &[&base[..], &["on_bad_record=skip"]].concat())).err().unwrap().to_string();
    assert!(error.contains("no shard has a valid record"), "{error}");
}

#[test]
fn changed_shards_and_unknown_tokens_are_errors() {
    let folder = Folder::new(&[("0.jsonl", "{\"text\": \"a b c d\", \"label\": 1.5}\n".repeat(3))]);
    let shards = folder.open(8, &["kind=regression", ORDER]);
    let next = |limits| Reader::new(Arc::clone(&shards), Position::default(), limits).unwrap().next().unwrap();
    assert!(next(Some([31, 1])).is_ok());
    let error = next(Some([8, 1])).unwrap_err().to_string();
    assert!(error.contains("token ids up to 8, but config.json has vocab_size = 8"), "{error}");
    std::fs::write(folder.shards().join("0.jsonl"), "{}\n").unwrap();
    let error = next(None).unwrap_err().to_string();
    assert!(error.contains("0.jsonl: the shard has changed since the run began"), "{error}");
}

#[test]
fn what_cannot_be_streamed_says_what_to_do() {
    let folder = Folder::new(&[("0.json", "{\"data\": []}".to_owned())]);
    let shards = folder.open(64, &["kind=question-answering", "version_2_with_negative=false"]);
    let error = sample(&shards).err().unwrap().to_string();
    assert!(error.contains("0.json: SQuAD's JSON is one object and cannot be streamed: convert it"), "{error}");
}
