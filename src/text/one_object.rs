//! JSON files that are one object with the records in a list inside, such as `{"version": "1", "data": [...]}`.

use super::input::Input;
use super::jsonl::without_nan;
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;

/// Keys of lists that are part of a record.
const COLUMNS: [&str; 8] =
    ["messages", "conversations", "conversation", "tools", "prompt", "completion", "chosen", "rejected"];
/// Keys of objects in a list that is part of a record: messages, tools, answers in a context; and SQuAD's articles.
const PARTS: [&str; 5] = ["role", "from", "function", "answer_start", "paragraphs"];

/// Refuses such a file. For files that could not be read as records: this one is read again, without keeping anything,
/// and only to the end of its first object if anything follows that.
///
/// # Errors
/// Exit 2: the file is one object with lists of records; the message names the keys and says what to do.
pub fn refuse(path: &Path) -> Result<()> {
    recognize(path).map_or(Ok(()), |why| Err(Error::input(format!("{}: {why}", path.display()))))
}

/// Returns what to add to what is wrong with the only record of such a file, which may be a record with a list inside;
/// empty for other files.
pub fn hint(path: &Path) -> String {
    recognize(path).map_or_else(String::new, |why| format!(" ({why})"))
}

fn recognize(path: &Path) -> Option<String> {
    lists(path).filter(|lists| !lists.is_empty()).map(|lists| message(&lists))
}

fn message(lists: &[(String, usize)]) -> String {
    let joined = |of: fn(&(String, usize)) -> String| lists.iter().map(of).collect::<Vec<_>>().join(", ");
    let keys = joined(|(key, _)| format!("{key:?}"));
    let lengths = joined(|(_, n)| n.to_string());
    let first = path_of(&lists[0].0);
    match lists {
        [(_, n)] => format!(
            "the file is one JSON object, whose key {keys} holds the list of {n} record{}: write the list itself, or \
             one record per line: jq -c '{first}' FILE > FILE.jsonl",
            if *n == 1 { "" } else { "s" }
        ),
        _ => format!(
            "the file is one JSON object, whose keys {keys} hold lists of {lengths} records: write each list to a file \
             of its own, or one record per line: jq -c '{first}' FILE > FILE.jsonl"
        ),
    }
}

/// Returns the filter of jq for the elements of a list, for a text in single quotes.
fn path_of(key: &str) -> String {
    let is_name = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_name { format!(".{key}[]") } else { format!(".[{key:?}][]").replace('\'', "'\\''") }
}

/// Returns the keys of a file's lists of records, with the numbers of records; `None` if the file is not one object.
fn lists(path: &Path) -> Option<Vec<(String, usize)>> {
    // What was read of a pipe cannot be read again.
    if !path.is_file() {
        return None;
    }
    let reader = WithoutNan { inner: Input::open(path, 0).ok()?.into_reader(), line: Cursor::default() };
    let mut parser = serde_json::Deserializer::from_reader(reader);
    let lists = parser.deserialize_map(Lists).ok()?;
    parser.end().ok()?;
    Some(lists)
}

/// Reads JSON with `null` for `NaN`, as records are read. No string goes on over the end of a line.
struct WithoutNan<R> {
    inner: R,
    line: Cursor<Vec<u8>>,
}

impl<R: BufRead> Read for WithoutNan<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.line.read(to)?;
        if n > 0 {
            return Ok(n);
        }
        let mut line = Vec::new();
        self.inner.read_until(b'\n', &mut line)?;
        let without = std::str::from_utf8(&line).ok().and_then(without_nan);
        self.line = Cursor::new(without.map_or(line, String::into_bytes));
        self.line.read(to)
    }
}

/// Visits the object of a file.
struct Lists;

impl<'de> Visitor<'de> for Lists {
    type Value = Vec<(String, usize)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut lists = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let shape = entries.next_value()?;
            if let Shape::Records(n) = shape
                && !COLUMNS.contains(&key.as_str())
            {
                lists.push((key, n));
            }
        }
        Ok(lists)
    }
}

/// What a value is; none of its content.
enum Shape {
    Record,
    /// A list of records, with its length.
    Records(usize),
    Other,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ShapeOf)
    }
}

struct ShapeOf;

impl<'de> Visitor<'de> for ShapeOf {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let (mut n, mut are_records) = (0, true);
        while let Some(item) = items.next_element::<Shape>()? {
            n += 1;
            are_records &= matches!(item, Shape::Record);
        }
        Ok(if are_records && n > 0 { Shape::Records(n) } else { Shape::Other })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Shape, A::Error> {
        let mut is_part = false;
        while let Some(key) = entries.next_key::<String>()? {
            is_part |= PARTS.contains(&key.as_str());
            entries.next_value::<IgnoredAny>()?;
        }
        Ok(if is_part { Shape::Other } else { Shape::Record })
    }
}

#[cfg(test)]
mod tests {
    use super::super::conversations::{self, ConversationSource};
    use super::super::files::{Files, split};
    use super::super::questions::{self, QuestionSource};
    use super::super::record::{Fields, OnBad, Source};
    use super::super::shards::{Framing, Room, Shard};
    use super::super::survey::survey;
    use super::super::{columns, records};
    use super::*;

    const PRETTY: &str = "{\n  \"version\": \"1\",\n  \"data\": [\n    {\"text\": \"a\", \"label\": 1},\n    \
                          {\"text\": \"b\", \"label\": 2}\n  ]\n}\n";

    fn source(files: impl Into<Files>) -> Source {
        let (format, columns, header, fields) = (None, None, None, Fields::default());
        Source { files: files.into(), format, columns, header, fields, on_bad_record: OnBad::Skip }
    }

