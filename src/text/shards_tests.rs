use super::*;
use crate::text::documents::{self, Division, DocumentSource};
use crate::text::files::Files;
use crate::text::records::{self, Fields, OnBad, Records, Source};
use crate::text::tagged::{self, TaggedSource};
use std::fmt::Debug;

const ALL: Room = Room { records: 1000, bytes: 1 << 20 };

/// The pieces of a file from a place on, each with the place where it begins.
fn pieces(path: &Path, framing: &Framing, place: u64, room: Room) -> Vec<(u64, Piece)> {
    let mut shard = Shard::open(path, framing, place).unwrap();
    let mut found = Vec::new();
    loop {
        let before = shard.place();
        let mut room = room;
        let Some(piece) = shard.next(&mut room).unwrap() else { return found };
        found.push((before, piece));
    }
}

/// Checks that what `read` finds in pieces of any size, read from any place on, is what it finds in the whole file.
fn check<T: Debug + PartialEq>(name: &str, bytes: &[u8], framing: &Framing, read: impl Fn(Files) -> Vec<T>) -> Vec<T> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let whole = read(Files::from(path.clone()));
    for room in [(1, 1000), (2, 1000), (3, 1000), (1000, 9), (1000, 40)] {
        let room = Room { records: room.0, bytes: room.1 };
        let all = pieces(&path, framing, 0, room);
        let read = |(_, piece): &(u64, Piece)| read(Files::of_pieces(vec![(path.clone(), piece.clone())]));
        let found: Vec<T> = all.iter().flat_map(read).collect();
        assert_eq!(found, whole, "{name}: {room:?}");
        for (i, (place, _)) in all.iter().enumerate() {
            assert_eq!(pieces(&path, framing, *place, room), all[i..], "{name}: {room:?} from place {place}");
        }
    }
    let all = pieces(&path, framing, 0, ALL);
    assert_eq!(all.len(), usize::from(!whole.is_empty()), "{name}: all fits in one piece");
    whole
}

/// The valid records, and the line and reason of the others.
fn records(files: Files) -> Vec<String> {
    let (format, columns, header, on_bad_record) = (None, None, None, OnBad::Skip);
    let source = Source { files, format, columns, header, fields: Fields::default(), on_bad_record };
    let Records { records, skipped, .. } = records::read(&source).unwrap();
    let good = records.iter().map(|r| format!("{}: {} = {}", r.line, r.text, r.labels[0].as_str()));
    let mut all: Vec<String> = good.chain(skipped.iter().map(|(line, why)| format!("{line}: {why}"))).collect();
    all.sort_by_key(|text| text.split(':').next().unwrap().parse::<usize>().unwrap());
    all
}

fn table(csv: bool) -> Framing {
    Framing::Table { csv, known: vec!["text".into(), "label".into()], columns: None }
}

#[test]
fn lines_and_arrays_of_json_are_divided() {
    let record = |text: &str| format!("{{\"text\": {text:?}, \"label\": 1}}");
    let [a, b, c] = ["first", "second", "third"].map(record);
    let lines = format!("\u{feff}\n{a}\r\n\n\n{b}\n{{\"text\": 1}}\n{c}");
    let found = check("a.jsonl", lines.as_bytes(), &Framing::Json, records);
    assert_eq!((found.len(), found[0].as_str()), (4, "2: first = 1"));
    assert!(found[2].starts_with("6: column \"text\" is a number"), "{found:?}");
    assert_eq!(check("a.jsonl.zst", &zstd::encode_all(lines.as_bytes(), 1).unwrap(), &Framing::Json, records), found);
    let array = format!("\n [{a}\n,\n\n{{\"text\": \"x\\\"]\",\n\n\"label\": 2}} , {b}, 7\n, {c}\n]\n");
    let found = check("b.json", array.as_bytes(), &Framing::Json, records);
    assert_eq!(found[..3], ["2: first = 1", "5: x\"] = 2", "7: second = 1"]);
    assert!(found[3].starts_with("7: a record must be a JSON object") && found[4] == "8: third = 1", "{found:?}");
    assert!(check("c.json", b"[]", &Framing::Json, |_| Vec::<String>::new()).is_empty());
    assert!(check("d.jsonl", b"", &Framing::Json, |_| Vec::<String>::new()).is_empty());
}

