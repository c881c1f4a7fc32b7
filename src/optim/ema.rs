//! The exponential moving average of the weights.

use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::optim::gradient::PIECE;
use tch::Tensor;

/// The averages of the weights that a rank updates, in the same flat layout.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    /// f32 `[n]`; `None` for an untrained unit.
    averages: Vec<Option<Tensor>>,
}

impl Ema {
    /// Starts from the present weights, f32 `[n]` of each trained unit.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new<'a>(decay: f64, weights: impl IntoIterator<Item = Option<&'a Tensor>>) -> Result<Self> {
        let copy = |weights: &Tensor| -> Result<Tensor> {
            let average = weights.detach().f_zeros_like()?;
            average.shallow_clone().f_copy_(&weights.detach())?;
            Ok(average)
        };
        let all = weights.into_iter().map(|weights| weights.map(copy).transpose());
        let averages = memory::during(Use::Optimizer, || all.collect::<Result<_>>())?;
        Ok(Ema { decay, averages })
    }

    /// Returns the averages of a trained unit.
    pub fn average(&self, unit: usize) -> Option<&Tensor> {
        self.averages[unit].as_ref()
    }

    /// Adds the updated weights of a unit, f32 `[n]`.
    pub fn update(&self, unit: usize, weights: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let Some(average) = self.average(unit) else { return Ok(()) };
        _ = average.shallow_clone().f_lerp_(&weights.detach(), 1.0 - self.decay)?;
        Ok(())
    }

    /// Exchanges the weights of a unit, f32 `[n]`, with their averages, bit for bit.
    pub fn swap(&self, unit: usize, weights: &Tensor) -> Result<()> {
        let _guard = tch::no_grad_guard();
        let Some(average) = self.average(unit) else { return Ok(()) };
        let end = average.numel() as i64;
        for start in (0..end).step_by(PIECE as usize) {
            let part = |t: &Tensor| t.detach().narrow(0, start, (end - start).min(PIECE));
            let (mut weights, mut average) = (part(weights), part(average));
            let mut kept = weights.f_zeros_like()?;
            kept.f_copy_(&weights)?;
            weights.f_copy_(&average)?;
            average.f_copy_(&kept)?;
        }
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        self.averages.iter().flatten().map(|average| 4 * average.numel() as u64).sum()
    }
}
