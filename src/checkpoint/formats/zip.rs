//! The files of a ZIP archive that are stored without compression, as `torch.save` writes them: PKWARE's APPNOTE.TXT,
//! sections 4.3 and 4.5.3 (ZIP64).

use crate::checkpoint::formats::bytes::{Cursor, FileBytes};
use crate::error::Result;
use std::ops::Range;

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// Its bytes in the archive.
    pub data: Range<usize>,
}

/// The first bytes of an archive that is not empty.
pub const START: &[u8] = b"PK\x03\x04";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";

/// The size of the end record without its comment, and of the ZIP64 locator before it.
const END_SIZE: usize = 22;
const LOCATOR_SIZE: usize = 20;

/// Lists the files of an archive.
///
/// # Errors
/// Exit 2: not a complete archive, or one with compressed or encrypted files.
pub fn entries(file: &FileBytes) -> Result<Vec<Entry>> {
    let damaged = |why: &str| file.damaged(format!("a ZIP archive: {why}"));
    let place = directory(file)?.ok_or_else(|| damaged("its list of files is missing at its end"))?;
    let directory = file.get(place)?;
    let mut at = Cursor::new(&directory, 0);
    let mut entries = Vec::new();
    while !at.is_at_end() {
        let header = Header::read(&mut at).ok_or_else(|| damaged("its list of files is damaged"))?;
        let name = &header.name;
        if header.method != 0 || header.is_encrypted {
            let how = if header.is_encrypted { "encrypted" } else { "compressed" };
            return Err(file.refused(format!(
                "{name} is {how} in this archive: torch.save writes none such; unpack it, or save the weights again"
            )));
        }
        // The local header has its own extra field, which aligns the data.
        let start = header.offset;
        let local = file.get(start..start.saturating_add(30))?;
        let mut lengths = Cursor::new(&local, 26);
        let (Some(START), Some(name_length), Some(extra)) = (local.get(..4), lengths.length(2), lengths.length(2))
        else {
            return Err(damaged(&format!("{name} is not where the list of files says")));
        };
        let start = start + 30 + name_length + extra;
        let end = start.checked_add(header.size).filter(|&end| end <= file.length());
        let end = end.ok_or_else(|| damaged(&format!("{name} is not complete")))?;
        entries.push(Entry { name: header.name, data: start..end });
    }
    Ok(entries)
}

/// Returns the place of the central directory; `None` if the end record is missing or damaged.
fn directory(file: &FileBytes) -> Result<Option<Range<usize>>> {
    let from = file.length().saturating_sub(END_SIZE + LOCATOR_SIZE + usize::from(u16::MAX));
    let tail = file.get(from..file.length())?;
    let Some(end) = tail.windows(END.len()).rposition(|bytes| bytes == END) else { return Ok(None) };
    let mut at = Cursor::new(&tail, end + 12);
    let (Some(mut size), Some(mut offset)) = (at.length(4), at.length(4)) else { return Ok(None) };
    if let Some(locator) = end.checked_sub(LOCATOR_SIZE).filter(|&at| tail[at..].starts_with(LOCATOR_64)) {
        let Some(start) = Cursor::new(&tail, locator + 8).length(8) else { return Ok(None) };
        let record = file.get(start..start.saturating_add(56))?;
        let mut at = Cursor::new(&record, 40);
        match (record.starts_with(END_64), at.length(8), at.length(8)) {
            (true, Some(size_64), Some(offset_64)) => (size, offset) = (size_64, offset_64),
            _ => return Ok(None),
        }
    }
    Ok(offset.checked_add(size).filter(|&end| end <= file.length()).map(|end| offset..end))
}

/// An entry of the central directory.
struct Header {
    name: String,
    method: u64,
    is_encrypted: bool,
    size: usize,
    offset: usize,
}

impl Header {
    fn read(at: &mut Cursor) -> Option<Self> {
        let fixed = at.take(46).filter(|fixed| fixed.starts_with(DIRECTORY_ENTRY))?;
        let number = |offset: usize, width: usize| Cursor::new(fixed, offset).number(width);
        let name = String::from_utf8_lossy(at.take(number(28, 2)? as usize)?).into_owned();
        let extra = at.take(number(30, 2)? as usize)?;
        at.take(number(32, 2)? as usize)?;
        let mut sizes = [number(24, 4)?, number(20, 4)?, number(42, 4)?];
        let mut fields = Cursor::new(extra, 0);
        while let (Some(id), Some(length)) = (fields.number(2), fields.length(2)) {
            let mut field = Cursor::new(fields.take(length)?, 0);
            if id == 1 {
                // Only the values that do not fit into 32 bits, in this order.
                for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                    *size = field.number(8)?;
                }
            }
        }
        let [size, packed, offset] = sizes;
        let method = number(10, 2)?;
        Some(Header {
            name,
            method: if packed == size { method } else { method.max(1) },
            is_encrypted: number(8, 2)? & 1 == 1,
            size: usize::try_from(size).ok()?,
            offset: usize::try_from(offset).ok()?,
        })
    }
}
