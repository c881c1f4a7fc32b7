//! Rows of cells, separated by a character: CSV (RFC 4180), and TSV without quoting.

use super::files::quoted;
use super::input::Input;
use super::pieces::Form;
use super::splitter::{Split, Splitter, Wrong, separator, without_end};
use crate::error::Result;

/// Number of lines that are compared to detect the separator.
const SAMPLE: usize = 20;

/// The rows of a file.
pub(super) struct Rows<'r, 'i> {
    input: &'r mut Input<'i>,
    separator: u8,
    /// Whether a cell may be in double quotes.
    quoting: bool,
    /// Lines to read before those of the input, the next one last.
    pending: Vec<Vec<u8>>,
    /// Number of lines taken so far.
    line: usize,
    /// Numbers of lines with a cell of a certain form, for [`remarks`](Self::remarks): a quoted cell of several lines in
    /// CSV; in TSV a cell that opens a quote and does not close it, and one quoted as in CSV.
    several_lines: Vec<usize>,
    open_quotes: Vec<usize>,
    in_quotes: Vec<usize>,
}

/// The cells of a row, or what is wrong with it.
pub(super) type Row = Result<Vec<String>, String>;

impl<'r, 'i> Rows<'r, 'i> {
    /// Reads TSV: cells end at tabs and rows at line ends, and quotes are ordinary characters.
    pub fn tsv(input: &'r mut Input<'i>) -> Self {
        let (several_lines, open_quotes, in_quotes) = (Vec::new(), Vec::new(), Vec::new());
        let (separator, quoting, pending, line) = (b'\t', false, Vec::new(), input.lines_read());
        Rows { input, separator, quoting, pending, line, several_lines, open_quotes, in_quotes }
    }

    /// Reads CSV. The separator is the comma, semicolon or tab that finds most of the `known` column names in the first
    /// row, or, if that is undecided, the one with which most of the first lines have as many cells as the first row, and
    /// that as many as `columns`, if given; of several the comma.
    pub fn csv(input: &'r mut Input<'i>, known: &[&str], columns: Option<usize>) -> Result<Self> {
        if let Some(&Form::Table { separator, .. }) = input.form() {
            return Ok(Rows { separator, quoting: true, ..Rows::tsv(input) });
        }
        let before = input.lines_read();
        let mut sample = Vec::new();
        let mut line = Vec::new();
        while sample.len() < SAMPLE && input.append_line(&mut line)? {
            sample.push(std::mem::take(&mut line));
        }
        let separator = separator(&sample, known, columns);
        sample.reverse();
        Ok(Rows { separator, quoting: true, pending: sample, line: before, ..Rows::tsv(input) })
    }

    /// Returns the first row of the file with its number, if these are later rows.
    pub fn first_of_file(&self) -> Option<(usize, Row)> {
        let Some(Form::Table { first: Some(first), .. }) = self.input.form() else { return None };
        let row = without_end(first);
        let cells = match self.quoting {
            false => text(row).map(|text| text.split('\t').map(str::to_owned).collect()),
            true => match Splitter::default().split(first, self.separator) {
                Split::Cells(cells) => cells.into_iter().map(|cell| utf8(cell, row)).collect(),
                _ => Err("the first row of the file is not valid".to_owned()),
            },
        };
        Some((self.input.number(1), cells))
    }

    /// Returns the next row and the number of its first line; empty lines are skipped.
    pub fn next(&mut self) -> Result<Option<(usize, Row)>> {
        let mut row = Vec::new();
        loop {
            row.clear();
            if !self.append_line(&mut row)? {
                return Ok(None);
            }
            if !without_end(&row).is_empty() {
                break;
            }
        }
        let first = self.line;
        let number = self.input.number(first);
        if !self.quoting {
            let cells = text(without_end(&row)).map(|text| text.split('\t').map(str::to_owned).collect::<Vec<_>>());
            cells.iter().flatten().for_each(|cell| self.notice(cell, number));
            return Ok(Some((number, cells)));
        }
        let mut ends = vec![row.len()];
        let mut splitter = Splitter::default();
        loop {
            match splitter.split(&row, self.separator) {
                Split::Cells(cells) => {
                    if ends.len() > 1 {
                        self.several_lines.push(number);
                    }
                    return Ok(Some((number, cells.into_iter().map(|cell| utf8(cell, &row)).collect())));
                }
                Split::Open(at) => {
                    if self.append_line(&mut row)? {
                        ends.push(row.len());
                        continue;
                    }
                    let opens = first + line_of(&ends, at);
                    self.retry(row, &ends);
                    let why = "unclosed quote: close it, or put the cell in quotes and double those inside it";
                    let why = if opens == first { why.to_owned() } else { format!("line {opens}: {why}") };
                    return Ok(Some((number, Err(why))));
                }
                Split::Bad(open, at, what) => {
                    let (opens, closes) = (first + line_of(&ends, open), first + line_of(&ends, at));
                    let place = if opens == closes { String::new() } else { format!(" in line {closes}") };
                    let opens = if opens == first { String::new() } else { format!("line {opens}: ") };
                    let shown = String::from_utf8_lossy(&row[at..]).chars().take(12).collect::<String>();
                    let why = match what {
                        Wrong::Backslash => "a quote in a quoted cell is doubled in CSV, not escaped by a backslash",
                        Wrong::After => {
                            "text after the quote that closes the cell; quotes in a quoted cell must be doubled"
                        }
                        Wrong::Return => "a carriage return without a line feed: convert the line ends",
                    };
                    self.retry(row, &ends);
                    return Ok(Some((number, Err(format!("{opens}{why}{place} ({:?})", shown.trim_end())))));
                }
            }
        }
    }

