//! Dynamic loss scaling for fp16 (Micikevicius et al., arXiv 1710.03740, section 3.2), with the rule and factors of
//! `torch.amp.GradScaler`: an overflow halves the scale, a window of steps without overflow doubles it.

/// The consequence of a gradient overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Overflow {
    /// The step is skipped, and the scale is halved.
    Halved,
    /// The scale is already 1: the unscaled gradients overflow, so no scale helps.
    AtTheLeast,
}

/// The loss scale: a power of two, so that scaling is exact.
#[derive(Debug, Clone, PartialEq)]
pub struct LossScaler {
    scale: f64,
    good_steps: u64,
    window: u64,
}

impl LossScaler {
    /// Minimum scale, as in DeepSpeed: a smaller scale would reduce gradients, which is not the purpose.
    pub const LEAST: f64 = 1.0;
    /// Maximum scale, as in NVIDIA's Apex: GradScaler's, the largest float, leaves no room for the loss.
    pub const GREATEST: f64 = 16_777_216.0;

    /// Creates a scaler with `scale`, a power of two from [`LossScaler::LEAST`] to [`LossScaler::GREATEST`], after
    /// `good_steps` steps without overflow (0 at the start of a run). `window` such steps, at least 1, double the
    /// scale.
    pub fn new(scale: f64, good_steps: u64, window: u64) -> Self {
        LossScaler { scale, good_steps, window }
    }

    /// Factor by which the loss is multiplied and gradients are divided.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Number of steps without overflow since the scale was last changed; less than the window.
    pub fn good_steps(&self) -> u64 {
        self.good_steps
    }

    /// Updates the scale after a step that was skipped because of gradient overflow.
    pub fn overflowed(&mut self) -> Overflow {
        self.good_steps = 0;
        if self.scale <= Self::LEAST {
            return Overflow::AtTheLeast;
        }
        self.scale /= 2.0;
        Overflow::Halved
    }

    /// Updates the scale after a step without overflow.
    pub fn stepped(&mut self) {
        self.good_steps += 1;
        // Can exceed the window if a resumed run has a shorter one.
        if self.good_steps >= self.window {
            self.good_steps = 0;
            self.scale = (self.scale * 2.0).min(Self::GREATEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Initial scale, window, events, and (scale, good steps) after each event.
    type Run = (f64, u64, &'static str, &'static [(f64, u64)]);

    /// `GradScaler._scale` and `._growth_tracker` of torch 2.13 after each update: `x` is a step with overflow, `.` a
    /// step without.
    #[test]
    fn scales_match_torch() {
        #[rustfmt::skip]
        let runs: [Run; 3] = [
            (1024.0, 3, "..x....x......xx...", &[
                (1024.0, 1), (1024.0, 2), (512.0, 0), (512.0, 1), (512.0, 2), (1024.0, 0), (1024.0, 1), (512.0, 0),
                (512.0, 1), (512.0, 2), (1024.0, 0), (1024.0, 1), (1024.0, 2), (2048.0, 0), (1024.0, 0), (512.0, 0),
                (512.0, 1), (512.0, 2), (1024.0, 0),
            ]),
            (4.0, 1, ".x..xx", &[(8.0, 0), (4.0, 0), (8.0, 0), (16.0, 0), (8.0, 0), (4.0, 0)]),
            (65536.0, 2000, "x.x", &[(32768.0, 0), (32768.0, 1), (16384.0, 0)]),
        ];
        for (init, window, events, expected) in runs {
            let mut scaler = LossScaler::new(init, 0, window);
            assert_eq!(events.len(), expected.len());
            for (event, expected) in events.chars().zip(expected) {
                match event {
                    'x' => assert_eq!(scaler.overflowed(), Overflow::Halved),
                    _ => scaler.stepped(),
                }
                assert_eq!((scaler.scale(), scaler.good_steps()), *expected);
            }
        }
    }

    #[test]
    fn the_scale_stays_within_its_limits() {
        let mut scaler = LossScaler::new(2.0, 0, 1);
        assert_eq!(scaler.overflowed(), Overflow::Halved);
        assert_eq!(scaler.overflowed(), Overflow::AtTheLeast);
        assert_eq!(scaler.scale(), LossScaler::LEAST);
        (0..24).for_each(|_| scaler.stepped());
        assert_eq!(scaler.scale(), LossScaler::GREATEST);
        scaler.stepped();
        assert_eq!(scaler.scale(), LossScaler::GREATEST);
    }

    #[test]
    fn a_resumed_run_continues_with_its_scale() {
        let mut scaler = LossScaler::new(8.0, 2, 3);
        scaler.stepped();
        assert_eq!(scaler, LossScaler::new(16.0, 0, 3));
        let mut shorter = LossScaler::new(8.0, 5, 3);
        shorter.stepped();
        assert_eq!(shorter, LossScaler::new(16.0, 0, 3));
    }

    #[test]
    fn the_configuration_has_the_same_limits() {
        let taken = |scale: f64| {
            let words = ["output_dir=o", "model.path=m", "kind=regression", "data.train=t", "precision=fp16"];
            let words = words.map(str::to_owned).into_iter().chain([format!("loss_scale_init={scale}")]);
            Config::load(None, &words.collect::<Vec<_>>()).is_ok()
        };
        assert!(taken(LossScaler::LEAST) && taken(LossScaler::GREATEST));
        assert!(!taken(LossScaler::LEAST / 2.0) && !taken(LossScaler::GREATEST * 2.0));
    }
}
