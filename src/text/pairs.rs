//! Reads parallel text (source and target) from line-aligned files or from records.

use super::files::Files;
use super::input::Input;
use super::jsonl;
use super::part::Divisible;
use super::records::{self, ClassValues, Format, OnBad, Records, utf8};
use crate::error::{Error, Result};

/// The files of parallel text, and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSource {
    /// The files; with separate files of targets, those of sources.
    pub files: Files,
    pub layout: PairLayout,
    pub on_bad_record: OnBad,
}

/// The layout of parallel text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairLayout {
    /// Records with two columns.
    Records {
        /// `None`: by each file's extension.
        format: Option<Format>,
        /// The source column.
        source: String,
        /// The target column. `None`: no target is read, as for prediction.
        target: Option<String>,
    },
    /// One text per line.
    Lines {
        /// The target files, each line-aligned with the source file at its place. `None`: no target is read, as for
        /// prediction.
        targets: Option<Files>,
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

impl Divisible for Pair {}

/// Reads parallel text. The hashes are those of the source files, then those of the target files, if any.
///
/// # Errors
/// Input errors (exit 2): a file that cannot be read; another number of target files, or of lines in one; invalid
/// records with [`OnBad::Error`], such as a blank text, listed with file and line; no valid record.
pub fn read(source: &PairSource) -> Result<Records<Pair>> {
    let (files, on_bad) = (&source.files, source.on_bad_record);
    match &source.layout {
        PairLayout::Records { format, source, target } => {
            records::of_objects(files, (*format, on_bad, target.is_some()), ClassValues::Names, |line, mut map| {
                let text = jsonl::string(&mut map, source, "source_column")?;
                let target = target.as_ref().map(|name| jsonl::string(&mut map, name, "target_column")).transpose()?;
                pair(line, text, target)
            })
        }
        PairLayout::Lines { targets: None } => records::gather(files, on_bad, false, |input, into| {
            let base = input.number(0);
            while let Some((line, text)) = input.next_line()? {
                let source = utf8(text).map(str::to_owned);
                into.push(source.and_then(|source| pair(base + line, source, None)).map_err(|why| (base + line, why)));
            }
            Ok(())
        }),
        PairLayout::Lines { targets: Some(targets) } => {
            let (n, m) = (files.paths().len(), targets.paths().len());
            if n != m {
                return Err(Error::input(format!("{n} files of sources ({files}), but {m} of targets ({targets})")));
            }
            let (mut hashes, mut rest) = (Vec::new(), targets.paths().iter());
            let mut read = records::gather(files, on_bad, true, |input, into| {
                let Some(path) = rest.next() else { return Ok(()) };
                let mut targets = Input::open(path, 0)?;
                side_by_side(input, &mut targets, into)?;
                hashes.push(targets.hash()?);
                Ok(())
            })?;
            read.hashes.extend(hashes);
            Ok(read)
        }
    }
}

fn side_by_side(sources: &mut Input, targets: &mut Input, into: &mut Records<Pair>) -> Result<()> {
    let base = sources.number(0);
    let place = targets.path().to_owned();
    loop {
        match (sources.next_line()?, targets.next_line()?) {
            (Some((line, source)), Some((_, text))) => {
                let text = utf8(text).map_err(|why| format!("the target ({}): {why}", place.display()));
                let both = utf8(source).and_then(|source| Ok((source.to_owned(), text?.to_owned())));
                let pair = both.and_then(|(source, text)| pair(base + line, source, Some(text)));
                into.push(pair.map_err(|why| (base + line, why)));
            }
            (None, None) => return Ok(()),
            _ => break,
        }
    }
    while sources.next_line()?.is_some() {}
    while targets.next_line()?.is_some() {}
    Err(Error::input(format!(
        "{} has {} lines, but {} has {}: line n of the target file must be the target of line n of the source file",
        sources.path().display(),
        sources.lines_read(),
        place.display(),
        targets.lines_read()
    )))
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
    use std::path::PathBuf;

    fn write(dir: &tempfile::TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn of(path: PathBuf, layout: PairLayout) -> PairSource {
        PairSource { files: path.into(), layout, on_bad_record: OnBad::Error }
    }

    fn jsonl() -> PairLayout {
        PairLayout::Records { format: None, source: "source".into(), target: Some("target".into()) }
    }

    #[test]
    fn both_layouts_give_the_same_records() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(Files::from(write(&dir, "a.de", "eins\nzwei\u{2028}\u{85}drei")));
        let two = read(&of(write(&dir, "a.en", "\u{feff}one\r\ntwo three\n"), PairLayout::Lines { targets })).unwrap();
        let content = "{\"source\": \"one\", \"target\": \"eins\"}\n\
                       {\"source\": \"two three\", \"target\": \"zwei\\u2028\\u0085drei\"}\n";
        let one = read(&of(write(&dir, "a.jsonl", content), jsonl())).unwrap();
        assert_eq!(two.records, one.records);
        assert_eq!((two.records.len(), two.records[1].line), (2, 2));
    }

    #[test]
    fn two_files_must_have_the_same_number_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(Files::from(write(&dir, "a.de", "eins\nzwei\ndrei\n")));
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
        assert_eq!((read(None), read(Some(target.clone().into()))), (hashes[..1].to_vec(), hashes.to_vec()));
    }

    #[test]
    fn errors_name_the_line_and_the_side() {
        let dir = tempfile::tempdir().unwrap();
        let targets = Some(Files::from(write(&dir, "a.de", b"\n \nc\n\xff\nok\n")));
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
        assert_eq!((read_on.records[0].line, read_on.skipped.len()), (5, 4));

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
        let pairs = read(&of(path, PairLayout::Lines { targets: None })).unwrap().records;
        assert_eq!(pairs[1], Pair { line: 2, source: "b".into(), target: None });
        let path = write(&dir, "a.jsonl", "{\"source\": \"a\"}\n");
        let layout = PairLayout::Records { format: None, source: "source".into(), target: None };
        assert_eq!(read(&of(path, layout)).unwrap().records[0].target, None);
    }
}
