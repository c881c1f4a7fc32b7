//! Reads a file in [pieces](super::pieces) of limited size, so that no file has to fit in memory.
//!
//! A piece has whole records, and a reader of files reads it as it would read them in the file, with their lines. A
//! place in a file is a number of lines (of elements in a JSON array, of rows in a columnar file), so that reading can
//! begin anywhere: what is before is skipped without parsing it.

use super::columnar::Batches;
use super::input::Input;
use super::json_array::Elements;
use super::pieces::{Content, Form, Object, Piece};
use super::record::Format;
use super::splitter::{Split, Splitter, separator, without_end};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Number of lines that are compared to detect the separator of CSV, as for a whole file.
const SAMPLE: usize = 20;

/// What separates the records of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// Lines of JSON, or the elements of a JSON array.
    Json,
    /// Rows of CSV or TSV. The column names that determine the separator of CSV, and the number of columns without a
    /// header.
    Table { csv: bool, known: Vec<String>, columns: Option<usize> },
    /// Lines.
    Lines,
    /// Blank lines.
    Paragraphs,
    /// Nothing: the file is one record.
    File,
    /// Rows of Parquet or Arrow.
    Rows(Format),
}

/// The room that is left for pieces that are read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Number of records, or lines.
    pub records: usize,
    /// Bytes of text.
    pub bytes: usize,
}

impl Room {
    pub fn is_full(self) -> bool {
        self.records == 0 || self.bytes == 0
    }

