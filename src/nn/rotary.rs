//! Rotary position embeddings (arXiv 2104.09864): queries and keys are rotated by angles proportional to the position.

use crate::data::ragged::Sequences;
use crate::ffi::transfer::{self, Constant};
use crate::nn::rng;
pub use crate::ops::rotary::Angles;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// The frequencies of a head: the angle of each pair per position.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[head_dim / 2]`.
    frequencies: Arc<Constant>,
    /// A factor on the rotated vectors.
    factor: f64,
    /// A hash of both: equal keys mean equal angles.
    key: u64,
}

impl PartialEq for Rotary {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// How frequencies differ from `base^(-2 i / head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    None,
    /// All divided by a factor (arXiv 2306.15595).
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by a factor, with a smooth transition to high ones (Llama 3.1's `apply_scaling`, arXiv
    /// 2407.21783).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Low frequencies divided by a factor, with a ramp between two numbers of rotations over the original length;
    /// `attention` is the factor on the rotated vectors (YaRN, arXiv 2309.00071).
    Yarn {
        factor: f64,
        attention: f64,
        fast: f64,
        slow: f64,
        truncate: bool,
        original: f64,
    },
}

impl Rotary {
    /// Returns the frequencies for heads of even size `head_dim`.
    ///
    /// They are computed in fp32 in the order of `transformers.modeling_rope_utils`: at thousands of positions their
    /// last bits matter.
    pub fn new(head_dim: i64, base: f64, scaling: Scaling) -> Self {
        let exponents = Tensor::arange_start_step(0, head_dim, 2, (Kind::Float, Device::Cpu)) / head_dim as f64;
        let powers: Vec<f32> = floats(&Tensor::pow_scalar(base, &exponents));
        let plain = powers.iter().map(|power| 1.0 / power);
        let mut attention_factor = 1.0;
        let frequencies = match scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
            Scaling::Llama3 { factor, low, high, original } => {
                plain.map(|f| llama3(f, factor as f32, low, high, original)).collect()
            }
            Scaling::Yarn { factor, attention, fast, slow, truncate, original } => {
                attention_factor = attention;
                let (low, high) = ramp(head_dim, base, [fast, slow], truncate, original);
                let share = |i: usize| ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let each = powers.iter().enumerate();
                each.map(|(i, power)| {
                    let kept = 1.0 - share(i);
                    1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
                })
                .collect()
            }
        };
        let frequencies: Vec<f32> = frequencies;
        let bits: Vec<u64> = frequencies.iter().map(|&f| u64::from(f.to_bits())).collect();
        let key = rng::key(attention_factor.to_bits(), &bits);
        let frequencies = Arc::new(Constant::new(Tensor::from_slice(&frequencies)));
        Rotary { frequencies, factor: attention_factor, key }
    }

    /// Returns the numbers `[head_dim / 2]` by which scaling divides the unscaled frequencies.
    pub fn divisors(head_dim: i64, base: f64, scaling: Scaling) -> Vec<f32> {
        let of = |scaling| floats(&Rotary::new(head_dim, base, scaling).frequencies.on(Device::Cpu));
        of(Scaling::None).into_iter().zip(of(scaling)).map(|(plain, scaled)| plain / scaled).collect()
    }

    /// Returns the angles of the sequences' tokens, for heads of dtype `kind`; computed once for all layers and cached
    /// with the sequences.
    pub fn angles(&self, sequences: &Sequences, kind: Kind) -> Angles {
        let make = || {
            let positions = sequences.positions();
            let angles = positions.to_kind(Kind::Float).view([-1, 1]) * self.frequencies.on(positions.device());
            [angles.cos(), angles.sin()].map(|x| (x * self.factor).to_kind(kind)).into()
        };
        let mut both = sequences.derived(rng::key(self.key, &[kind as u64]), make).into_iter();
        let mut next = || both.next().expect("cosines and sines");
        Angles { cos: next(), sin: next() }
    }
}

fn floats(values: &Tensor) -> Vec<f32> {
    transfer::values(values).unwrap_or_else(|e| panic!("frequencies: {e}"))
}

fn llama3(frequency: f32, factor: f32, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = frequency.recip() * std::f64::consts::TAU as f32;
    if wavelength < (original / high) as f32 {
        return frequency;
    }
    if wavelength > (original / low) as f32 {
        return frequency / factor;
    }
    let smooth = (wavelength.recip() * original as f32 - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// Returns the pairs between which the frequencies change from kept to divided: those with this many rotations over the
/// original length.
fn ramp(head_dim: i64, base: f64, rotations: [f64; 2], truncate: bool, original: f64) -> (f64, f64) {
    let dim = head_dim as f64;
    let at = |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
    let [low, high] = rotations.map(at);
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // Kept apart, so that the ramp has a slope.
    (low, if low == high { high + 0.001 } else { high })
}
