//! The wire format of Protocol Buffers: the fields of a message.
//!
//! [The encoding](https://protobuf.dev/programming-guides/encoding/). Nothing is allocated.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Number(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Returns the fields of a message, as number and value; an error is the last item.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u64, Field<'_>), String>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = bytes.len() - rest.len();
        let field = field(&mut rest);
        if field.is_none() {
            rest = &[];
        }
        Some(field.ok_or_else(|| format!("invalid field at byte {at} of {}", bytes.len())))
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(rest)?;
    let value = match tag & 7 {
        0 => Field::Number(varint(rest)?),
        1 => Field::Fixed64(u64::from_le_bytes(take(rest, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(rest)?.try_into().ok()?;
            Field::Bytes(take(rest, length)?)
        }
        5 => Field::Fixed32(u32::from_le_bytes(take(rest, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, value)).filter(|(number, _)| *number > 0)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wire_types_are_read() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 2, 7, 8, 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let read: Vec<_> = fields(&bytes).collect::<Result<_, _>>().unwrap();
        let wanted =
            [(1, Field::Number(150)), (2, Field::Bytes(&[7, 8])), (3, Field::Fixed32(1)), (4, Field::Fixed64(2))];
        assert_eq!(read, wanted);
        // Negative numbers are 64-bit.
        let minus_one = [&[0x08][..], &[0xff; 9], &[1]].concat();
        assert_eq!(fields(&minus_one).next().unwrap().unwrap(), (1, Field::Number(u64::MAX)));
    }

    #[test]
    fn invalid_bytes_end_with_an_error() {
        for bytes in [&[0x08][..], &[0x12, 9, 1], &[0x0b, 1], &[0x00, 1], &[0xff; 12], &[0x12, 0xff, 0xff, 0xff]] {
            let read: Vec<_> = fields(bytes).collect();
            assert!(read.len() == 1 && read[0].is_err(), "{bytes:?}: {read:?}");
        }
    }
}
