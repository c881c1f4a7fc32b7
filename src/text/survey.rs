//! What a data file contains, as far as a configuration depends on it: its columns and their values.

use super::cells::Rows;
use super::files::extension;
use super::input::Input;
use super::records::{ClassValues, Format, each_object, format_of};
use super::{documents, files, one_object, questions};
use crate::error::{Error, Result};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Maximum number of distinct values of a column that are counted.
const DISTINCT: usize = 500;
/// Maximum number of texts of a column that are kept.
const SAMPLES: usize = 1000;

/// What a file is.
#[derive(Debug, PartialEq)]
pub enum Survey {
    /// Documents without columns.
    PlainText,
    /// Words with tags, a line each.
    Conll,
    /// SQuAD's JSON.
    Squad,
    /// Records with columns.
    Records(Columns),
}

/// The columns of records.
#[derive(Debug, Default, PartialEq)]
pub struct Columns {
    /// Number of records.
    pub rows: usize,
    pub columns: Vec<Column>,
    /// Of CSV and TSV: whether the first row names the columns; otherwise their names are `column1` and so on.
    pub header: Option<bool>,
}

/// The values of a column. Empty values are those that are missing, null or an empty string.
#[derive(Debug, Default, PartialEq)]
pub struct Column {
    pub name: String,
    /// Number of values that are not empty.
    pub filled: usize,
    /// Number of those that are texts; numbers, also in cells of CSV and TSV; integers among these; lists of texts or
    /// numbers; and lists of objects, or objects.
    pub texts: usize,
    pub numbers: usize,
    pub integers: usize,
    pub lists: usize,
    pub objects: usize,
    /// Characters of all texts, or elements of all lists.
    pub size: usize,
    /// How often each text or number occurs; `None` if there are too many different ones.
    pub counts: Option<BTreeMap<String, usize>>,
    /// Texts of the first records; one for each record.
    pub samples: Vec<String>,
}

impl Columns {
    /// Returns the first column with one of these names, in the order of the names, that is as wanted. Case does not
    /// matter.
    pub fn find(&self, names: &[&str], wanted: impl Fn(&Column) -> bool) -> Option<&Column> {
        let of = |name: &str| self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        names.iter().filter_map(|name| of(name)).find(|column| wanted(column))
    }
}

impl Column {
    fn new(name: &str) -> Self {
        Column { name: name.to_owned(), counts: Some(BTreeMap::new()), ..Column::default() }
    }

    pub fn is_text(&self) -> bool {
        self.filled > 0 && self.texts + self.numbers == self.filled && self.texts > 0
    }

    pub fn is_number(&self) -> bool {
        self.filled > 0 && self.numbers == self.filled
    }

    pub fn is_list(&self) -> bool {
        self.filled > 0 && self.lists == self.filled
    }

    pub fn is_objects(&self) -> bool {
        self.filled > 0 && self.objects == self.filled
    }

    /// Returns the mean number of characters or elements.
    pub fn mean_size(&self) -> f64 {
        self.size as f64 / self.filled.max(1) as f64
    }

    /// Returns the number of different values, if it is small enough to be known.
    pub fn distinct(&self) -> Option<usize> {
        self.counts.as_ref().map(BTreeMap::len)
    }

    fn add(&mut self, value: &Value, is_cell: bool) {
        let text = match value {
            Value::Null => return,
            Value::String(text) if text.is_empty() => return,
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Array(list) => {
                let objects = list.iter().any(|element| element.is_object() || element.is_array());
                self.filled += 1;
                self.lists += usize::from(!objects);
                self.objects += usize::from(objects);
                self.size += list.len();
                return;
            }
            Value::Object(_) => {
                self.filled += 1;
                self.objects += 1;
                return;
            }
        };
        let number = text.trim().parse::<f64>().ok().filter(|x| x.is_finite() && (is_cell || value.is_number()));
        self.filled += 1;
        self.size += text.chars().count();
        match number {
            Some(number) => {
                self.numbers += 1;
                self.integers += usize::from(number.fract() == 0.0);
            }
            None => self.texts += 1,
        }
        if self.samples.len() < SAMPLES {
            self.samples.push(text.clone());
        }
        if let Some(counts) = &mut self.counts {
            *counts.entry(text).or_default() += 1;
            if counts.len() > DISTINCT {
                self.counts = None;
            }
        }
    }
}

/// Looks at a file. `known` are usual names of columns, in lowercase: a first row of a table is a header if it has one of
/// them, or if none of its cells is a number or a text that a later row has, and some column has only numbers below it.
///
/// # Errors
/// Exit 2: a file that cannot be read, is empty, or is of no known format.
pub fn survey(path: &Path, known: &[&str]) -> Result<Survey> {
    if documents::is_text(path) {
        return Ok(Survey::PlainText);
    }
    if ["conll", "bio", "iob"].contains(&extension(path).as_str()) {
        return Ok(Survey::Conll);
    }
    let mut input = Input::open(path, 0)?;
    let format = format_of(path, None)?;
    if format == Format::Jsonl && questions::format(path).is_none() {
        if input.skip_blank()? == Some(b'{') && begins_as_squad(input.into_reader()) {
            return Ok(Survey::Squad);
        }
        // What was read to find out is read again.
        input = Input::open(path, 0)?;
    }
    let (columns, bad) = match format {
        Format::Csv | Format::Tsv => table(&mut input, format, known)?,
        format => objects(&mut input, format)?,
    };
    // Some invalid records are for the run to report, which can skip them.
    match (columns.rows, bad) {
        (0, Some((line, why))) => Err(Error::input(format!("{}:{line}: {why}", path.display()))),
        (0, None) => Err(Error::input(format!("{}: the file contains no record", path.display()))),
        _ => Ok(Survey::Records(columns)),
    }
}

