//! Reads parallel text (source and target) from two line-aligned files or from JSONL.

use super::jsonl;
use super::records::{File, OnBad, Parsed, Records, lines, utf8};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The files of parallel text, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSource {
    /// The file; with two files, the source file.
    pub path: PathBuf,
    pub layout: PairLayout,
    pub on_bad_record: OnBad,
}

/// The layout of parallel text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairLayout {
    /// One JSON object per line.
    Jsonl {
        /// The source column.
        source: String,
        /// The target column. `None`: no target is read, as for prediction.
        target: Option<String>,
    },
    /// One text per line.
    Lines {
        /// The target file, line-aligned with the source file. `None`: no target is read, as for prediction.
        targets: Option<PathBuf>,
    },
}

/// A source text and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Line number, from 1.
    pub line: usize,
    /// The source text; never blank.
    pub source: String,
    /// The target text; never blank, and always set if the layout has a target.
    pub target: Option<String>,
}

/// The records of parallel text.
#[derive(Debug)]
pub struct Pairs {
    /// The valid records in file order; never empty.
    pub pairs: Vec<Pair>,
    /// Line and reason of each skipped record; empty with [`OnBad::Error`].
    pub skipped: Vec<(usize, String)>,
    /// BLAKE3 of the bytes of each file: the source file, then the target file, if any.
    pub hashes: Vec<[u8; 32]>,
}

/// Reads parallel text.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; two files with different numbers of lines; invalid records with
/// [`OnBad::Error`], such as a blank text, listed with file and line; no valid record.
pub fn read(source: &PairSource) -> Result<Pairs> {
    let file = File::open(&source.path)?;
    let collect = |parsed, labelled| file.collect(parsed, source.on_bad_record, labelled);
    let mut hashes = vec![file.hash()];
    let Records { records: pairs, skipped, .. } = match &source.layout {
        PairLayout::Jsonl { source, target } => {
            let record = |line, mut map| {
                let text = jsonl::string(&mut map, source, "source_column")?;
                let target = target.as_ref().map(|name| jsonl::string(&mut map, name, "target_column")).transpose()?;
                pair(line, text, target)
            };
            collect(jsonl::records(file.json_lines()?, record), target.is_some())?
        }
        PairLayout::Lines { targets: None } => {
            let pairs = texts(file.content()).into_iter().map(|(line, source)| {
                let source = utf8(source).map(str::to_owned);
                source.and_then(|source| pair(line, source, None)).map_err(|why| (line, why))
            });
            collect(pairs.collect(), false)?
        }
        PairLayout::Lines { targets: Some(path) } => {
            let targets = File::open(path)?;
            hashes.push(targets.hash());
            collect(side_by_side(&source.path, file.content(), path, targets.content())?, true)?
        }
    };
    Ok(Pairs { pairs, skipped, hashes })
}

fn side_by_side(source: &Path, sources: &[u8], target: &Path, targets: &[u8]) -> Result<Vec<Parsed<Pair>>> {
    let (sources, targets) = (texts(sources), texts(targets));
    if sources.len() != targets.len() {
        return Err(Error::input(format!(
            "{} has {} lines, but {} has {}: line n of the target file must be the target of line n of the source file",
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

/// Returns the lines of a text file, without an empty last line.
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
    fn two_files_must_have_the_same_number_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(write(&dir, "a.de", "eins\nzwei\ndrei\n"));
        let message =
            read(&of(write(&dir, "a.en", "one\ntwo\n"), PairLayout::Lines { targets })).unwrap_err().to_string();
        assert!(message.contains("a.en has 2 lines, but ") && message.contains("a.de has 3: line n"), "{message}");
    }

    #[test]
    fn hashes_cover_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let [path, target] = [("a.en", "a"), ("a.de", "b")].map(|(name, text)| write(&dir, name, text));
        let hashes = [&path, &target].map(|path| hash_file(path).unwrap());
        let read = |targets| read(&of(path.clone(), PairLayout::Lines { targets })).unwrap().hashes;
        assert_eq!((read(None), read(Some(target))), (hashes[..1].to_vec(), hashes.to_vec()));
    }

    #[test]
    fn errors_name_the_line_and_the_side() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(write(&dir, "a.de", b"\n \nc\n\xff\nok\n"));
        let mut source = of(write(&dir, "a.en", "a\n\n\t\nd\nok\n"), PairLayout::Lines { targets });
        let message = read(&source).unwrap_err().to_string();
        for expected in [
            "a.en:1: the target is empty\n",
            "a.en:2: source and target are empty\n",
            "a.en:3: the source is empty\n",
            "a.de): byte 1 of the record is not valid UTF-8",
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
