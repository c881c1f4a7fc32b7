//! The supported dtypes and reductions.

use crate::failure::{Failure, Outcome};
use half::{bf16, f16};
use std::ffi::c_int;

/// The element types of the fake NCCL, with NCCL's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    U8 = 1,
    I64 = 4,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
}

/// The reductions of the fake NCCL, with NCCL's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Sum = 0,
    Max = 2,
}

impl Element {
    const ALL: [Element; 6] = [Element::U8, Element::I64, Element::F16, Element::F32, Element::F64, Element::Bf16];

    pub fn read(kind: c_int) -> Outcome<Element> {
        let found = Element::ALL.into_iter().find(|&element| element as c_int == kind);
        found.ok_or_else(|| Failure::argument(format!("the fake NCCL has no data type {kind}")))
    }

    pub fn name(self) -> &'static str {
        match self {
            Element::U8 => "u8",
            Element::I64 => "i64",
            Element::F16 => "f16",
            Element::F32 => "f32",
            Element::F64 => "f64",
            Element::Bf16 => "bf16",
        }
    }

    /// Size of an element in bytes.
    pub fn size(self) -> usize {
        self.poison().len()
    }

    /// Content of a buffer that must not be read: a signaling NaN, because arithmetic on it in place leaves a quiet
    /// NaN, which is detected too.
    pub fn poison(self) -> &'static [u8] {
        match self {
            Element::U8 => &[0xff],
            Element::I64 => &[0xff; 8],
            Element::F16 => &[0xff, 0xfd],
            Element::Bf16 => &[0xbf, 0xff],
            Element::F32 => &[0xff, 0xff, 0xbf, 0xff],
            Element::F64 => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf7, 0xff],
        }
    }

    /// Computes `into = operator(into, from)` elementwise.
    pub fn reduce(self, operator: Operator, into: &mut [u8], from: &[u8]) {
        match self {
            Element::U8 => fold(operator, into, from, |b: [u8; 1]| b[0], |v| [v], u8::wrapping_add, u8::max),
            Element::I64 => {
                fold(operator, into, from, i64::from_le_bytes, i64::to_le_bytes, i64::wrapping_add, i64::max)
            }
            Element::F16 => fold(operator, into, from, f16::from_le_bytes, f16::to_le_bytes, |a, b| a + b, f16::max),
            Element::F32 => fold(operator, into, from, f32::from_le_bytes, f32::to_le_bytes, |a, b| a + b, f32::max),
            Element::F64 => fold(operator, into, from, f64::from_le_bytes, f64::to_le_bytes, |a, b| a + b, f64::max),
            Element::Bf16 => {
                fold(operator, into, from, bf16::from_le_bytes, bf16::to_le_bytes, |a, b| a + b, bf16::max)
            }
        }
    }
}

impl Operator {
    pub fn read(operator: c_int) -> Outcome<Operator> {
        let found = [Operator::Sum, Operator::Max].into_iter().find(|&known| known as c_int == operator);
        found.ok_or_else(|| Failure::argument(format!("the fake NCCL has no reduction {operator}")))
    }
}

fn fold<T, const N: usize>(
    operator: Operator,
    into: &mut [u8],
    from: &[u8],
    read: impl Fn([u8; N]) -> T,
    write: impl Fn(T) -> [u8; N],
    add: impl Fn(T, T) -> T,
    max: impl Fn(T, T) -> T,
) {
    for (a, b) in into.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        let (x, y) = (read(*a), read(*b));
        *a = write(if operator == Operator::Sum { add(x, y) } else { max(x, y) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_a_signalling_nan() {
        let quiet = 1u32 << 22;
        let f32_bits = u32::from_le_bytes(Element::F32.poison().try_into().unwrap());
        assert!(f32::from_bits(f32_bits).is_nan() && f32_bits & quiet == 0);
        let f64_bits = u64::from_le_bytes(Element::F64.poison().try_into().unwrap());
        assert!(f64::from_bits(f64_bits).is_nan() && f64_bits & (1 << 51) == 0);
        let f16_bits = u16::from_le_bytes(Element::F16.poison().try_into().unwrap());
        assert!(f16::from_bits(f16_bits).is_nan() && f16_bits & (1 << 9) == 0);
        let bf16_bits = u16::from_le_bytes(Element::Bf16.poison().try_into().unwrap());
        assert!(bf16::from_bits(bf16_bits).is_nan() && bf16_bits & (1 << 6) == 0);
    }

    #[test]
    fn halves_round_after_each_addition() {
        let one = bf16::from_f32(256.0).to_le_bytes();
        let mut sum = one;
        Element::Bf16.reduce(Operator::Sum, &mut sum, &bf16::from_f32(1.0).to_le_bytes());
        assert_eq!(sum, one);
        Element::Bf16.reduce(Operator::Max, &mut sum, &bf16::from_f32(300.0).to_le_bytes());
        assert_eq!(bf16::from_le_bytes(sum).to_f32(), 300.0);
        let mut bytes = [250u8, 3];
        Element::U8.reduce(Operator::Sum, &mut bytes, &[10, 4]);
        assert_eq!(bytes, [4, 7]);
    }
}
