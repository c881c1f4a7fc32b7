//! CoNLL: one word a line with its tag in the last column, a blank line between sentences.

use super::record::{Parsed, RawLabel, Tagged, lines, utf8};

/// The sentences of a file, good and bad. Columns stand between tabs where a line has one, else between spaces; all
/// words have as many, since one less would make another column's value the tag. `-DOCSTART-` lines are skipped, as
/// blank ones are. Where no tag is wanted, the word may stand alone.
pub(super) fn parse(content: &[u8], with_tags: bool) -> Vec<Parsed<Tagged>> {
    let mut sentences = Vec::new();
    let mut open: Option<Parsed<Tagged>> = None;
    let mut columns = None;
    for (line, bytes) in lines(content) {
        let row = bytes.trim_ascii_end();
        if row.is_empty() || row.starts_with(b"-DOCSTART-") {
            sentences.extend(open.take());
            continue;
        }
        let sentence = open.get_or_insert(Ok(Tagged { line, words: Vec::new(), tags: Vec::new() }));
        // Of a bad sentence the first mistake is told.
        if let Ok(good) = sentence
            && let Err(why) = utf8(row).and_then(|row| add(good, row, &mut columns, with_tags))
        {
            *sentence = Err((line, why));
        }
    }
    sentences.extend(open);
    sentences
}

/// Adds the word of a row; `columns` is how many the first row with a tag has, and that row.
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
            "{row:?} has {} columns, but the first word with a tag has {wanted} ({first:?}): is a tag missing?",
            cells.len()
        ));
    }
    sentence.tags.push(RawLabel::new(cells[cells.len() - 1], "tag")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `line: word/tag ...` of each sentence, `line! why` of each bad one.
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
    fn sentences_stand_between_blank_lines() {
        let content =
            "\n-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects  VBZ O\r\n\n \t\nPeter NNP B-PER\n-DOCSTART-\nNext NN O";
        assert_eq!(show(content, true), ["4: EU/B-ORG rejects/O", "8: Peter/B-PER", "10: Next/O"]);
    }

    #[test]
    fn with_tabs_a_word_may_hold_spaces() {
        assert_eq!(show("1 2\tB-x\n3\u{a0}4\t O\t\n", true), ["1: 1 2/B-x 3\u{a0}4/O"]);
        assert_eq!(show("a\u{a0}b O\n", true), ["1: a\u{a0}b/O"], "a space that does not break divides no columns");
    }

    #[test]
    fn a_missing_tag_is_told_with_its_line() {
        assert_eq!(show("a\tO\nb\t\nc\n\nd\tO\n", true), ["2! the word \"b\" has no tag", "5: d/O"]);
        assert_eq!(show("a\n\nd O\n", true), ["1! the word \"a\" has no tag", "3: d/O"]);
        assert_eq!(show("a\n\nb x O\n", true), ["1! the word \"a\" has no tag", "3: b/O"]);
        assert_eq!(show("\tO\n", true), ["1! \"\\tO\" has no word before its tag"]);
        let found = show("EU NNP B-ORG\nrejects VBZ\n", true);
        let expected = "2! \"rejects VBZ\" has 2 columns, but the first word with a tag has 3 (\"EU NNP B-ORG\"): \
                        is a tag missing?";
        assert_eq!(found, [expected]);
    }

    #[test]
    fn no_tag_is_needed_for_prediction() {
        assert_eq!(show("a\nb x O\n\nc O\n", false), ["1: a b", "4: c"]);
    }

    #[test]
    fn bad_utf8_is_told_with_its_line() {
        let parsed = parse(b"a O\n\xff O\n", true);
        let (line, why) = parsed[0].as_ref().unwrap_err();
        assert!(*line == 2 && why.contains("not UTF-8"), "{line}: {why}");
    }
}
