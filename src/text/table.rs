//! CSV and TSV as records, with or without a header.

use super::cells::{Row, Rows, twice};
use super::files::quoted;
use super::input::Input;
use super::jsonl::each_once;
use super::record::{Fields, Format, RawLabel, Record, Records, Source, weight};
use crate::error::{Error, Result};

/// Reads rows as records; empty lines are skipped.
///
/// # Errors
/// A header without the requested columns, or with a column twice.
pub(super) fn read(input: &mut Input, source: &Source, format: Format, into: &mut Records) -> Result<()> {
    let mut rows = rows(input, source, format)?;
    let mut table = Table { source, columns: None };
    if let Some((line, first)) = rows.first_of_file() {
        let first = first.map_err(|why| table.error(line, &why))?;
        table.columns = Some(table.resolve_columns(line, &first)?.0);
    }
    while let Some((line, row)) = rows.next()? {
        table.row(line, row, into)?;
    }
    into.remarks.extend(rows.remarks());
    Ok(())
}

fn rows<'r, 'i>(input: &'r mut Input<'i>, source: &Source, format: Format) -> Result<Rows<'r, 'i>> {
    if format == Format::Tsv {
        return Ok(Rows::tsv(input));
    }
    let fields = &source.fields;
    let known: Vec<&str> = fields.names().map(String::as_str).collect();
    Rows::csv(input, &known, source.columns.as_ref().map(Vec::len))
}

/// Column names as in the file, and the values of these columns for each row.
pub type Named<T> = (Vec<String>, Vec<Vec<T>>);

/// Returns the values of other columns for the rows that [`read`] returns.
pub(super) fn columns(input: &mut Input, source: &Source, format: Format, wanted: &[String]) -> Result<Named<String>> {
    let mut found: Option<(Vec<String>, Vec<usize>)> = None;
    let mut values = Vec::new();
    let table = Table { source, columns: None };
    let mut rows = rows(input, source, format)?;
    while let Some((line, row)) = rows.next()? {
        let row = row.map_err(|why| source.files.error(line, &why))?;
        if found.is_none() {
            let (Columns { names, .. }, is_header) = table.resolve_columns(line, &row)?;
            let index = |name: &String| {
                let none = || source.files.error(line, &format!("no column {name:?}; found {}", quoted(&names)));
                position(&names, name).ok_or_else(none)
            };
            let indices = wanted.iter().map(index).collect::<Result<Vec<usize>>>()?;
            found = Some((indices.iter().map(|&at| names[at].clone()).collect(), indices));
            if is_header {
                continue;
            }
        }
        if let Some((_, indices)) = &found {
            values.push(indices.iter().map(|&at| row.get(at).cloned().unwrap_or_default()).collect());
        }
    }
    Ok((found.map_or_else(|| wanted.to_vec(), |(names, _)| names), values))
}

/// The indices of the requested columns.
struct Columns {
    names: Vec<String>,
    text: usize,
    text_pair: Option<usize>,
    label: Option<usize>,
    many_labels: bool,
    weight: Option<usize>,
    negative: Option<usize>,
}

/// Returns the index of a column name: an exact match, else the only case-insensitive match.
fn position(names: &[String], name: &str) -> Option<usize> {
    let alike = || {
        let mut alike = (0..names.len()).filter(|&i| names[i].to_lowercase() == name.to_lowercase());
        alike.next().filter(|_| alike.next().is_none())
    };
    names.iter().position(|n| n == name).or_else(alike)
}

impl Columns {
    /// Finds the requested columns in `names`. The error holds the names, and name and setting of the missing column.
    fn find(names: Vec<String>, source: &Source) -> Result<Columns, (Vec<String>, String, &'static str)> {
        let at = |name: &str| position(&names, name);
        let fields = &source.fields;
        let wanted = |name: Option<&String>, key| match name {
            Some(name) => at(name).map(Some).ok_or((name.clone(), key)),
            None => Ok(None),
        };
        let present = |name: &&String| !fields.optional || at(name).is_some();
        let found = (|| {
            let text = at(&fields.text).ok_or((fields.text.clone(), "text_column"))?;
            let text_pair = wanted(fields.text_pair.as_ref(), "text_pair_column")?.or(at("text_pair"));
            let label = wanted(fields.label.as_ref().filter(present), "label_column")?;
            let weight = wanted(fields.weight.as_ref(), "weight_column")?;
            Ok((text, text_pair, label, weight, wanted(fields.negative.as_ref().filter(present), "negative_column")?))
        })();
        match found {
            Ok((text, text_pair, label, weight, negative)) => {
                Ok(Columns { names, text, text_pair, label, many_labels: fields.many_labels, weight, negative })
            }
            Err((name, key)) => Err((names, name, key)),
        }
    }