    fn take(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// A file that is read in pieces.
pub struct Shard(Reader);

enum Reader {
    Text(Box<Text>),
    Array { input: Input<'static>, elements: Elements, read: u64 },
    File { input: Option<Input<'static>> },
    Rows { batches: Batches, waiting: VecDeque<Object>, read: u64 },
}

/// A file whose records are lines or groups of lines.
struct Text {
    input: Input<'static>,
    kind: Kind,
    /// Lines that were read to detect the separator.
    pending: VecDeque<Vec<u8>>,
}

enum Kind {
    Lines,
    Paragraphs,
    Table { csv: bool, separator: u8, first: Option<Vec<u8>> },
}

impl Shard {
    /// Opens a file at a place: a number of lines, elements or rows.
    ///
    /// # Errors
    /// Exit 2: a file that cannot be read, or is shorter.
    pub fn open(path: &Path, framing: &Framing, place: u64) -> Result<Self> {
        let open = || Input::open(PathBuf::from(path), 0);
        let mut reader = match framing {
            Framing::Rows(format) => {
                let batches = Batches::open(path, *format)?;
                return Ok(Shard(Reader::Rows { batches, waiting: VecDeque::new(), read: place }));
            }
            Framing::File => {
                return Ok(Shard(Reader::File { input: if place == 0 { Some(open()?) } else { None } }));
            }
            Framing::Json => {
                let mut input = open()?;
                if input.skip_blank()? == Some(b'[') {
                    let elements = Elements::begin(&mut input)?;
                    Reader::Array { input, elements, read: 0 }
                } else {
                    Reader::Text(Box::new(Text { input, kind: Kind::Lines, pending: VecDeque::new() }))
                }
            }
            Framing::Lines | Framing::Paragraphs => {
                let kind = if *framing == Framing::Lines { Kind::Lines } else { Kind::Paragraphs };
                Reader::Text(Box::new(Text { input: open()?, kind, pending: VecDeque::new() }))
            }
            Framing::Table { csv, known, columns } => {
                let mut input = open()?;
                let (mut separator_of, mut pending) = (b'\t', Vec::new());
                if *csv {
                    let mut line = Vec::new();
                    while pending.len() < SAMPLE && input.append_line(&mut line)? {
                        pending.push(std::mem::take(&mut line));
                    }
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    separator_of = separator(&pending, &known, *columns);
                }
                let kind = Kind::Table { csv: *csv, separator: separator_of, first: None };
                Reader::Text(Box::new(Text { input, kind, pending: pending.into() }))
            }
        };
        let is_long_enough = match &mut reader {
            Reader::Text(text) => text.skip(place)?,
            Reader::Array { input, elements, read } => {
                let mut element = Vec::new();
                while *read < place && elements.next(input, &mut element)?.is_some() {
                    *read += 1;
                }
                *read == place
            }
            Reader::File { .. } | Reader::Rows { .. } => true,
        };
        match is_long_enough {
            true => Ok(Shard(reader)),
            false => Err(Error::input(format!("{}: the file is shorter than it was: restore it", path.display()))),
        }
    }

    /// Returns the place that was read up to.
    pub fn place(&self) -> u64 {
        match &self.0 {
            Reader::Text(text) => text.line() as u64,
            Reader::Array { read, .. } | Reader::Rows { read, .. } => *read,
            Reader::File { input } => u64::from(input.is_none()),
        }
    }

    /// Returns the next records, at least one and as many as there is room for; `None` at the end of the file.
    ///
    /// # Errors
    /// Exit 2: a file that cannot be read.
    pub fn next(&mut self, room: &mut Room) -> Result<Option<Piece>> {
        match &mut self.0 {
            Reader::Text(text) => text.next(room),
            Reader::Array { input, elements, read } => array(input, elements, read, room),
            Reader::File { input } => {
                let Some(mut input) = input.take() else { return Ok(None) };
                let bytes = input.content()?;
                room.take(bytes.len());
                Ok(Some(Piece { line: 0, content: Content::Bytes(bytes), form: Form::Lines }))
            }
            Reader::Rows { batches, waiting, read } => {
                let mut objects: Vec<Object> = Vec::new();
                while !room.is_full() {
                    if waiting.is_empty() {
                        let Some(more) = batches.next(*read as usize)? else { break };
                        waiting.extend(more);
                    }
                    let Some(object) = waiting.pop_front() else { break };
                    room.take(object.1.as_ref().map_or(0, |map| map.values().map(text_bytes).sum()));
                    *read += 1;
                    objects.push(object);
                }
                let line = *read as usize - objects.len();
                let form = Form::Rows(Arc::clone(&batches.labels));
                let piece = Piece { line, content: Content::Objects(objects), form };
                Ok((line < *read as usize).then_some(piece))
            }
        }
    }
}

/// Returns the next elements of an array as an array, on their lines.
fn array(
    input: &mut Input<'static>,
    elements: &mut Elements,
    read: &mut u64,
    room: &mut Room,
) -> Result<Option<Piece>> {
    let (mut bytes, mut element, mut before, mut at) = (vec![b'['], Vec::new(), None, 0);
    while !room.is_full() {
        let Some(line) = elements.next(input, &mut element)? else { break };
        if before.is_some() {
            bytes.push(b',');
        }
        before.get_or_insert(line - 1);
        at = at.max(before.unwrap_or_default() + 1);
        bytes.extend(std::iter::repeat_n(b'\n', line.saturating_sub(at)));
        at = line + super::input::newlines(&element);
        bytes.extend_from_slice(&element);
        room.take(element.len());
        *read += 1;
    }
    bytes.push(b']');
    Ok(before.map(|line| Piece { line, content: Content::Bytes(bytes), form: Form::Array }))
}

/// Returns the bytes of the strings of a value, an approximation of its size.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(map) => map.values().map(text_bytes).sum(),
        _ => 8,
    }
}

impl Text {
    /// Number of lines read so far.
    fn line(&self) -> usize {
        self.input.lines_read() - self.pending.len()
    }

    fn next(&mut self, room: &mut Room) -> Result<Option<Piece>> {
        let (line, mut bytes) = (self.line(), Vec::new());
        let form = match &self.kind {
            Kind::Table { separator, first, .. } => Form::Table { separator: *separator, first: first.clone() },
            Kind::Lines | Kind::Paragraphs => Form::Lines,
        };
        while !room.is_full() {
            let before = bytes.len();
            if !self.append_record(&mut bytes)? {
                break;
            }
            room.take(bytes.len() - before);
        }
        Ok((!bytes.is_empty()).then_some(Piece { line, content: Content::Bytes(bytes), form }))
    }

    /// Skips lines up to a place; false if the file is shorter.
    fn skip(&mut self, place: u64) -> Result<bool> {
        let mut scratch = Vec::new();
        while (self.line() as u64) < place {
            scratch.clear();
            // The first row determines the columns of all rows.
            let found = match self.kind {
                Kind::Table { first: None, .. } => self.append_record(&mut scratch)?,
                _ => self.append_line(&mut scratch)?,
            };
            if !found {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Appends the lines of the next record, or a line between records; false at the end of the file.
    fn append_record(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        let start = to.len();
        if !self.append_line(to)? {
            return Ok(false);
        }
        match self.kind {
            Kind::Lines => {}
            Kind::Paragraphs => {
                let (mut line, mut has_text) = (start, false);
                loop {
                    let is_blank = to[line..].trim_ascii().is_empty();
                    if is_blank && has_text {
                        break;
                    }
                    has_text |= !is_blank;
                    line = to.len();
                    if !self.append_line(to)? {
                        break;
                    }
                }
            }
            Kind::Table { csv, separator, .. } => {
                let mut splitter = Splitter::default();
                while csv && matches!(splitter.split(&to[start..], separator), Split::Open(_)) {
                    if !self.append_line(to)? {
                        break;
                    }
                }
            }
        }
        if let Kind::Table { first: first @ None, .. } = &mut self.kind
            && !without_end(&to[start..]).is_empty()
        {
            *first = Some(to[start..].to_vec());
        }
        Ok(true)
    }

    fn append_line(&mut self, to: &mut Vec<u8>) -> Result<bool> {
        match self.pending.pop_front() {
            Some(line) => {
                to.extend_from_slice(&line);
                Ok(true)
            }
            None => self.input.append_line(to),
        }
    }
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
