//! Tests of looking at files.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

fn of(name: &str, content: impl AsRef<[u8]>) -> Result<Survey> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    survey(&path, &["text", "label"])
}

fn columns(name: &str, content: &str) -> Columns {
    match of(name, content).unwrap() {
        Survey::Records(columns) => columns,
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_are_told_from_records() {
    for (name, content, header) in [
        ("a.csv", "text,label\na,b\n", true),
        ("a.csv", "review,stars\nfine,4\nbad,1\n", true),
        ("a.tsv", "good film\t1\nbad film\t0\n", false),
        ("a.tsv", "good\tpos\nbad\tneg\nodd\tpos\n", false),
        ("a.csv", "a;b\n1;2\n", true),
        // `DataFrame.to_csv` of pandas.
        ("a.csv", ",review,mood\n0,fine,good\n1,bad,low\n", true),
        ("a.csv", ",text,label\nx,fine,good\ny,bad,low\n", true),
        ("a.csv", ",1\na,2\n", false),
    ] {
        let found = columns(name, content);
        assert_eq!(found.header, Some(header), "{content}");
        assert_eq!(found.rows, content.lines().count() - usize::from(header));
    }
    let found = columns("a.tsv", "good film\t1\nbad film\t0\n");
    assert_eq!(found.columns[1].counts, Some(BTreeMap::from([("0".into(), 1), ("1".into(), 1)])));
    assert!(found.columns[1].is_number() && found.columns[0].is_text() && found.columns[0].name == "column1");
}

#[test]
fn values_have_types() {
    let lines = "{\"t\": \"a\", \"n\": 0.5, \"w\": [\"x\", \"y\"], \"m\": [{\"a\": 1}]}\n{\"t\": \"1\", \"n\": 2, \"o\": null}\n";
    let found = columns("a.jsonl", lines);
    let of = |name: &str| found.find(&[name], |_| true).unwrap();
    assert!(of("t").is_text() && of("n").is_number() && of("w").is_list() && of("m").is_objects());
    assert_eq!((of("n").integers, of("w").mean_size(), of("o").filled, found.rows), (1, 2.0, 0, 2));
}

#[cfg(feature = "columnar")]
#[test]
fn classes_with_names_are_texts() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar/classes.parquet");
    let Survey::Records(found) = survey(&path, &[]).unwrap() else { panic!("records") };
    let label = found.find(&["label"], Column::is_text).unwrap();
    assert_eq!((label.filled, label.counts.as_ref().unwrap().get("great")), (3, Some(&1)));
}

#[test]
fn other_forms_are_recognized() {
    assert_eq!(of("a.txt", "x").unwrap(), Survey::PlainText);
    assert_eq!(of("a.conll", "x O\n").unwrap(), Survey::Conll);
    assert_eq!(of("a.json", "{\"data\": [{\"paragraphs\": []}]}").unwrap(), Survey::Squad);
    assert!(of("a.jsonl", "").unwrap_err().to_string().ends_with("the file contains no record"));
    assert!(of("a.jsonl", "x\n").unwrap_err().to_string().contains("a.jsonl:1: "));
    let why = "a carriage return without a line feed: convert the line ends";
    assert!(of("a.csv", "text,label\ra,1\r").unwrap_err().to_string().contains(&format!("a.csv:1: {why}")));
    let escaped = of("a.csv", "text,label\n\"a \\\"b\\\" c\",1\n").unwrap_err().to_string();
    assert!(escaped.contains("a.csv:2: a quote in a quoted cell is doubled in CSV"), "{escaped}");
    assert!(of("a.bin", "x").unwrap_err().to_string().contains("unknown file extension"));
}

#[test]
fn squad_is_recognized_by_its_structure() {
    let title = "t".repeat(100_000);
    let paragraphs = "[{\"context\": \"c\", \"qas\": []}]";
    let articles = format!("[{{\"title\": \"{title}\", \"paragraphs\": {paragraphs}}}]");
    let squad = format!("{{\"version\": \"v2.0\",\n\"data\": {articles}}}");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(squad.as_bytes()).unwrap();
    assert_eq!(of("a.json", &squad).unwrap(), Survey::Squad);
    assert_eq!(of("a.json.gz", encoder.finish().unwrap()).unwrap(), Survey::Squad);
    // What is wrong further down is for the run to report, with its line.
    assert_eq!(of("a.json", &squad[..squad.len() - 9]).unwrap(), Survey::Squad);
    for other in [
        "{\"text\": \"\\\"data\\\": \\\"paragraphs\\\"\", \"label\": 1}\n",
        "{\"data\": [\"paragraphs\"], \"label\": \"paragraphs\"}\n",
        " {\"data\": \"a\", \"paragraphs\": \"b\"}\n",
        "[{\"data\": \"a\", \"paragraphs\": \"b\"}]",
    ] {
        assert_eq!(columns("a.json", other).rows, 1, "{other}");
    }
}

#[test]
fn parts_are_found_by_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["train.tsv", "dev.tsv", "val.csv", "test.tsv", "dev.ans"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let of = |beside: &Path, part: &str| -> Vec<String> {
        let found = of_part(beside, part).unwrap();
        found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(of(&dir.path().join("train.tsv"), "validation"), ["dev.tsv"]);
    assert_eq!(of(dir.path(), "validation"), ["dev.tsv", "val.csv"]);
    assert_eq!(of(dir.path(), "training"), ["train.tsv"]);
}
