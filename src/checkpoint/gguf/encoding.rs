//! The types of a GGUF file's tensors that are written: fp32, fp16, bf16, and Q8_0.
//!
//! Q8_0 has blocks of 32 numbers of a row: a scale d = max |x| / 127 in fp16, then x / d as 8-bit integers, rounded half
//! away from zero with the unrounded d (ggml's `quantize_row_q8_0_ref`, `gguf.quants` in Python).

use crate::error::Result;
use crate::ffi;
use std::borrow::Cow;
use tch::{Kind, Tensor};

/// The numbers of a block of Q8_0.
const BLOCK: usize = 32;
/// The largest number that fp16 does not round to infinity is below this one.
const F16_LIMIT: f32 = 65520.0;

/// A type of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q8_0,
}

impl Encoding {
    pub const ALL: [Encoding; 4] = [Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::Q8_0];

    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "f32",
            Encoding::F16 => "f16",
            Encoding::Bf16 => "bf16",
            Encoding::Q8_0 => "q8_0",
        }
    }

    /// Its number as a type of a tensor, `ggml_type`.
    pub fn id(self) -> u32 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::Bf16 => 30,
            Encoding::Q8_0 => 8,
        }
    }

    /// Its number as the type of most tensors of a file, `general.file_type`.
    pub fn file_type(self) -> u32 {
        match self {
            Encoding::F32 => 0,
            Encoding::F16 => 1,
            Encoding::Bf16 => 32,
            Encoding::Q8_0 => 7,
        }
    }

    /// Returns the bytes of a tensor of this shape.
    ///
    /// # Errors
    /// Rows that are not whole blocks, as text.
    pub fn bytes(self, shape: &[i64]) -> Result<u64, String> {
        let count = shape.iter().product::<i64>() as u64;
        Ok(match self {
            Encoding::F32 => 4 * count,
            Encoding::F16 | Encoding::Bf16 => 2 * count,
            Encoding::Q8_0 => {
                let row = shape.last().copied().unwrap_or_default();
                if row % BLOCK as i64 != 0 {
                    return Err(format!(
                        "its rows have {row} elements, and q8_0 has blocks of {BLOCK}: use --type f16 or bf16"
                    ));
                }
                count / BLOCK as u64 * (2 + BLOCK as u64)
            }
        })
    }

    /// Encodes an fp32 tensor on the CPU.
    ///
    /// # Errors
    /// A number that the type does not have, as text; out of memory.
    pub fn encode(self, values: &Tensor) -> Result<Result<Vec<u8>, String>> {
        let floats = ffi::bytes(values);
        match self {
            Encoding::F32 => Ok(Ok(floats.to_vec())),
            Encoding::Bf16 => Ok(Ok(ffi::bytes(&values.f_to_kind(Kind::BFloat16)?).to_vec())),
            Encoding::F16 => match numbers(floats).find(|x| x.is_finite() && x.abs() >= F16_LIMIT) {
                Some(large) => Ok(Err(format!("{large} is too large for f16: use --type bf16 or f32"))),
                None => Ok(Ok(ffi::bytes(&values.f_to_kind(Kind::Half)?).to_vec())),
            },
            // The scale is fp16.
            Encoding::Q8_0 => match numbers(floats).find(|x| !x.is_finite() || x.abs() / 127.0 >= F16_LIMIT) {
                Some(bad) => Ok(Err(format!("it contains {bad}, which q8_0 does not have: use --type f32"))),
                None => q8_0(floats).map(Ok),
            },
        }
    }
}

/// Returns the fp32 numbers of bytes.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|number| f32::from_le_bytes(std::array::from_fn(|i| number[i])))
}

/// Encodes fp32 numbers, whole blocks of them.
fn q8_0(floats: &[u8]) -> Result<Vec<u8>> {
    let blocks = floats.chunks_exact(4 * BLOCK);
    let scales: Vec<f32> =
        blocks.clone().map(|block| numbers(block).fold(0.0f32, |most, x| most.max(x.abs())) / 127.0).collect();
    let halves = Tensor::f_from_slice(&scales)?.f_to_kind(Kind::Half)?;
    let halves: Cow<[u8]> = if scales.is_empty() { Cow::Borrowed(&[]) } else { Cow::Borrowed(ffi::bytes(&halves)) };
    let mut out = Vec::with_capacity(scales.len() * (2 + BLOCK));
    for ((block, &scale), half) in blocks.zip(&scales).zip(halves.chunks_exact(2)) {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend_from_slice(half);
        out.extend(numbers(block).map(|x| ((x * inverse).round() as i8).cast_unsigned()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encoding: Encoding, values: &[f32]) -> Result<Vec<u8>, String> {
        encoding.encode(&Tensor::from_slice(values)).unwrap()
    }

    /// Made by `tests/reference/gguf_blocks.py`.
    const BLOCKS: &str = include_str!("../../../tests/reference/gguf_blocks.json");

    #[test]
    fn blocks_are_those_of_the_reference() {
        let cases: Vec<serde_json::Value> = serde_json::from_str(BLOCKS).unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let bits = case["fp32_bits"].as_array().unwrap().iter();
            let values: Vec<f32> = bits.map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32)).collect();
            for (key, encoding) in [("q8_0", Encoding::Q8_0), ("bf16", Encoding::Bf16), ("f16", Encoding::F16)] {
                let wanted = case[key].as_str().unwrap();
                let hex: String =
                    encoded(encoding, &values).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, wanted, "{key} of {}", case["name"]);
            }
        }
    }

    #[test]
    fn sizes_are_those_of_the_bytes() {
        let values: Vec<f32> = (0..192).map(|i| i as f32 - 90.5).collect();
        for encoding in Encoding::ALL {
            let bytes = encoded(encoding, &values).unwrap();
            assert_eq!(encoding.bytes(&[3, 64]).unwrap(), bytes.len() as u64, "{}", encoding.name());
        }
        assert!(Encoding::Q8_0.bytes(&[64, 3]).unwrap_err().contains("its rows have 3 elements"));
    }

    #[test]
    fn numbers_that_a_type_does_not_have_are_refused() {
        let mut values = [1.0f32; 32];
        values[3] = 70000.0;
        assert!(encoded(Encoding::F16, &values).unwrap_err().contains("70000 is too large for f16"));
        values[3] = 65519.0;
        assert!(encoded(Encoding::F16, &values).is_ok());
        values[3] = f32::NAN;
        assert!(encoded(Encoding::Q8_0, &values).unwrap_err().contains("NaN"));
        assert!(encoded(Encoding::F32, &values).is_ok());
    }
}