/// What ends the reading of a file that is SQuAD's.
const FOUND: &str = "paragraphs found";

#[derive(Deserialize)]
struct Squad {
    #[serde(rename = "data")]
    _data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    #[serde(rename = "paragraphs", deserialize_with = "found")]
    _paragraphs: (),
}

/// Whether JSON begins with an object whose `data` has an object with `paragraphs`. Nothing further is read: it may be
/// long, and what is wrong there is for the run to report.
fn begins_as_squad(reader: impl BufRead) -> bool {
    let read = Squad::deserialize(&mut serde_json::Deserializer::from_reader(reader));
    read.is_err_and(|e| e.to_string().starts_with(FOUND))
}

/// Fails, since only an error ends the reading before the end of the object.
fn found<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(D::Error::custom(FOUND))
}

/// The columns of a file, and line and reason of its first invalid record.
type Surveyed = (Columns, Option<(usize, String)>);

fn objects(input: &mut Input, format: Format) -> Result<Surveyed> {
    let mut found = Columns::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let (path, mut bad) = (input.path().to_owned(), None);
    let each = |line: usize, map: Result<Map<String, Value>, String>| match map {
        Ok(map) => {
            found.rows += 1;
            for (name, value) in &map {
                let place = *places.entry(name.clone()).or_insert_with(|| {
                    found.columns.push(Column::new(name));
                    found.columns.len() - 1
                });
                found.columns[place].add(value, false);
            }
        }
        Err(why) => _ = bad.get_or_insert((files::split(line).1, why)),
    };
    each_object(input, (format, ClassValues::Names), each, &mut Vec::new())?;
    if bad.is_some() {
        one_object::refuse(&path)?;
    }
    Ok((found, bad))
}

fn table(input: &mut Input, format: Format, known: &[&str]) -> Result<Surveyed> {
    let mut rows = if format == Format::Tsv { Rows::tsv(input) } else { Rows::csv(input, known, None)? };
    let mut first: Option<Vec<String>> = None;
    let mut found = Columns::default();
    let mut bad = None;
    while let Some((line, row)) = rows.next()? {
        let row = match row {
            Ok(row) => row,
            Err(why) => {
                _ = bad.get_or_insert((files::split(line).1, why));
                continue;
            }
        };
        let Some(first) = &first else {
            found.columns = row.iter().map(|name| Column::new(name.trim())).collect();
            first = Some(row);
            continue;
        };
        if row.len() == first.len() {
            found.rows += 1;
            let cells = found.columns.iter_mut().zip(row);
            cells.for_each(|(column, cell)| column.add(&Value::String(cell), true));
        }
    }
    let first = first.unwrap_or_default();
    let header = is_header(&first, &found.columns, known);
    found.header = Some(header);
    if !header && !first.is_empty() {
        found.rows += 1;
        for ((column, cell), n) in found.columns.iter_mut().zip(first).zip(1..) {
            column.name = format!("column{n}");
            column.add(&Value::String(cell), true);
        }
    }
    Ok((found, bad))
}

fn is_header(first: &[String], below: &[Column], known: &[&str]) -> bool {
    let plain = |cell: &str| !cell.is_empty() && cell.len() <= 40 && cell.parse::<f64>().is_err();
    let names: Vec<&str> = first.iter().map(|cell| cell.trim()).collect();
    let is_known = |name: &&str| known.contains(&name.to_lowercase().as_str());
    let repeated =
        |(name, column): (&&str, &Column)| column.counts.as_ref().is_some_and(|counts| counts.contains_key(*name));
    // The index that pandas writes has no name.
    let named = if names.len() > 1 && names[0].is_empty() { &names[1..] } else { &names[..] };
    named.iter().all(|name| plain(name))
        && !names.iter().zip(below).any(repeated)
        && (names.iter().any(is_known) || below.iter().any(Column::is_number))
}

/// Returns the data files beside a file, or in a folder, that are the `part` ("training", "validation" or "test") of a
/// data set by their names, in the order of their names. Beside a file they have its extension.
///
/// # Errors
/// Exit 2: a folder that cannot be read.
pub fn of_part(beside: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let folder = if beside.is_dir() { beside } else { files::folder_of(beside) };
    let mut paths = files::of_part(folder, part)?;
    paths.retain(|path| beside.is_dir() || extension(path) == extension(beside));
    Ok(paths.into_iter().map(|path| path.strip_prefix("./").map_or(path.clone(), Path::to_owned)).collect())
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
