//! Tables of sorted keys and values in LevelDB's format (`doc/table_format.md` there), the index of TensorFlow's
//! checkpoints, and the protobuf wire format of the values (protobuf.dev, "Encoding").

use crate::checkpoint::formats::bytes::{Cursor, FileBytes};
use crate::error::{Error, Result};
use std::ops::Range;

/// The end of the file: two block handles, padding, and this number.
const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;

/// Reads all keys and values of a table, in order.
///
/// # Errors
/// Exit 2: a damaged table, or a compressed one.
pub fn read(file: &FileBytes) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let missing = || file.damaged("the table of a TensorFlow checkpoint: its end is missing");
    let start = file.length().checked_sub(FOOTER).ok_or_else(missing)?;
    let footer = file.get(start..file.length())?;
    if Cursor::new(&footer, FOOTER - 8).number(8) != Some(MAGIC) {
        return Err(missing());
    }
    // The first handle is of the meta index, which is empty.
    let mut at = Cursor::new(&footer, 0);
    let index = handle(&mut at).and_then(|_| handle(&mut at)).ok_or_else(|| damaged(file))?;
    let mut all = Vec::new();
    let mut bytes = 0_usize;
    for (_, place) in block(file, index)? {
        let place = handle(&mut Cursor::new(&place, 0)).ok_or_else(|| damaged(file))?;
        // An index that names the same block again and again.
        bytes = bytes.saturating_add(place.len());
        if bytes > file.length() {
            return Err(damaged(file));
        }
        all.extend(block(file, place)?);
    }
    Ok(all)
}

fn damaged(file: &FileBytes) -> Error {
    file.damaged("the table of a TensorFlow checkpoint is damaged")
}

/// Reads a block handle: its place in the file.
fn handle(at: &mut Cursor) -> Option<Range<usize>> {
    let (offset, size) = (usize::try_from(at.varint()?).ok()?, usize::try_from(at.varint()?).ok()?);
    Some(offset..offset.checked_add(size)?)
}

/// Reads the entries of a block. A key is a prefix of the previous one with a suffix.
fn block(file: &FileBytes, place: Range<usize>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    /// The kind of compression and the checksum after a block.
    const TRAILER: usize = 5;
    let with_trailer = file.get(place.start..place.end.saturating_add(TRAILER))?;
    let (block, trailer) = with_trailer.split_at(place.len());
    if trailer[0] != 0 {
        return Err(file.refused("a compressed table: TensorFlow's checkpoints have none; save it again"));
    }
    let sum = Cursor::new(trailer, 1).number(4);
    if sum != Some(u64::from(masked(crc32c(&[block, &trailer[..1]])))) {
        return Err(file.damaged("the checksum of its table is wrong"));
    }
    // Restart points at the end: their places, and their number.
    let restarts = block.len().checked_sub(4).and_then(|at| Cursor::new(block, at).length(4));
    let end = restarts.and_then(|count| block.len().checked_sub(count.checked_add(1)?.checked_mul(4)?));
    let entries = &block[..end.ok_or_else(|| damaged(file))?];
    let mut at = Cursor::new(entries, 0);
    let mut key = Vec::new();
    let mut all = Vec::new();
    let mut held = 0;
    while !at.is_at_end() {
        let entry = entry(&mut at, &mut key).ok_or_else(|| damaged(file))?;
        // Shared prefixes could make the keys much larger than the block.
        held += key.len();
        if held > 4096 + 64 * block.len() {
            return Err(damaged(file));
        }
        all.push((key.clone(), entry.to_vec()));
    }
    Ok(all)
}

/// Reads an entry: changes `key` to its key, returns its value.
fn entry<'a>(at: &mut Cursor<'a>, key: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut length = || usize::try_from(at.varint()?).ok();
    let (shared, own, value) = (length()?, length()?, length()?);
    if shared > key.len() {
        return None;
    }
    key.truncate(shared);
    key.extend_from_slice(at.take(own)?);
    at.take(value)
}

/// A field of a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads the fields of a message with their numbers; `None` if it is damaged.
pub fn fields(message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut at = Cursor::new(message, 0);
    let mut fields = Vec::new();
    while !at.is_at_end() {
        let tag = at.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(at.varint()?),
            1 => Field::Number(at.number(8)?),
            2 => {
                let length = usize::try_from(at.varint()?).ok()?;
                Field::Bytes(at.take(length)?)
            }
            5 => Field::Number(at.number(4)?),
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

/// CRC-32C (RFC 3720, appendix B.4) of byte strings one after another.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !parts.iter().copied().flatten().fold(!0, step)
}

/// The form of a checksum in the file.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 16], &[0xff; 16]]), 0x62a8_ab43);
        assert_eq!(crc32c(&[&(0..32).collect::<Vec<u8>>()]), 0x46dd_794e);
    }

    #[test]
    fn fields_of_every_wire_type() {
        let message = [0x08, 0x96, 0x01, 0x12, 2, b'a', b'b', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let expected =
            [(1, Field::Number(150)), (2, Field::Bytes(b"ab")), (3, Field::Number(1)), (4, Field::Number(2))];
        assert_eq!(fields(&message).unwrap(), expected);
        assert_eq!((fields(&message[..4]), fields(&[0x0b]), fields(&[0x80; 11])), (None, None, None));
    }
}
