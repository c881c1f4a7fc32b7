//! Divides rows of CSV (RFC 4180) into cells, and finds their separator.

/// The separators of CSV that are detected.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];

/// What a row is divided into.
pub(super) enum Split {
    Cells(Vec<Vec<u8>>),
    /// The quote at this byte is not closed.
    Open(usize),
    /// The cell that starts at the first byte is wrong at the second one.
    Bad(usize, usize, Wrong),
}

/// What is wrong with a cell.
pub(super) enum Wrong {
    Backslash,
    After,
    Return,
}

/// Splits a row into cells. A row with an open quote goes on from there when it has another line.
#[derive(Default)]
pub(super) struct Splitter {
    cells: Vec<Vec<u8>>,
    cell: Vec<u8>,
    /// Where the cell starts, and the next byte.
    start: usize,
    at: usize,
    is_open: bool,
}

impl Splitter {
    /// Returns the cells of a row, which may have several lines.
    pub fn split(&mut self, row: &[u8], separator: u8) -> Split {
        let row = without_end(row);
        loop {
            if !self.is_open && row.get(self.at) == Some(&b'"') {
                self.at += 1;
                self.is_open = true;
            }
            if self.is_open {
                if let Err(found) = self.quoted(row, separator) {
                    return found;
                }
            } else {
                let rest = &row[self.at..];
                let cell = &rest[..rest.iter().position(|&b| b == separator).unwrap_or(rest.len())];
                if let Some(found) = cell.iter().position(|&b| b == b'\r') {
                    return Split::Bad(self.start, self.at + found, Wrong::Return);
                }
                self.cell.extend_from_slice(cell);
                self.at += cell.len();
            }
            self.cells.push(std::mem::take(&mut self.cell));
            if self.at >= row.len() {
                return Split::Cells(std::mem::take(&mut self.cells));
            }
            self.at += 1;
            self.start = self.at;
        }
    }

    /// Reads the rest of a quoted cell.
    fn quoted(&mut self, row: &[u8], separator: u8) -> Result<(), Split> {
        loop {
            let rest = &row[self.at..];
            let Some(length) = rest.iter().position(|&b| b == b'"') else {
                self.cell.extend_from_slice(rest);
                self.at = row.len();
                return Err(Split::Open(self.start));
            };
            self.cell.extend_from_slice(&rest[..length]);
            self.at += length + 1;
            match row.get(self.at) {
                Some(b'"') => {
                    self.cell.push(b'"');
                    self.at += 1;
                }
                Some(&other) if other != separator => {
                    let escaped = self.cell.last() == Some(&b'\\');
                    return Err(Split::Bad(self.start, self.at, if escaped { Wrong::Backslash } else { Wrong::After }));
                }
                _ => break,
            }
        }
        self.is_open = false;
        Ok(())
    }
}

/// Returns the separator of CSV whose first lines are the `sample`; see [`Rows::csv`](super::cells::Rows::csv).
pub(super) fn separator(sample: &[Vec<u8>], known: &[&str], columns: Option<usize>) -> u8 {
    let rows = |separator: u8| {
        let rows = sample.iter().filter(|line| !without_end(line).is_empty());
        rows.filter_map(move |line| match Splitter::default().split(line, separator) {
            Split::Cells(cells) => Some(cells),
            _ => None,
        })
    };
    let names = |separator: u8| {
        let first = rows(separator).next().unwrap_or_default();
        let first: Vec<String> = first.iter().map(|cell| String::from_utf8_lossy(cell).trim().to_lowercase()).collect();
        known.iter().filter(|name| first.contains(&name.to_lowercase())).count()
    };
    // How many rows, of a thousand, have as many cells as the first one; 0 if that has one cell.
    let is_table = |separator: u8| {
        let counts: Vec<usize> = rows(separator).map(|cells| cells.len()).collect();
        let first = counts.first().copied().filter(|&first| first > 1 && columns.is_none_or(|n| n == first));
        first.map_or(0, |first| 1000 * counts.iter().filter(|&&n| n == first).count() / counts.len())
    };
    let most = SEPARATORS.iter().map(|&separator| names(separator)).max().unwrap_or(0);
    let best: Vec<u8> = SEPARATORS.into_iter().filter(|&separator| names(separator) == most).collect();
    match best.as_slice() {
        [one] => *one,
        // Of equals the first, the comma.
        several => several.iter().copied().rev().max_by_key(|&separator| is_table(separator)).unwrap_or(b','),
    }
}

/// Returns a line without its ending.
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