    /// What is wrong with a file of this content, without its name.
    fn of(content: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, content).unwrap();
        let message = refuse(&path).err()?.to_string();
        Some(message.strip_prefix(&format!("{}: the file is one JSON object, whose ", path.display())).unwrap().into())
    }

    #[test]
    fn lists_of_records_are_named_with_what_to_do() {
        let one = |key: &str, n: &str, path: &str| {
            format!(
                "key {key} holds the list of {n}: write the list itself, or one record per line: jq -c '{path}' FILE > \
                 FILE.jsonl"
            )
        };
        assert_eq!(of(PRETTY), Some(one("\"data\"", "2 records", ".data[]")));
        assert_eq!(of("{\"train\": [{\"a\": [{}]}], \"n\": [1, 2]} "), Some(one("\"train\"", "1 record", ".train[]")));
        assert_eq!(of("{\"it's\": [{}, {}]}"), Some(one("\"it's\"", "2 records", ".[\"it'\\''s\"][]")));
        let nan = of("{\"n\": NaN,\n\"data\": [{\"NaN\": [-Infinity, \"NaN\"]},\n{\"x\": NaN}\n]}");
        assert_eq!(nan, Some(one("\"data\"", "2 records", ".data[]")), "what Python writes");
        let two = of("{\"train\": [{}, {}],\n\"test\": [{}]}").unwrap();
        assert!(two.starts_with("keys \"train\", \"test\" hold lists of 2, 1 records: write each list to a"), "{two}");
    }

    #[test]
    fn other_files_are_not_refused() {
        for content in [
            "",
            "{\"data\": [{}]}\n{\"data\": [{}]}\n",
            "{\"data\": [{}]",
            "{\"data\": [{},]}",
            "{\"data\": [{}], \"n\": Nan}",
            "[{\"data\": [{}]}]",
            "{\"text\": \"a\", \"tags\": [\"x\"], \"label\": {\"a\": [{}]}, \"x\": [], \"y\": [{}, 1]}",
            "{\"text\": [{\"role\": \"user\", \"content\": \"a\"}]}",
            "{\"messages\": [{\"by\": \"user\", \"content\": \"a\"}]}",
            "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"}], \"tools\": [{\"function\": {}}]}",
            "{\"context\": \"a\", \"answers\": [{\"text\": \"a\", \"answer_start\": 0}]}",
            "{\"data\": [{\"title\": \"a\", \"paragraphs\": []}]}",
        ] {
            assert_eq!(of(content), None, "{content}");
        }
    }

    /// Invalid records are never skipped of such a file, whatever reads it: it would have none, or one of many.
    #[test]
    fn every_reader_refuses_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        // The last element is a record on a line of its own.
        let lines = "{\"data\": [\n{\"text\": \"a\", \"label\": 1},\n{\"text\": \"b\", \"label\": 2}\n]}";
        for content in [PRETTY, lines, &lines.replacen('1', "NaN", 1)] {
            std::fs::write(&path, content).unwrap();
            let framing = Framing::Json;
            let mut room = Room { records: 10, bytes: 1000 };
            let piece = Shard::open(&path, &framing, 0).unwrap().next(&mut room).unwrap().unwrap();
            let pieces = Files::of_pieces(vec![(path.clone(), piece)]);
            let named = [String::from("label")];
            let asked = QuestionSource { files: path.clone().into(), labelled: true, on_bad_record: OnBad::Skip };
            for refused in [
                records::read(&source(path.clone())).err(),
                records::read(&source(pieces)).err(),
                columns::read(&source(path.clone()), &named).err(),
                conversations::read(&ConversationSource::usual(path.clone())).err(),
                questions::read(&asked).err(),
                survey(&path, &[]).err(),
            ] {
                let message = refused.unwrap().to_string();
                let expected = format!("{}: the file is one JSON object, whose key \"data\" holds", path.display());
                assert!(message.starts_with(&expected), "{message}");
            }
        }
    }

    /// Such a file in one line may be a record with a list inside, whose own reason comes first.
    #[test]
    fn one_record_is_no_reason_to_refuse_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let [data, spans, good] = ["data.json", "spans.jsonl", "good.jsonl"].map(|name| dir.path().join(name));
        let span = "{\"text\": \"a\", \"label\": null, \"spans\": [{\"start\": 0}, {\"start\": 1}]}";
        std::fs::write(&data, PRETTY.replace('\n', " ")).unwrap();
        std::fs::write(&spans, span).unwrap();
        std::fs::write(&good, "{\"text\": \"a\", \"label\": 1}\n").unwrap();
        let alone = records::read(&source(data.clone())).unwrap_err().to_string();
        let hint = " (the file is one JSON object, whose key \"data\" holds the list of 2 records: write the list";
        assert!(alone.contains("a.json:1: no column \"text\"; the record has \"version\", \"data\""), "{alone}");
        assert!(alone.contains(hint), "{alone}");
        let kept = columns::read(&source(spans.clone()), &["id".to_owned()]).unwrap_err().to_string();
        let expected = "spans.jsonl:1: no column \"id\"; found \"text\", \"label\", \"spans\" (the file is one JSON";
        assert!(kept.contains(expected), "{kept}");
        let read = records::read(&source(Files::find(&[good, spans]).unwrap())).unwrap();
        let (line, why) = &read.skipped[0];
        assert_eq!((read.records.len(), read.skipped.len(), split(*line)), (1, 1, (1, 1)));
        let expected = "the label (column \"label\") is missing (null or NaN; in a column of classes also -1) (the \
                        file is one JSON object, whose key \"spans\" holds";
        assert!(why.starts_with(expected), "{why}");
    }
}
