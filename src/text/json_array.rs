//! The elements of a JSON array, one after another, without keeping the array in memory.

use super::input::Input;
use crate::error::Result;

/// Calls `each` with the line and the bytes of every element of the array at which `input` stands.
///
/// # Errors
/// Exit 2: an array that is not closed, or with something else than a comma between elements, or with anything after
/// it; each with its line.
pub(super) fn elements(input: &mut Input, mut each: impl FnMut(usize, &[u8])) -> Result<()> {
    let mut elements = Elements::begin(input)?;
    let mut element = Vec::new();
    while let Some(line) = elements.next(input, &mut element)? {
        each(line, &element);
    }
    Ok(())
}

/// The elements of an array, read one after another.
pub(super) struct Elements {
    /// Line of the last element, or of the bracket.
    last: usize,
    is_first: bool,
    has_ended: bool,
}

impl Elements {
    /// Begins with the array at which `input` stands.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn begin(input: &mut Input) -> Result<Self> {
        input.skip_blank()?;
        input.skip(1);
        Ok(Elements { last: line(input), is_first: true, has_ended: false })
    }

    /// Reads the next element into `element` and returns its line; `None` after the last.
    ///
    /// # Errors
    /// As [`elements`].
    pub fn next(&mut self, input: &mut Input, element: &mut Vec<u8>) -> Result<Option<usize>> {
        if self.has_ended {
            return Ok(None);
        }
        if !self.is_first {
            match input.skip_blank()? {
                Some(b',') => input.skip(1),
                Some(b']') => return self.end(input),
                None => return Err(input.error(self.last, UNCLOSED)),
                Some(_) => {
                    return Err(input.error(line(input), "a comma is missing between this record and the one before"));
                }
            }
        }
        match input.skip_blank()? {
            Some(b']') if self.is_first => return self.end(input),
            Some(b']') => return Err(input.error(line(input), "a comma without a record after it: remove it")),
            None => return Err(input.error(self.last, UNCLOSED)),
            Some(b',') => return Err(input.error(line(input), "a comma where a record is expected: remove it")),
            Some(_) => {}
        }
        (self.last, self.is_first) = (line(input), false);
        element.clear();
        read(input, element, self.last)?;
        Ok(Some(self.last))
    }

    fn end(&mut self, input: &mut Input) -> Result<Option<usize>> {
        self.has_ended = true;
        input.skip(1);
        match input.skip_blank()? {
            None => Ok(None),
            Some(_) => {
                Err(input.error(line(input), "text after the end of the array: keep one array, or one record per line"))
            }
        }
    }
}

fn line(input: &Input) -> usize {
    input.lines_read() + 1
}

const UNCLOSED: &str = "the array is not closed after the record that starts here: was the copy interrupted?";

/// Reads an element: a string or a value in brackets to its end, anything else to the next comma or bracket.
fn read(input: &mut Input, element: &mut Vec<u8>, line: usize) -> Result<()> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    loop {
        let bytes = input.peek()?;
        if bytes.is_empty() {
            return Err(input.error(line, UNCLOSED));
        }
        let mut end = None;
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if quoted => continue,
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth > 0 => depth -= 1,
                b',' | b']' | b'}' if depth == 0 => {
                    // The end of a number or a word belongs to the array.
                    end = Some(if element.is_empty() && at == 0 { 1 } else { at });
                    break;
                }
                _ => continue,
            }
            if depth == 0 && !quoted && matches!(byte, b'"' | b']' | b'}') {
                end = Some(at + 1);
                break;
            }
        }
        let n = end.unwrap_or(bytes.len());
        element.extend_from_slice(&bytes[..n]);
        input.skip(n);
        if end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &str) -> Result<Vec<(usize, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, content).unwrap();
        let mut input = Input::open(&path, 0).unwrap();
        let mut found = Vec::new();
        let read = elements(&mut input, |line, bytes| found.push((line, String::from_utf8(bytes.to_vec()).unwrap())));
        let below = format!("{}:", path.display());
        read.map(|()| found).map_err(|e| e.to_string().replace(&below, ""))
    }

    #[test]
    fn elements_have_their_lines() {
        let found = of("\n[\n {\n  \"a\": \"]},\\\"[\"\n },\n\n {\"b\": [1, {}]}, 3 ,\"x,]\"\n,null]\n").unwrap();
        let expected =
            [(3, "{\n  \"a\": \"]},\\\"[\"\n }"), (7, "{\"b\": [1, {}]}"), (7, "3 "), (7, "\"x,]\""), (8, "null")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
        assert!(of("[]").unwrap().is_empty() && of(" [ \n ] ").unwrap().is_empty());
    }

    /// Elements across the boundaries of what is read at a time.
    #[test]
    fn a_long_array_is_read_in_parts() {
        let record = |i: usize| format!("{{\"text\": \"{}\\\\\"}}", "ä]\\\"".repeat(i % 1000));
        let all: Vec<String> = (0..2000).map(record).collect();
        let found = of(&format!("[{}]", all.join(",\n"))).unwrap();
        assert!(found.iter().zip(1..).all(|((line, text), n)| *line == n && *text == all[n - 1]));
        assert_eq!(found.len(), all.len());
    }

    #[test]
    fn an_array_that_is_not_one_is_an_error() {
        for (content, expected) in [
            ("[{\"a\": 1},\n{\"a\": 2", "2: the array is not closed"),
            ("[{\"a\": 1},\n{\"a\": 2}\n", "2: the array is not closed"),
            ("[", "1: the array is not closed"),
            ("[{}\n{}]", "2: a comma is missing"),
            ("[{},\n]", "2: a comma without a record"),
            ("[{},\n,{}]", "2: a comma where a record is expected"),
            ("[{}]\n{}", "2: text after the end of the array"),
            ("[{}\n}]", "2: a comma is missing"),
        ] {
            let message = of(content).unwrap_err();
            assert!(message.starts_with(expected), "{content:?}: {message}");
        }
        assert_eq!(of("[}]").unwrap(), [(1, "}".to_owned())], "reported as a record that is no JSON");
    }
}
