//! CoNLL: one word per line with its tag in the last column, sentences separated by blank lines.

use super::input::Input;
use super::record::{Parsed, RawLabel, Tagged, utf8};
use super::records::Records;
use crate::error::Result as InputResult;

/// Reads the sentences of a file, valid and invalid. Columns are separated by tabs if the line has one, else by
/// spaces. Every word must have the same number of columns: with one less, another column would be read as the tag.
/// `-DOCSTART-` lines separate sentences like blank lines. Without `with_tags`, the word may be the only column.
pub(super) fn read(input: &mut Input, with_tags: bool, into: &mut Records<Tagged>) -> InputResult<()> {
    let base = input.number(0);
    let mut open: Option<Parsed<Tagged>> = None;
    let mut columns = None;
    while let Some((line, bytes)) = input.next_line()? {
        let (line, row) = (base + line, bytes.trim_ascii_end());
        if row.is_empty() || row.starts_with(b"-DOCSTART-") {
            open.take().into_iter().for_each(|sentence| into.push(sentence));
            continue;
        }
        let sentence = open.get_or_insert(Ok(Tagged { line, words: Vec::new(), tags: Vec::new() }));
        // Only the first error of a sentence is reported.
        if let Ok(good) = sentence
            && let Err(why) = utf8(row).and_then(|row| add(good, row, &mut columns, with_tags))
        {
            *sentence = Err((line, why));
        }
    }
    open.into_iter().for_each(|sentence| into.push(sentence));
    Ok(())
}

/// Adds the word of a row. `columns` holds the number of columns of the first row with a tag, and that row.
fn add(sentence: &mut Tagged, row: &str, columns: &mut Option<(usize, String)>, with_tags: bool) -> Result<(), String> {
    let cells: Vec<&str> = match row.contains('\t') {
        true => row.split('\t').map(|cell| cell.trim_matches(' ')).collect(),
        false => row.split_ascii_whitespace().collect(),
    };
    if cells[0].is_empty() {
        return Err(format!("{row:?} has no word before its tag"));
    }
    sentence.words.push(cells[0].to_owned());
    if !with_tags {
        return Ok(());
    }
    if let [word] = cells.as_slice() {
        return Err(format!("the word {word:?} has no tag"));
    }
    let (wanted, first) = columns.get_or_insert_with(|| (cells.len(), row.to_owned()));
    if cells.len() != *wanted {
        return Err(format!(
            "{row:?} has {} columns, but the first tagged word has {wanted} ({first:?}): is a tag missing?",
            cells.len()
        ));
    }
    sentence.tags.push(RawLabel::new(cells[cells.len() - 1], "tag")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sentences of a file with this content, valid and invalid, by line.
    fn parse(content: &[u8], with_tags: bool) -> Vec<Parsed<Tagged>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conll");
        std::fs::write(&path, content).unwrap();
        let (skipped, remarks, hashes) = (Vec::new(), Vec::new(), Vec::new());
        let mut read = Records { records: Vec::new(), skipped, guessed: None, remarks, hashes, classes: Vec::new() };
        super::read(&mut Input::open(&path, 0).unwrap(), with_tags, &mut read).unwrap();
        let mut all: Vec<Parsed<Tagged>> = read.records.into_iter().map(Ok).collect();
        all.extend(read.skipped.into_iter().map(Err));
        all.sort_by_key(|one| one.as_ref().map_or_else(|(line, _)| *line, |sentence| sentence.line));
        all
    }

    /// Formats each sentence as `line: word/tag ...`, and each invalid one as `line! why`.
    fn show(content: &str, with_tags: bool) -> Vec<String> {
        let show = |parsed: Parsed<Tagged>| match parsed {
            Ok(Tagged { line, words, tags }) if tags.is_empty() => format!("{line}: {}", words.join(" ")),
            Ok(Tagged { line, words, tags }) => {
                let pairs: Vec<String> = words.iter().zip(&tags).map(|(w, t)| format!("{w}/{}", t.as_str())).collect();
                assert_eq!(words.len(), tags.len());
                format!("{line}: {}", pairs.join(" "))
            }
            Err((line, why)) => format!("{line}! {why}"),
        };
        parse(content.as_bytes(), with_tags).into_iter().map(show).collect()
    }

    #[test]
    fn blank_lines_separate_sentences() {
        let content =
            "\n-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects  VBZ O\r\n\n \t\nPeter NNP B-PER\n-DOCSTART-\nNext NN O";
        assert_eq!(show(content, true), ["4: EU/B-ORG rejects/O", "8: Peter/B-PER", "10: Next/O"]);
    }

    #[test]
    fn words_in_tab_separated_files_may_contain_spaces() {
        assert_eq!(show("1 2\tB-x\n3\u{a0}4\t O\t\n", true), ["1: 1 2/B-x 3\u{a0}4/O"]);
        assert_eq!(show("a\u{a0}b O\n", true), ["1: a\u{a0}b/O"], "a no-break space does not separate columns");
    }

    #[test]
    fn a_missing_tag_is_reported_with_its_line() {
        assert_eq!(show("a\tO\nb\t\nc\n\nd\tO\n", true), ["2! the word \"b\" has no tag", "5: d/O"]);
        assert_eq!(show("a\n\nd O\n", true), ["1! the word \"a\" has no tag", "3: d/O"]);
        assert_eq!(show("a\n\nb x O\n", true), ["1! the word \"a\" has no tag", "3: b/O"]);
        assert_eq!(show("\tO\n", true), ["1! \"\\tO\" has no word before its tag"]);
        let found = show("EU NNP B-ORG\nrejects VBZ\n", true);
        let expected = "2! \"rejects VBZ\" has 2 columns, but the first tagged word has 3 (\"EU NNP B-ORG\"): \
                        is a tag missing?";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn no_tag_is_needed_for_prediction() {
        assert_eq!(show("a\nb x O\n\nc O\n", false), ["1: a b", "4: c"]);
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_line() {
        let parsed = parse(b"a O\n\xff O\n", true);
        let (line, why) = parsed[0].as_ref().unwrap_err();
        assert!(*line == 2 && why.contains("not valid UTF-8"), "{line}: {why}");
    }
}
