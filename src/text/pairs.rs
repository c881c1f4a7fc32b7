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

/// Pairs of texts as they were read.
#[derive(Debug)]
pub struct Pairs {
    /// The good ones in the file's order; never empty.
    pub pairs: Vec<Pair>,
    /// Line and reason of each left out; empty with [`OnBad::Error`].
    pub skipped: Vec<(usize, String)>,
    /// BLAKE3 of the bytes of each file: the sources', then the targets' where they have their own.
    pub hashes: Vec<[u8; 32]>,
}

/// Reads pairs of texts.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; two files that differ in their number of lines; bad records with
/// [`OnBad::Error`], such as a blank text, listed with file and line; no good record at all.
pub fn read(source: &PairSource) -> Result<Pairs> {
    let file = File::open(&source.path)?;
    let settle = |parsed, labelled| file.settle(parsed, source.on_bad_record, labelled);
    let mut hashes = vec![file.hash()];
    let Records { records: pairs, skipped, .. } = match &source.layout {
        PairLayout::Jsonl { source, target } => {
            let record = |line, mut map| {
                let text = jsonl::string(&mut map, source, "source_column")?;
                let target = target.as_ref().map(|name| jsonl::string(&mut map, name, "target_column")).transpose()?;
                pair(line, text, target)
            };
            settle(jsonl::records(file.json_lines()?, record), target.is_some())?
        }
        PairLayout::Lines { targets: None } => {
            let pairs = texts(file.content()).into_iter().map(|(line, source)| {
                let source = utf8(source).map(str::to_owned);
                source.and_then(|source| pair(line, source, None)).map_err(|why| (line, why))
            });
            settle(pairs.collect(), false)?
        }
        PairLayout::Lines { targets: Some(path) } => {
            let targets = File::open(path)?;
            hashes.push(targets.hash());
            settle(side_by_side(&source.path, file.content(), path, targets.content())?, true)?
        }
    };
    Ok(Pairs { pairs, skipped, hashes })
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
    use super::super::records::hash_file;
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
        assert_eq!(two.pairs, one.pairs);
        assert_eq!((two.pairs.len(), two.pairs[1].line), (2, 2));
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
    fn the_hashes_are_of_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let [path, target] = [("a.en", "a"), ("a.de", "b")].map(|(name, text)| write(&dir, name, text));
        let hashes = [&path, &target].map(|path| hash_file(path).unwrap());
        let read = |targets| read(&of(path.clone(), PairLayout::Lines { targets })).unwrap().hashes;
        assert_eq!((read(None), read(Some(target))), (hashes[..1].to_vec(), hashes.to_vec()));
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
        let read_on = read(&source).unwrap();
        assert_eq!((read_on.pairs[0].line, read_on.skipped.len()), (5, 4));

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
        let pairs = read(&of(path, PairLayout::Lines { targets: None })).unwrap().pairs;
        assert_eq!(pairs[1], Pair { line: 2, source: "b".into(), target: None });
        let path = write(&dir, "a.jsonl", "{\"source\": \"a\"}\n");
        let layout = PairLayout::Jsonl { source: "source".into(), target: None };
        assert_eq!(read(&of(path, layout)).unwrap().pairs[0].target, None);
    }
}
