//! Texts with what they become (parallel text), from two files line by line and from JSONL.

use super::jsonl;
use super::records::{File, OnBad, Parsed, Records, lines, utf8};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where pairs of texts are and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSource {
    /// The file; of two, that of the sources.
    pub path: PathBuf,
    /// How it is laid out.
    pub layout: PairLayout,
    /// What a bad record does.
    pub on_bad_record: OnBad,
}

/// How pairs of texts are laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairLayout {
    /// One JSON object a line.
    Jsonl {
        /// The column that has the source.
        source: String,
        /// The column that has the target. `None`: not needed, as for prediction.
        target: Option<String>,
    },
    /// One text a line.
    Lines {
        /// The file whose lines are the targets of the sources' lines. `None`: not needed, as for prediction.
        targets: Option<PathBuf>,
    },
}

/// A text and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The line, from 1.
    pub line: usize,
    /// The text; never blank.
    pub source: String,
    /// What it becomes, never blank; always there when the source asks for one.
    pub target: Option<String>,
}

/// Reads pairs of texts. [`Records::bytes_hash`] is of both files where there are two.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; two files that differ in their number of lines; bad records with
/// [`OnBad::Error`], such as a blank text, listed with file and line; no good record at all.
pub fn read(source: &PairSource) -> Result<Records<Pair>> {
    let file = File::open(&source.path)?;
    let settle = |parsed, labelled| file.settle(parsed, source.on_bad_record, labelled);
    match &source.layout {
        PairLayout::Jsonl { source, target } => {
            let record = |line, mut map| {
                let text = jsonl::string(&mut map, source, "source_column")?;
                let target = target.as_ref().map(|name| jsonl::string(&mut map, name, "target_column")).transpose()?;
                pair(line, text, target)
            };
            settle(jsonl::records(file.json_lines()?, record), target.is_some())
        }
        PairLayout::Lines { targets: None } => {
            let pairs = texts(file.content()).into_iter().map(|(line, source)| {
                let source = utf8(source).map(str::to_owned);
                source.and_then(|source| pair(line, source, None)).map_err(|why| (line, why))
            });
            settle(pairs.collect(), false)
        }
        PairLayout::Lines { targets: Some(path) } => {
            let targets = File::open(path)?;
            let read = settle(side_by_side(&source.path, file.content(), path, targets.content())?, true)?;
            let hashes = [read.bytes_hash, targets.hash()].concat();
            Ok(Records { bytes_hash: *blake3::hash(&hashes).as_bytes(), ..read })
        }
    }
}

fn side_by_side(source: &Path, sources: &[u8], target: &Path, targets: &[u8]) -> Result<Vec<Parsed<Pair>>> {
    let (sources, targets) = (texts(sources), texts(targets));
    if sources.len() != targets.len() {
        return Err(Error::input(format!(
            "{} has {} lines, {} has {}: line n of one must be what line n of the other becomes",
            source.display(),
            sources.len(),
            target.display(),
            targets.len()
        )));
    }
    let pairs = sources.into_iter().zip(targets).map(|((line, source), (_, text))| {
        let text = utf8(text).map_err(|why| format!("the target ({}): {why}", target.display()));
        let both = utf8(source).and_then(|source| Ok((source.to_owned(), text?.to_owned())));
        both.and_then(|(source, text)| pair(line, source, Some(text))).map_err(|why| (line, why))
    });
    Ok(pairs.collect())
}

/// The lines of a text file; nothing follows its last line's end.
fn texts(content: &[u8]) -> Vec<(usize, &[u8])> {
    let mut texts: Vec<_> = lines(content).collect();
    texts.pop_if(|(_, last)| last.is_empty());
    texts
}

fn pair(line: usize, source: String, target: Option<String>) -> Result<Pair, String> {
    match (source.trim().is_empty(), target.as_ref().is_some_and(|text| text.trim().is_empty())) {
        (true, true) => Err("source and target are empty".into()),
        (true, false) => Err("the source is empty".into()),
        (false, true) => Err("the target is empty".into()),
        (false, false) => Ok(Pair { line, source, target }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn of(path: PathBuf, layout: PairLayout) -> PairSource {
        PairSource { path, layout, on_bad_record: OnBad::Error }
    }

    fn jsonl() -> PairLayout {
        PairLayout::Jsonl { source: "source".into(), target: Some("target".into()) }
    }

    #[test]
    fn both_layouts_give_the_same_records() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(write(&dir, "a.de", "eins\nzwei\u{2028}\u{85}drei"));
        let two = read(&of(write(&dir, "a.en", "\u{feff}one\r\ntwo three\n"), PairLayout::Lines { targets })).unwrap();
        let content = "{\"source\": \"one\", \"target\": \"eins\"}\n\
                       {\"source\": \"two three\", \"target\": \"zwei\\u2028\\u0085drei\"}\n";
        let one = read(&of(write(&dir, "a.jsonl", content), jsonl())).unwrap();
        assert_eq!(two.records, one.records);
        assert_eq!((two.records.len(), two.records[1].line), (2, 2));
    }

    #[test]
    fn two_files_must_have_as_many_lines() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(write(&dir, "a.de", "eins\nzwei\ndrei\n"));
        let message =
            read(&of(write(&dir, "a.en", "one\ntwo\n"), PairLayout::Lines { targets })).unwrap_err().to_string();
        assert!(message.contains("a.en has 2 lines, ") && message.contains("a.de has 3: line n"), "{message}");
    }

    #[test]
    fn the_hash_is_of_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let hash = |source: &str, target: &str| {
            let targets = Some(write(&dir, "a.de", target));
            read(&of(write(&dir, "a.en", source), PairLayout::Lines { targets })).unwrap().bytes_hash
        };
        let all = [hash("a", "b"), hash("a", "c"), hash("c", "b"), hash("b", "a")];
        assert!((1..4).all(|i| !all[..i].contains(&all[i])));
        assert_eq!(all[0], hash("a", "b"));
    }

    #[test]
    fn complaints_name_line_and_side() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(write(&dir, "a.de", b"\n \nc\n\xff\nok\n"));
        let mut source = of(write(&dir, "a.en", "a\n\n\t\nd\nok\n"), PairLayout::Lines { targets });
        let message = read(&source).unwrap_err().to_string();
        for expected in [
            "a.en:1: the target is empty\n",
            "a.en:2: source and target are empty\n",
            "a.en:3: the source is empty\n",
            "a.de): byte 1 of the record is not UTF-8",
        ] {
            assert!(message.contains(expected), "{expected}: {message}");
        }
        source.on_bad_record = OnBad::Skip;
        let records = read(&source).unwrap();
        assert_eq!((records.records[0].line, records.skipped.len()), (5, 4));

        let content = "{\"source\": \"a\", \"text\": \"b\"}\n";
        let message = read(&of(write(&dir, "a.jsonl", content), jsonl())).unwrap_err().to_string();
        assert!(
            message.contains("a.jsonl:1: no column \"target\"; the record has \"source\", \"text\": set target_column")
        );
    }

    #[test]
    fn no_target_is_needed_for_prediction() {
        let dir = tempfile::tempdir().unwrap();
        let path = write(&dir, "a.txt", "a\nb\n");
        let records = read(&of(path, PairLayout::Lines { targets: None })).unwrap().records;
        assert_eq!(records[1], Pair { line: 2, source: "b".into(), target: None });
        let path = write(&dir, "a.jsonl", "{\"source\": \"a\"}\n");
        let layout = PairLayout::Jsonl { source: "source".into(), target: None };
        assert_eq!(read(&of(path, layout)).unwrap().records[0].target, None);
    }
}