    fn record(&self, line: usize, row: &[String]) -> Result<Record, String> {
        let wanted = [Some(self.text), self.text_pair, self.label, self.weight, self.negative].into_iter().flatten();
        let needed = wanted.clone().max().unwrap_or(0) + 1;
        if row.len() < needed {
            let names = quoted(wanted.map(|i| &self.names[i]));
            return Err(format!("found {} of the {needed} columns needed for {names}", row.len()));
        }
        if row.len() > self.names.len() {
            let names = quoted(&self.names);
            return Err(format!(
                "found {} columns, but only {} names ({names}): remove a stray separator, or name all columns with columns",
                row.len(),
                self.names.len()
            ));
        }
        Ok(Record {
            line,
            text: row[self.text].clone(),
            text_pair: self.text_pair.map(|i| row[i].clone()),
            labels: self.label.map_or(Ok(Vec::new()), |i| self.labels(&row[i], &self.names[i]))?,
            weight: self.weight.map(|i| weight(&row[i], &self.names[i])).transpose()?,
            negatives: self.negative.map(|i| row[i].clone()).into_iter().collect(),
        })
    }

    fn labels(&self, cell: &str, column: &str) -> Result<Vec<RawLabel>, String> {
        match (self.many_labels, cell.trim()) {
            (false, _) => RawLabel::new(cell, column).map(|label| vec![label]),
            (true, "") => Ok(Vec::new()),
            (true, cell) => cell
                .split(',')
                .map(|label| RawLabel::new(label.trim(), column))
                .collect::<Result<_, _>>()
                .and_then(each_once),
        }
    }
}

/// A table whose first row determines the columns.
struct Table<'a> {
    source: &'a Source,
    columns: Option<Columns>,
}

