//! The part of a GGUF file before the data (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, "File
//! Structure"): keys with typed values, and the name, shape, type and place of each tensor. All numbers are
//! little-endian.

/// The alignment of the data and of each tensor in it, in bytes: the format's default.
pub const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Integer(u32),
    Real(f32),
    Flag(bool),
    Text(String),
    Integers(Vec<i32>),
    Reals(Vec<f32>),
    Texts(Vec<String>),
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    pub name: String,
    /// The contiguous dimension last; the file has them in the reverse order.
    pub shape: Vec<i64>,
    /// `ggml_type`.
    pub id: u32,
    /// Bytes of the data, without padding.
    pub bytes: u64,
}

/// Returns everything before the data, padded to the alignment. The tensors' data follow in this order, each padded.
pub fn head(keys: &[(String, Value)], tensors: &[TensorInfo]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
        out.extend(tensor.id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Numbers of the types of values, `gguf_metadata_value_type`.
mod ids {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
}

impl Value {
    /// Writes the type and the value.
    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, id: u32, length: usize| {
            out.extend(ids::ARRAY.to_le_bytes());
            out.extend(id.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        match self {
            Value::Integer(number) => {
                out.extend(ids::U32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Value::Real(number) => {
                out.extend(ids::F32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Value::Flag(flag) => {
                out.extend(ids::BOOL.to_le_bytes());
                out.push(u8::from(*flag));
            }
            Value::Text(content) => {
                out.extend(ids::STRING.to_le_bytes());
                text(out, content);
            }
            Value::Integers(numbers) => {
                array(out, ids::I32, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
            Value::Reals(numbers) => {
                array(out, ids::F32, numbers.len());
                numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
            }
            Value::Texts(texts) => {
                array(out, ids::STRING, texts.len());
                texts.iter().for_each(|content| text(out, content));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_as_specified() {
        let keys = [
            ("a".to_owned(), Value::Integer(7)),
            ("b".to_owned(), Value::Texts(vec!["x".into(), "yz".into()])),
            ("c".to_owned(), Value::Flag(true)),
        ];
        let tensor = |name: &str, bytes| TensorInfo { name: name.into(), shape: vec![2, 5], id: 1, bytes };
        let head = head(&keys, &[tensor("t", 20), tensor("u", 32), tensor("v", 20)]);
        let mut expected = b"GGUF\x03\0\0\0\x03\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0x\x02\0\0\0\0\0\0\0yz");
        expected.extend(b"\x01\0\0\0\0\0\0\0c\x07\0\0\0\x01");
        for (name, offset) in [(b't', 0), (b'u', 32), (b'v', 64)] {
            expected.extend([1, 0, 0, 0, 0, 0, 0, 0, name, 2, 0, 0, 0]);
            expected.extend(b"\x05\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0");
            expected.extend([offset, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(head[..expected.len()], expected);
        assert!(
            head.len().is_multiple_of(32)
                && head.len() - expected.len() < 32
                && head[expected.len()..].iter().all(|b| *b == 0)
        );
    }

    #[test]
    fn numbers_have_their_types() {
        let bytes = |value: Value| {
            let mut out = Vec::new();
            value.write(&mut out);
            out
        };
        assert_eq!(bytes(Value::Real(1.0)), b"\x06\0\0\0\0\0\x80\x3f");
        assert_eq!(bytes(Value::Text("\u{e9}".into())), b"\x08\0\0\0\x02\0\0\0\0\0\0\0\xc3\xa9");
        assert_eq!(bytes(Value::Integers(vec![-1])), b"\x09\0\0\0\x05\0\0\0\x01\0\0\0\0\0\0\0\xff\xff\xff\xff");
        assert_eq!(bytes(Value::Reals(vec![-2.0])), b"\x09\0\0\0\x06\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\xc0");
    }
}