#[test]
fn tables_keep_their_header_and_separator() {
    let csv = b"id;Text;Label\n1;\"a, b\nc\";x\n\n2;\"say \"\"hi\"\"\";y\n3;\"d\" e;z\n4;\"f;\n\ng\";x\n";
    let found = check("a.csv", csv, &table(true), records);
    assert_eq!((found[0].as_str(), found[1].as_str()), ("2: a, b\nc = x", "5: say \"hi\" = y"));
    assert!(found[2].starts_with("6: text after the quote"), "{found:?}");
    assert_eq!(found[3], "7: f;\n\ng = x");
    let headerless = b"a b,1\nc d,0\n\"e, f\",1\n";
    assert_eq!(check("b.csv", headerless, &table(true), records), ["1: a b = 1", "2: c d = 0", "3: e, f = 1"]);
    let tsv = b"\nlabel\ttext\n1\t\"a\n0\tb\n";
    assert_eq!(check("c.tsv", tsv, &table(false), records), ["3: \"a = 1", "4: b = 0"]);
}

#[test]
fn texts_are_divided_between_documents() {
    let text = b"\n\none a\none b\n \n\ntwo\n\n\nthree\nthree b\n\n";
    for (division, framing, n) in [
        (Division::Lines, Framing::Lines, 5),
        (Division::Paragraphs, Framing::Paragraphs, 3),
        (Division::File, Framing::File, 1),
    ] {
        let read = |files: Files| -> Vec<(usize, String)> {
            let read = documents::read(&DocumentSource::Text { files, division }).unwrap();
            read.records.into_iter().map(|document| (document.line, document.text)).collect()
        };
        assert_eq!(check("a.txt", text, &framing, read).len(), n, "{division:?}");
    }
    let conll = b"-DOCSTART- O\n\nA B-x\nb I-x\n\nc O\n\n\nd O\ne\nf O\n";
    let read = |files: Files| -> Vec<(usize, String)> {
        let (words, tags, on_bad_record) = ("words".into(), Some("tags".into()), OnBad::Skip);
        let read = tagged::read(&TaggedSource { files, format: None, words, tags, on_bad_record }).unwrap();
        let good = read.records.into_iter().map(|sentence| (sentence.line, sentence.words.join(" ")));
        good.chain(read.skipped).collect()
    };
    let found = check("a.conll", conll, &Framing::Paragraphs, read);
    assert_eq!(found[..2], [(3, "A b".to_owned()), (6, "c".to_owned())]);
    assert_eq!((found.len(), found[2].0), (3, 10), "an invalid sentence");
}

#[cfg(feature = "columnar")]
#[test]
fn rows_of_columnar_files_are_divided() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar");
    let objects = |pieces: &[(u64, Piece)]| -> Vec<Object> {
        let of = |(_, piece): &(u64, Piece)| match &piece.content {
            Content::Objects(objects) => objects.clone(),
            Content::Bytes(_) => Vec::new(),
        };
        pieces.iter().flat_map(of).collect()
    };
    for (name, format) in [("plain.parquet", Format::Parquet), ("stream.arrow", Format::Arrow)] {
        let (path, framing) = (folder.join(name), Framing::Rows(format));
        let whole = objects(&pieces(&path, &framing, 0, ALL));
        assert!(whole.len() > 2 && whole.iter().map(|object| object.0).eq(1..=whole.len()));
        for room in [Room { records: 1, ..ALL }, Room { records: 2, ..ALL }, Room { bytes: 30, ..ALL }] {
            let all = pieces(&path, &framing, 0, room);
            assert_eq!(objects(&all), whole);
            for (i, (place, _)) in all.iter().enumerate() {
                assert_eq!(pieces(&path, &framing, *place, room), all[i..], "{name} from row {place}");
            }
        }
    }
    for (name, format) in [("classes.parquet", Format::Parquet), ("classes.arrow", Format::Arrow)] {
        let found = check(name, &std::fs::read(folder.join(name)).unwrap(), &Framing::Rows(format), records);
        assert_eq!(found[..3], ["1: a b = great", "2: c = terrible", "3: d e f = ok"], "{name}");
        assert!(found.len() == 5 && found[3].starts_with("4: the label (column \"label\") is missing"), "{found:?}");
    }
}

#[test]
fn a_place_after_the_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, framing) in [
        ("a.jsonl", "{}\n{}\n", Framing::Json),
        ("b.json", "[{}, {}]", Framing::Json),
        ("c.csv", "text,label\na,1\n", table(true)),
        ("d.txt", "a\n\nb\n", Framing::Paragraphs),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        assert!(Shard::open(&path, &framing, 2).is_ok(), "{name}");
        let error = Shard::open(&path, &framing, 9).err().unwrap().to_string();
        assert!(error.contains(&format!("{name}: the file is shorter than it was")), "{error}");
    }
}
