//! AdamW (arXiv 1711.05101) with libtorch's fused kernel, one call per parameter group.

use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::ffi::{self, AdamWStep};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Number of elements of half-precision gradients converted to fp32 at a time.
const PIECE: usize = 1 << 22;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
}

/// The moments of one flat buffer, with the same layout.
#[derive(Debug)]
pub struct Moments {
    /// f32 `[n]`, exponential moving average of gradients.
    pub exp_avg: Tensor,
    /// f32 `[n]`, exponential moving average of squared gradients.
    pub exp_avg_sq: Tensor,
}

/// The optimizer with its state for all units.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    moments: Vec<Option<Moments>>,
    step: u64,
    /// For each unit, ranges whose state was initialized after this number of steps, if not 0.
    late: Vec<Vec<(Range<i64>, u64)>>,
}

/// A contiguous range of a flat buffer to update.
#[derive(Debug)]
pub struct Slice<'a> {
    /// f32 `[n]`.
    pub weights: &'a Tensor,
    /// `[n]`, of any float dtype.
    pub grads: &'a Tensor,
    pub range: Range<i64>,
    pub weight_decay: f64,
    /// Number of optimizer steps before the state of this range was initialized.
    pub began: u64,
}

impl AdamW {
    /// Creates the optimizer with zero moments for flat f32 buffers, one per unit; `None` for an untrained unit.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new<'a>(config: AdamWConfig, buffers: impl IntoIterator<Item = Option<&'a Tensor>>) -> Result<Self> {
        let zeros = |w: &Tensor| -> Result<Moments> {
            Ok(Moments { exp_avg: w.f_zeros_like()?, exp_avg_sq: w.f_zeros_like()? })
        };
        let all = buffers.into_iter().map(|buffer| buffer.map(zeros).transpose());
        let moments: Vec<_> = memory::during(Use::Optimizer, || all.collect::<Result<_>>())?;
        let late = moments.iter().map(|_| Vec::new()).collect();
        Ok(AdamW { config, moments, step: 0, late })
    }

    /// Returns the moments of a trained unit.
    pub fn moments(&self, unit: usize) -> Option<&Moments> {
        self.moments[unit].as_ref()
    }

    /// Declares that the state of a range of a unit was initialized after `began` steps, for weights that were frozen
    /// before. Bias correction (arXiv 1412.6980, section 3) counts from there.
    pub fn begin_late(&mut self, unit: usize, range: Range<i64>, began: u64) {
        if began > 0 {
            self.late[unit].push((range, began));
            self.late[unit].sort_unstable_by_key(|(range, _)| range.start);
        }
    }

    /// Splits a range of a unit into parts of equal age, each with the steps after which its state was initialized.
    pub fn ages(&self, unit: usize, range: &Range<i64>) -> Vec<(Range<i64>, u64)> {
        let mut parts = Vec::new();
        let mut start = range.start;
        for (late, began) in &self.late[unit] {
            let (from, to) = (late.start.max(start), late.end.min(range.end));
            if from < to {
                parts.extend([(start..from, 0), (from..to, *began)]);
                start = to;
            }
        }
        parts.push((start..range.end, 0));
        parts.retain(|(part, _)| !part.is_empty());
        parts
    }

    /// Size of the state in bytes.
    pub fn bytes(&self) -> u64 {
        let each = self.moments.iter().flatten();
        each.map(|m| 4 * (m.exp_avg.numel() + m.exp_avg_sq.numel()) as u64).sum()
    }

    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Sets the number of steps of the loaded moments.
    pub fn set_steps(&mut self, step: u64) {
        self.step = step;
    }

    /// Starts the next step and increments the step count.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// Updates one slice of a unit in the current step. Gradients are divided by `grad_scale` first.
    pub fn update(&self, unit: usize, slice: &Slice, learning_rate: f64, grad_scale: f64) -> Result<()> {
        let Some(Moments { exp_avg, exp_avg_sq }) = self.moments(unit) else { return Ok(()) };
        let step = AdamWStep {
            learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            epsilon: self.config.epsilon,
            weight_decay: slice.weight_decay,
            step: self.step - slice.began,
            grad_scale,
        };
        // The kernel requires the same dtype for all tensors, and the state is f32.
        let Range { start, end } = slice.range;
        let piece = if slice.grads.kind() == Kind::Float { (end - start).max(1) as usize } else { PIECE };
        for start in (start..end).step_by(piece) {
            let part = |t: &Tensor| t.detach().narrow(0, start, (end - start).min(piece as i64));
            let grads = part(slice.grads).f_to_kind(Kind::Float)?;
            ffi::fused_adamw(&part(slice.weights), &grads, &part(exp_avg), &part(exp_avg_sq), &step)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with Algorithm 2 of the paper on two groups, with and without weight decay, and scaled gradients.
    #[test]
    fn update_matches_the_formula() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-6 };
        let weights = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]);
        let mut by_hand: Vec<f64> = vec![1.0, -2.0, 0.5, 3.0];
        let (mut m, mut v) = ([0.0f64; 4], [0.0f64; 4]);
        let mut adamw = AdamW::new(config, [Some(&weights)]).unwrap();
        let (lr, scale) = (0.01, 4.0);
        for step in 1..=5u64 {
            let g: Vec<f32> = (0..4).map(|i| (step as f32 * 0.7 + i as f32).sin()).collect();
            let grads = Tensor::from_slice(&g);
            adamw.begin_step();
            for (range, weight_decay) in [(0..2, 0.1), (2..4, 0.0)] {
                let slice = Slice { weights: &weights, grads: &grads, range, weight_decay, began: 0 };
                adamw.update(0, &slice, lr, scale).unwrap();
            }
            for i in 0..4 {
                let g = f64::from(g[i]) / scale;
                let decay = if i < 2 { 0.1 } else { 0.0 };
                m[i] = config.beta1 * m[i] + (1.0 - config.beta1) * g;
                v[i] = config.beta2 * v[i] + (1.0 - config.beta2) * g * g;
                let m_hat = m[i] / (1.0 - config.beta1.powi(step as i32));
                let v_hat = v[i] / (1.0 - config.beta2.powi(step as i32));
                by_hand[i] -= lr * decay * by_hand[i];
                by_hand[i] -= lr * m_hat / (v_hat.sqrt() + config.epsilon);
            }
        }
        let ours: Vec<f32> = Vec::try_from(&weights).unwrap();
        for (ours, hand) in ours.iter().zip(&by_hand) {
            assert!((f64::from(*ours) - hand).abs() < 1e-6, "{ours} and {hand}");
        }
        assert_eq!(adamw.steps(), 5);
    }

    #[test]
    fn ranges_are_split_by_age() {
        let w = Tensor::zeros([20], (Kind::Float, tch::Device::Cpu));
        let config = AdamWConfig { beta1: 0.9, beta2: 0.99, epsilon: 1e-6 };
        let mut adamw = AdamW::new(config, [Some(&w)]).unwrap();
        assert_eq!(adamw.ages(0, &(0..20)), [(0..20, 0)]);
        adamw.begin_late(0, 12..15, 7);
        adamw.begin_late(0, 0..5, 3);
        assert_eq!(adamw.ages(0, &(0..20)), [(0..5, 3), (5..12, 0), (12..15, 7), (15..20, 0)]);
        assert_eq!(adamw.ages(0, &(3..13)), [(3..5, 3), (5..12, 0), (12..13, 7)]);
        assert_eq!(adamw.ages(0, &(15..20)), [(15..20, 0)]);
    }

    /// Weights unfrozen later are updated like weights trained from the start.
    #[test]
    fn a_late_start_equals_an_early_start() {
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
        let zeros = || Tensor::zeros([4], (Kind::Float, tch::Device::Cpu));
        let grads = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0]);
        let (early, late) = (zeros(), zeros());
        let mut first = AdamW::new(config, [Some(&early)]).unwrap();
        let mut second = AdamW::new(config, [Some(&late)]).unwrap();
        second.set_steps(1000);
        for _ in 0..5 {
            for (adamw, weights, began) in [(&mut first, &early, 0), (&mut second, &late, 1000)] {
                adamw.begin_step();
                let slice = Slice { weights, grads: &grads, range: 0..4, weight_decay: 0.0, began };
                adamw.update(0, &slice, 0.01, 1.0).unwrap();
            }
        }
        assert!(early.equal(&late), "{early:?} and {late:?}");
    }
}
