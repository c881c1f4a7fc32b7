//! Tests of reading Parquet and Arrow files.

use super::*;
use crate::error::{Kind, catches_panics};

/// Files that `tests/reference/columnar.py` wrote with pyarrow: the same rows in several formats and encodings.
const FILES: [(&str, Format); 5] = [
    ("plain.parquet", Format::Parquet),
    ("zstd-dictionary.parquet", Format::Parquet),
    ("file.arrow", Format::Arrow),
    ("stream.arrow", Format::Arrow),
    ("lz4.feather", Format::Arrow),
];
/// Files with classes that `tests/reference/columnar.py` wrote with `datasets`: `to_parquet` and `save_to_disk`.
const CLASSES: [(&str, Format); 2] = [("classes.parquet", Format::Parquet), ("classes.arrow", Format::Arrow)];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar")
}

fn read(path: &Path, format: Format) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let each = |row: usize, map: Result<Map<String, Value>, String>| {
        rows.push(map.map_or_else(Value::String, Value::Object));
        assert_eq!(row, rows.len());
    };
    objects(&mut Input::open(path, 0)?, format, ClassValues::Names, each).map(|_| rows)
}

#[test]
fn rows_are_those_of_pyarrow() {
    let folder = folder();
    let expected = std::fs::read_to_string(folder.join("rows.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    for (name, format) in FILES {
        assert_eq!(read(&folder.join(name), format).unwrap(), expected, "{name}");
    }
}

/// Columns and fields of several types, which `datasets` writes as JSON texts; and types that few files have.
#[test]
fn rarer_columns_are_those_of_datasets_and_pyarrow() {
    for (name, format, rows) in [
        ("mixed.parquet", Format::Parquet, "mixed.json"),
        ("mixed.arrow", Format::Arrow, "mixed.json"),
        ("rare.arrow", Format::Arrow, "rare.json"),
    ] {
        let expected = std::fs::read_to_string(folder().join(rows)).unwrap();
        let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
        assert_eq!(read(&folder().join(name), format).unwrap(), expected, "{name}");
    }
    let empty = read(&folder().join("empty.parquet"), Format::Parquet).unwrap();
    assert_eq!(empty[3], serde_json::json!({"text": "d", "empty": null}), "a column of categories that has none");
}

#[test]
fn classes_have_the_names_that_datasets_gives_them() {
    let expected = std::fs::read_to_string(folder().join("classes.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    for (name, format) in CLASSES {
        let path = folder().join(name);
        assert_eq!(read(&path, format).unwrap(), expected, "{name}");
        let mut numbers = Vec::new();
        let each = |_: usize, row: Result<Map<String, Value>, String>| numbers.push(row.unwrap()["label"].as_i64());
        let mut input = Input::open(&path, 0).unwrap();
        let labels = objects(&mut input, format, ClassValues::Numbers, each).unwrap();
        assert_eq!(numbers, [Some(2), Some(0), Some(1), Some(-1), None], "{name}");
        assert_eq!(labels.names("label").unwrap(), ["terrible", "ok", "great", "unused"]);
        assert_eq!(
            (labels.names("tags").unwrap().len(), labels.names("text"), labels.names("struct")),
            (3, None, None)
        );
    }
}

#[test]
fn a_damaged_file_is_an_error_that_names_it() {
    let folder = folder();
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in FILES {
        let whole = std::fs::read(folder.join(name)).unwrap();
        let copy = dir.path().join(name);
        for bytes in [&whole[..whole.len() / 2], b"PAR1\0\0\0\0\0\0\0\0PAR1", b"{\"text\": 1}", b""] {
            std::fs::write(&copy, bytes).unwrap();
            let message = read(&copy, format).unwrap_err().to_string();
            assert!(message.contains(&format!("{name}: not a complete ")), "{message}");
        }
    }
}

#[test]
fn a_codec_that_is_missing_is_named() {
    let why = "Parquet error: Disabled feature at compile time: brotli";
    let error = careful(Path::new("a.parquet"), Format::Parquet, || Err::<(), _>(why.to_owned())).unwrap_err();
    let expected = "a.parquet: compressed with brotli, which is not supported: write it with zstd or snappy";
    assert_eq!(error.to_string(), expected);
}

/// Whatever bit is wrong and wherever the file ends, there are rows or an error, and never a panic.
#[test]
fn every_damage_gives_rows_or_an_error() {
    let folder = folder();
    let dir = tempfile::tempdir().unwrap();
    for (name, format) in FILES {
        let whole = std::fs::read(folder.join(name)).unwrap();
        let copy = dir.path().join(name);
        let (mut errors, mut tried) = (0, 0);
        let mut check = |bytes: &[u8]| {
            std::fs::write(&copy, bytes).unwrap();
            let result = read(&copy, format);
            assert!(!catches_panics());
            tried += 1;
            if let Err(e) = result {
                errors += 1;
                let message = e.to_string();
                assert!(e.kind() == Kind::Input && message.contains(&format!("{name}: not a complete ")), "{message}");
            }
        };
        // A prime step, and another bit each time; not the first, which makes UTF-16 of a stream.
        for (at, bit) in (0..whole.len()).step_by(31).zip((0..8).cycle().skip(3)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            check(&bytes);
        }
        for length in (0..whole.len()).step_by(97) {
            check(&whole[..length]);
        }
        assert!(errors > tried / 10 && errors < tried, "{name}: {errors} errors of {tried}");
    }
}