impl Table<'_> {
    fn row(&mut self, line: usize, row: Row, into: &mut Records) -> Result<()> {
        let columns = match (&self.columns, &row) {
            (Some(columns), _) => columns,
            (None, Err(why)) => return Err(self.error(line, why)),
            (None, Ok(row)) => {
                let (columns, is_header) = self.resolve_columns(line, row)?;
                let columns = self.columns.insert(columns);
                if is_header {
                    return Ok(());
                }
                into.guessed = into.guessed.or(self.source.header.is_none().then_some(line));
                columns
            }
        };
        let record = row.and_then(|row| columns.record(line, &row));
        into.push(record.map_err(|why| (line, why)));
        Ok(())
    }

    /// Returns the columns, and whether the first row of the file is a header.
    fn resolve_columns(&self, line: usize, first: &[String]) -> Result<(Columns, bool)> {
        let fields = &self.source.fields;
        let names: Vec<String> = first.iter().map(|name| name.trim().to_string()).collect();
        let contains = |name: &String| position(&names, name).is_some();
        let label = fields.label.as_ref().filter(|_| !fields.optional);
        let (text, label) = (contains(&fields.text), label.map(contains));
        let header = match self.source.header {
            Some(header) => header,
            None if text == label.unwrap_or(text) => text,
            // With one of the two names, this is almost certainly a header with another name for the other column.
            None => {
                let (found, name, key) = match (text, &fields.label) {
                    (true, Some(label)) => (&fields.text, label, "label_column"),
                    _ => (fields.label.as_ref().unwrap_or(&fields.text), &fields.text, "text_column"),
                };
                let names = quoted(&names);
                let why = format!(
                    "this row ({names}) contains {found:?} but not {name:?}: set {key} to one of its names, \
                     or header = false if it is a record"
                );
                return Err(self.error(line, &why));
            }
        };
        if header {
            twice(&names).map_err(|why| self.error(line, &why))?;
        }
        let names = match (header, &self.source.columns) {
            (true, _) => names,
            (false, Some(columns)) => columns.clone(),
            (false, None) => {
                let label = (!fields.optional).then(|| fields.label.clone().unwrap_or_else(|| "label".into()));
                let usual: Vec<String> = Fields { label, ..fields.clone() }.names().cloned().collect();
                if self.source.header.is_none() && names.len() > usual.len() {
                    let (found, keys) = (quoted(&names), quoted(&usual));
                    let which = if fields.label.is_some() { "text_column and label_column" } else { "text_column" };
                    let why = format!(
                        "this row has {} columns ({found}), but contains none of the expected names ({keys}). If it is a \
                         header, set {which} to its names; if it is a record, name all columns with columns",
                        names.len()
                    );
                    return Err(self.error(line, &why));
                }
                usual
            }
        };
        let columns = Columns::find(names, self.source).map_err(|(names, name, key)| {
            let (place, names) = (if header { "the header" } else { "columns" }, quoted(names));
            self.error(line, &format!("no column {name:?} in {place} ({names}): set {key}"))
        })?;
        Ok((columns, header))
    }

    fn error(&self, line: usize, why: &str) -> Error {
        self.source.files.error(line, why)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Parsed;
    use super::super::records::{Fields, OnBad};
    use super::*;

    fn source() -> Source {
        let fields = Fields::default();
        Source { files: "f".into(), format: None, columns: None, header: None, fields, on_bad_record: OnBad::Error }
    }

    /// Reads a file with this content, named `f` in messages.
    fn of(content: &[u8], source: &Source, format: Format) -> Result<(Vec<Parsed>, Option<usize>)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, content).unwrap();
        let (remarks, hashes) = (Vec::new(), Vec::new());
        let mut records =
            Records { records: Vec::new(), skipped: Vec::new(), guessed: None, remarks, hashes, classes: Vec::new() };
        super::read(&mut Input::open(&path, 0).unwrap(), source, format, &mut records)?;
        let mut all: Vec<Parsed> = records.records.into_iter().map(Ok).collect();
        all.extend(records.skipped.into_iter().map(Err));
        all.sort_by_key(|row| row.as_ref().map_or_else(|(line, _)| *line, |record| record.line));
        Ok((all, records.guessed))
    }

    fn parse_csv(content: &[u8], source: &Source) -> Result<(Vec<Parsed>, Option<usize>)> {
        of(content, source, Format::Csv)
    }

    fn parse_tsv(content: &[u8], source: &Source) -> Result<(Vec<Parsed>, Option<usize>)> {
        of(content, source, Format::Tsv)
    }

    /// Formats each record as `line:text|pair|label`, and each invalid one as `line!why`.
    fn show(parsed: Result<(Vec<Parsed>, Option<usize>)>) -> Vec<String> {
        let rows = parsed.unwrap().0.into_iter().map(|row| match row {
            Ok(r) => {
                let labels: Vec<&str> = r.labels.iter().map(RawLabel::as_str).collect();
                let labels = if labels.is_empty() { "-".into() } else { labels.join("+") };
                format!("{}:{}|{}|{labels}", r.line, r.text, r.text_pair.unwrap_or("-".into()))
            }
            Err((line, why)) => format!("{line}!{why}"),
        });
        rows.collect()
    }

    #[test]
    fn header_columns_may_be_in_any_order() {
        let csv = show(parse_csv(b"id,label, text\n7,pos,\"a, \"\"b\"\"\"\n", &source()));
        assert_eq!(csv, ["2:a, \"b\"|-|pos"]);
        let tsv = show(parse_tsv(b"label\ttext\ttext_pair\n1\ta \"b\tc\"\n", &source()));
        assert_eq!(tsv, ["2:a \"b|c\"|1"]);
    }

    #[test]
    fn header_names_ignore_case() {
        assert_eq!(show(parse_csv(b"Label,TEXT,Text_Pair\n1,a,b\n", &source())), ["2:a|b|1"]);
        assert_eq!(show(parse_csv(b"Text,label,text\nno,1,a\n", &source())), ["2:a|-|1"], "the exact name wins");
        let message = parse_csv(b"Text,label,TEXT\na,1,b\n", &source()).unwrap_err().to_string();
        assert!(message.contains("not \"text\": set text_column"), "two case-insensitive matches: {message}");
    }

    #[test]
    fn a_first_row_without_known_names_is_reported_as_a_guess() {
        let guessed = |content: &[u8], source: &Source| parse_csv(content, source).unwrap().1;
        assert_eq!(guessed(b"\nreview,sentiment\na,1\n", &source()), Some(2));
        assert_eq!(guessed(b"text,label\na,1\n", &source()), None);
        assert_eq!(guessed(b"review,sentiment\na,1\n", &Source { header: Some(false), ..source() }), None);
    }

    #[test]
    fn a_file_without_header_has_default_or_given_names() {
        assert_eq!(show(parse_tsv(b"good\t1\nbad\t0", &source())), ["1:good|-|1", "2:bad|-|0"]);
        let pair = Fields { text_pair: Some("b".into()), ..Fields::default() };
        assert_eq!(show(parse_tsv(b"x\ty\t1", &Source { fields: pair, ..source() })), ["1:x|y|1"]);
        let columns = Some(vec!["label".into(), "text".into(), "text_pair".into()]);
        assert_eq!(show(parse_tsv(b"4.5\tx\ty", &Source { columns, ..source() })), ["1:x|y|4.5"]);
        let columns = Some(vec!["a".into(), "b".into()]);
        let message = parse_tsv(b"x\ty", &Source { columns, ..source() }).unwrap_err().to_string();
        assert!(message.contains("no column \"text\" in columns"), "{message}");
    }

    #[test]
    fn a_column_twice_is_an_error() {
        let message = parse_csv(b"\ntext,label,label\na,1,2\n", &source()).unwrap_err().to_string();
        assert!(message.starts_with("f:2: the header has the column \"label\" twice"), "{message}");
        assert!(parse_tsv(b"text\tid\tlabel\tid\na\t1\t2\t3\n", &source()).is_err(), "a column that is not read");
        assert_eq!(show(parse_csv(b",text,label,\n1,a,2,\n", &source())), ["2:a|-|2"], "without names");
    }

    #[test]
    fn prediction_needs_only_the_text() {
        let fields = Fields { label: None, ..Fields::default() };
        let source = Source { fields, ..source() };
        assert_eq!(show(parse_tsv(b"one\ntwo\t1", &source)), ["1:one|-|-", "2:two|-|-"]);
        assert_eq!(show(parse_csv(b"id,text\n1,one", &source)), ["2:one|-|-"]);
    }

    #[test]
    fn a_header_with_other_names_is_not_read_as_a_record() {
        let message = parse_tsv(b"sentence\tlabel\nx\t1", &source()).unwrap_err().to_string();
        assert!(message.starts_with("f:1: ") && message.contains("text_column"), "{message}");
        let message = parse_tsv(b"text\tscore\nx\t1", &source()).unwrap_err().to_string();
        assert!(message.contains("not \"label\"") && message.contains("label_column"), "{message}");
        let forced = Source { header: Some(false), ..source() };
        assert_eq!(show(parse_tsv(b"sentence\tlabel", &forced)), ["1:sentence|-|label"]);
        let forced = Source { header: Some(true), ..source() };
        let message = parse_tsv(b"a\tb\nx\t1", &forced).unwrap_err().to_string();
        assert!(message.contains("no column \"text\" in the header (\"a\", \"b\")"), "{message}");
    }

    #[test]
    fn a_row_may_have_many_labels() {
        let fields = Fields { many_labels: true, ..Fields::default() };
        let content = b"text,label\na,\"x, y z\"\nb,\nc,x\nd,\"x,,y\"\n";
        let rows = show(parse_csv(content, &Source { fields, ..source() }));
        let empty = "5!the label (column \"label\") is empty";
        assert_eq!(rows, ["2:a|-|x+y z", "3:b|-|-", "4:c|-|x", empty]);
    }

    #[test]
    fn rows_with_a_wrong_number_of_columns_are_invalid() {
        let rows = show(parse_tsv(b"good\t1\nalone\na\tb\tc\nempty\t\n", &source()));
        assert_eq!(rows[1], "2!found 1 of the 2 columns needed for \"text\", \"label\"");
        assert!(rows[2].starts_with("3!found 3 columns, but only 2 names"), "{}", rows[2]);
        assert!(rows[3].starts_with("4!the label (column \"label\") is empty"), "{}", rows[3]);
    }

    #[test]
    fn csv_line_numbers_count_newlines_blank_lines_and_crlf() {
        for end in ["\n", "\r\n"] {
            let content = ["text,label", "\"a\nb\",1", "", "", "c,2", "\"d\n\ne\",3", "f,4"].join(end);
            let rows = show(parse_csv(content.as_bytes(), &source()));
            assert_eq!(rows, ["2:a\nb|-|1", "6:c|-|2", "7:d\n\ne|-|3", "10:f|-|4"]);
        }
    }

    #[test]
    fn an_unclosed_quote_is_an_error() {
        let rows = show(parse_csv(b"text,label\na,1\n\"b,1\nc,1\n", &source()));
        assert!(rows[1].starts_with("3!unclosed quote") && rows[2] == "4:c|-|1", "{rows:?}");
        assert_eq!(show(parse_csv(b"text,label\na 5\" pipe,1\n", &source())), ["2:a 5\" pipe|-|1"]);
    }

    #[test]
    fn invalid_utf8_is_reported_with_its_line() {
        let rows = show(parse_csv(b"text,label\na,1\n\xff,1\n", &source()));
        assert!(rows[1].starts_with("3!byte 1 "), "{}", rows[1]);
        assert!(parse_tsv(b"\xff\t1", &source()).unwrap_err().to_string().starts_with("f:1: byte 1"));
    }
}
