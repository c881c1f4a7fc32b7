//! What the compressed buffers of an Arrow file claim to decompress to. The library allocates as much before it
//! decompresses, and a failed allocation ends the process, where a damaged file should be an error.

use arrow_ipc::root_as_message;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a compressed buffer before its data, which say how long it is decompressed.
const PREFIX: i64 = 8;
/// A message begins with it, or with its length.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Checks the messages of a file from byte `at` on. Other damage is left to the reader.
///
/// # Errors
/// A buffer that would not fit into memory.
pub fn check(file: &File, mut at: u64) -> Result<(), String> {
    let end = file.metadata().map_err(|e| e.to_string())?.len();
    let mut length = [0; 4];
    while file.read_exact_at(&mut length, at).is_ok() {
        at += 4;
        if length == CONTINUATION {
            if file.read_exact_at(&mut length, at).is_err() {
                break;
            }
            at += 4;
        }
        let size = u64::from(u32::from_le_bytes(length));
        if size == 0 || size > end.saturating_sub(at) {
            break;
        }
        let mut metadata = vec![0; size as usize];
        if file.read_exact_at(&mut metadata, at).is_err() {
            break;
        }
        at += size;
        let Ok(message) = root_as_message(&metadata) else { break };
        let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
        if let Some(buffers) = batch.filter(|batch| batch.compression().is_some()).and_then(|batch| batch.buffers()) {
            for buffer in buffers {
                let place = at.checked_add_signed(buffer.offset()).filter(|_| buffer.length() >= PREFIX);
                let mut claimed = [0; PREFIX as usize];
                if place.is_some_and(|place| file.read_exact_at(&mut claimed, place).is_ok()) {
                    fits(i64::from_le_bytes(claimed))?;
                }
            }
        }
        let next = u64::try_from(message.bodyLength()).ok().and_then(|body| at.checked_add(body));
        let Some(next) = next else { break };
        at = next;
    }
    Ok(())
}

/// Checks that a buffer can be allocated. A negative length is that of a buffer that is not compressed.
fn fits(claimed: i64) -> Result<(), String> {
    let Ok(size) = usize::try_from(claimed) else { return Ok(()) };
    let allocated = Vec::<u8>::new().try_reserve_exact(size);
    allocated.map_err(|_| format!("a buffer claims to be {claimed} bytes long when decompressed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_larger_than_memory_is_an_error() {
        assert!(fits(-1).is_ok() && fits(0).is_ok() && fits(1 << 20).is_ok());
        assert!(fits(i64::MAX).unwrap_err().contains("9223372036854775807 bytes"));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/columnar/lz4.feather");
        let whole = std::fs::read(path).unwrap();
        let checked = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            check(file.as_file(), 8)
        };
        checked(&whole).unwrap();
        // The highest byte but for the sign of each claimed length: 2^62 bytes and more.
        let found = (0..whole.len()).filter(|&at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x40;
            checked(&bytes).is_err()
        });
        assert!(found.count() > 10, "every column has a compressed buffer");
    }
}