    /// Returns the separator, if it is not the usual one.
    fn separator(&self) -> Option<&'static str> {
        match self.separator {
            b';' => Some("semicolons"),
            b'\t' if self.quoting => Some("tabs"),
            _ => None,
        }
    }

    /// Returns remarks for the user on what was read, in short phrases.
    pub fn remarks(&self) -> Vec<String> {
        let place = |number: &usize| super::files::split(*number).1;
        let of = |lines: &[usize], one: &str, many: &str, more: &str| {
            let first = lines.first().map(place)?;
            let (n, what) = (lines.len(), if lines.len() == 1 { one } else { many });
            Some(format!("{n} {what} (first: line {first}){more}"))
        };
        let ordinary = ": in TSV quotes are ordinary characters, and each line is a record";
        let as_csv = ": they are kept; format = \"csv\" removes them";
        [
            self.separator().map(|name| format!("separated by {name}")),
            of(
                &self.several_lines,
                "row has a quoted cell of several lines",
                "rows have quoted cells of several lines",
                "",
            ),
            of(
                &self.open_quotes,
                "cell opens a quote and does not close it",
                "cells open quotes and do not close them",
                ordinary,
            ),
            of(&self.in_quotes, "cell is in quotes", "cells are in quotes", as_csv),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Counts a cell of TSV whose quotes have a meaning in CSV.
    fn notice(&mut self, cell: &str, number: usize) {
        let Some(rest) = cell.strip_prefix('"') else { return };
        match rest.strip_suffix('"') {
            Some(inner) if !inner.replace("\"\"", "").contains('"') => self.in_quotes.push(number),
            None if !rest.contains('"') => self.open_quotes.push(number),
            _ => {}
        }
    }

    fn append_line(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        let found = match self.pending.pop() {
            Some(line) => {
                to.extend_from_slice(&line);
                true
            }
            None => self.input.append_line(to)?,
        };
        self.line += usize::from(found);
        Ok(found)
    }

    /// Puts the lines of a row after the first back, to read them as rows of their own.
    fn retry(&mut self, row: Vec<u8>, ends: &[usize]) {
        for bounds in ends.windows(2).rev() {
            self.pending.push(row[bounds[0]..bounds[1]].to_vec());
            self.line -= 1;
        }
    }
}

/// Returns an error message for a name that a header has twice. Blank names are no names.
pub(super) fn twice(names: &[String]) -> Result<(), String> {
    let again = names.iter().enumerate().find(|(i, name)| !name.is_empty() && names[..*i].contains(name));
    match again {
        Some((_, name)) => {
            Err(format!("the header has the column {name:?} twice ({}): rename or remove one", quoted(names)))
        }
        None => Ok(()),
    }
}

/// Returns the index of the line with a byte, given where the lines end.
fn line_of(ends: &[usize], byte: usize) -> usize {
    ends.iter().take_while(|&&end| end <= byte).count()
}

fn text(row: &[u8]) -> Result<&str, String> {
    super::record::utf8(row)
}

fn utf8(cell: Vec<u8>, row: &[u8]) -> Result<String, String> {
    String::from_utf8(cell).map_err(|e| text(row).err().unwrap_or_else(|| e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows as `line: cells` separated by bars, the bad ones as `line! why`, and the remarks.
    fn read(content: &[u8], csv: bool) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, content).unwrap();
        let mut input = Input::open(&path, 0).unwrap();
        let mut rows = match csv {
            true => Rows::csv(&mut input, &["text", "label"], None).unwrap(),
            false => Rows::tsv(&mut input),
        };
        let mut shown = Vec::new();
        while let Some((line, row)) = rows.next().unwrap() {
            shown.push(match row {
                Ok(cells) => format!("{line}: {}", cells.join("|")),
                Err(why) => format!("{line}! {why}"),
            });
        }
        (shown, rows.remarks())
    }

    fn csv(content: &str) -> Vec<String> {
        read(content.as_bytes(), true).0
    }

    #[test]
    fn rows_are_those_of_rfc_4180() {
        assert_eq!(
            csv("a,\"b, \"\"c\"\"\"\r\n\n\"\",\nd \"e\" f,g\"\n"),
            ["1: a|b, \"c\"", "3: |", "4: d \"e\" f|g\""]
        );
        let (rows, remarks) = read(b"x,y\n\"a\nb\r\n\nc\",1\n\"d\n\",2\ne,3", true);
        assert_eq!(rows, ["1: x|y", "2: a\nb\r\n\nc|1", "6: d\n|2", "8: e|3"]);
        assert_eq!(remarks, ["2 rows have quoted cells of several lines (first: line 2)"]);
        assert!(csv("").is_empty() && csv("\n\r\n").is_empty());
    }

    #[test]
    fn a_wrong_quote_spoils_only_its_line() {
        let rows = csv("text,label\na,1\n\"b,2\nc,3\nd,4");
        assert_eq!(
            rows[2..],
            ["3! unclosed quote: close it, or put the cell in quotes and double those inside it", "4: c|3", "5: d|4"]
        );
        let rows = csv("text,label\na,\"1\nb,2\n\"c, d\",3\ne,4\n");
        let why = "2! text after the quote that closes the cell; quotes in a quoted cell must be doubled in line 4 (\"c, d\\\",3\")";
        assert_eq!(rows[1..], [why, "3: b|2", "4: c, d|3", "5: e|4"]);
        let rows = csv("text,label\n\"the \\\"old\\\" one\",1\n\"a\" b,2\n\"x\ny\",\"z\nc,3\n");
        assert!(
            rows[1].starts_with("2! a quote in a quoted cell is doubled in CSV, not escaped by a backslash (\"old"),
            "{}",
            rows[1]
        );
        assert!(rows[2].starts_with("3! text after the quote"), "{}", rows[2]);
        assert!(rows[3].starts_with("4! line 5: unclosed quote"), "{}", rows[3]);
        assert!(rows[5].starts_with("6: c|3"), "{rows:?}");
        assert!(csv("a,b\rc,d\re,f")[0].contains("1! a carriage return without a line feed"));
    }

    #[test]
    fn the_separator_is_detected() {
        let of = |content: &str| {
            let (rows, remarks) = read(content.as_bytes(), true);
            (rows.into_iter().next_back().unwrap(), remarks)
        };
        let semicolons = vec!["separated by semicolons".to_owned()];
        assert_eq!(of("text;label\na, b, c;1\n"), ("2: a, b, c|1".into(), semicolons.clone()));
        assert_eq!(of("id;Text;x\n1;\"a;b\";2\n"), ("2: 1|a;b|2".into(), semicolons.clone()));
        assert_eq!(of("text\tlabel\n\"a\tb\"\t1\n"), ("2: a\tb|1".into(), vec!["separated by tabs".into()]));
        assert_eq!(of("a, b;1\nc, d, e;2\n"), ("2: c, d, e|2".into(), semicolons), "no header");
        for commas in ["text,label\na;b;c,1\n", "a;b,1\nc;d,1\n", "text\na; b\nc; d\n"] {
            assert!(of(commas).1.is_empty(), "{commas}");
        }
    }

    #[test]
    fn quotes_in_tsv_are_kept_and_remarked() {
        let (rows, remarks) = read(b"a 5\" b\t1\n\"quick\" c\t2\n\"d\t3\ne\"\t4\n\"f\"\t\"g \"\"h\"\"\"\n", false);
        assert_eq!(rows, ["1: a 5\" b|1", "2: \"quick\" c|2", "3: \"d|3", "4: e\"|4", "5: \"f\"|\"g \"\"h\"\"\""]);
        let open = "1 cell opens a quote and does not close it (first: line 3): \
                    in TSV quotes are ordinary characters, and each line is a record";
        assert_eq!(
            remarks,
            [open, "2 cells are in quotes (first: line 5): they are kept; format = \"csv\" removes them"]
        );
    }

    #[test]
    fn names_must_be_unique() {
        let of = |names: &[&str]| twice(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        assert!(of(&["a", "", "", "A"]).is_ok());
        assert!(of(&["a", "b", "b"]).unwrap_err().contains("the column \"b\" twice (\"a\", \"b\", \"b\")"));
    }
}
