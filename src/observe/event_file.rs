//! Event files as TensorBoard reads them: scalars only.
//!
//! The specification: TFRecord framing
//! (<https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>) around the messages of
//! `tensorflow/core/util/event.proto` and `tensorflow/core/framework/summary.proto`, in the wire format of Protocol
//! Buffers (<https://protobuf.dev/programming-guides/encoding/>).

/// What a file begins with: the version of the format, and the start of a session, at which readers forget what
/// earlier files of the folder have said about this step and later ones.
pub fn start(wall_time: f64, step: u64) -> Vec<u8> {
    // Event.file_version = 3, Event.session_log = 7, SessionLog.status = 1 with START = 1.
    let mut bytes = record(&bytes_field(event(wall_time, 0), 3, b"brain.Event:2"));
    bytes.extend(record(&bytes_field(event(wall_time, step), 7, &varint_field(Vec::new(), 1, 1))));
    bytes
}

/// Returns the record of the scalars of a step; `wall_time` in seconds since 1970. Values are rounded to f32, the type
/// that the format has for scalars.
pub fn scalars(wall_time: f64, step: u64, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        // Summary.value = 1; of Summary.Value tag = 1 and simple_value = 2.
        let mut message = bytes_field(Vec::new(), 1, tag.as_bytes());
        message.push(2 << 3 | 5);
        message.extend((*value as f32).to_le_bytes());
        summary = bytes_field(summary, 1, &message);
    }
    // Event.summary = 5.
    record(&bytes_field(event(wall_time, step), 5, &summary))
}

/// Returns the wall time and the step of each event of a file, up to the first record that is damaged or incomplete.
pub fn times(mut file: &[u8]) -> Vec<(f64, u64)> {
    let mut found = Vec::new();
    while let Some((data, rest)) = first_record(file) {
        found.push(time_of(data));
        file = rest;
    }
    found
}

/// Returns an Event: wall_time = 1 (a double) and step = 2.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(wall_time.to_le_bytes());
    varint_field(bytes, 2, step)
}

fn varint_field(mut bytes: Vec<u8>, field: u8, value: u64) -> Vec<u8> {
    bytes.push(field << 3);
    varint(bytes, value)
}

fn bytes_field(mut bytes: Vec<u8>, field: u8, value: &[u8]) -> Vec<u8> {
    bytes.push(field << 3 | 2);
    bytes = varint(bytes, value.len() as u64);
    bytes.extend(value);
    bytes
}

/// Appends an integer in groups of seven bits, the lowest first; the eighth bit says that more follow.
fn varint(mut bytes: Vec<u8>, mut value: u64) -> Vec<u8> {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Returns a record: the length, its checksum, the data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// Returns the data of the first record and what follows it; `None` at the end or at a damaged record.
fn first_record(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (data, rest) = rest.split_at_checked(size).filter(|_| *checksum == masked(length))?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    (*checksum == masked(data)).then_some((data, rest))
}

/// Reads the first two fields of an event as [`event`] writes them; zero for other events.
fn time_of(data: &[u8]) -> (f64, u64) {
    let read = || {
        let (wall_time, rest) = data.strip_prefix(&[1 << 3 | 1])?.split_first_chunk::<8>()?;
        let digits = rest.strip_prefix(&[2 << 3])?;
        let count = digits.iter().take(9).take_while(|byte| **byte >= 0x80).count() + 1;
        let step = digits.get(..count)?.iter().rev().fold(0, |step, byte| step << 7 | u64::from(byte & 0x7f));
        Some((f64::from_le_bytes(*wall_time), step))
    };
    read().unwrap_or_default()
}

/// Returns the checksum of a record: CRC-32C, rotated by 15 bits, plus a constant.
fn masked(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// CRC-32C (Castagnoli), RFC 3720, appendix B.4.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !data.iter().fold(!0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

/// Returns the remainders of all bytes, for the reflected polynomial.
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut remainder, mut bit) = (byte as u32, 0);
        while bit < 8 {
            remainder = if remainder & 1 == 1 { remainder >> 1 ^ 0x82f6_3b78 } else { remainder >> 1 };
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn messages_have_the_bytes_of_protocol_buffers() {
        // Event(wall_time=1.0, step=300, summary=Summary(value=[Value(tag="a/b", simple_value=0.5)]))
        let expected = "09000000000000f03f10ac022a0c0a0a0a03612f62150000003f";
        let file = scalars(1.0, 300, &[("a/b".into(), 0.5)]);
        let hex: String = file[12..file.len() - 4].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
        assert_eq!(file[..8], 26_u64.to_le_bytes());
    }

    #[test]
    fn times_are_read_up_to_the_first_damage() {
        let mut file = start(1.5, 7);
        file.extend(scalars(2.5, 1 << 40, &[("x".into(), 1.0)]));
        file.extend(scalars(3.5, 128, &[]));
        let all = [(1.5, 0), (1.5, 7), (2.5, 1 << 40), (3.5, 128)];
        assert_eq!(times(&file), all);
        assert_eq!(times(&file[..file.len() - 1]), all[..3], "incomplete");
        let end = file.len() - 5;
        file[end] ^= 1;
        assert_eq!(times(&file), all[..3], "damaged");
        assert!(times(&[]).is_empty());
    }
}
