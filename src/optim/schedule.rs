//! Learning rate schedules: pure functions of the step, as `transformers.get_scheduler` (version 5) defines them.

use std::f64::consts::PI;

/// The shape after warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Linear decay to zero at the last step.
    Linear,
    /// A cosine with this number of waves (0.5: from the peak to the floor), to `floor` times the peak.
    Cosine {
        cycles: f64,
        floor: f64,
    },
    /// Half cosines to zero, each from the peak.
    Restarts {
        cycles: f64,
    },
    /// The remaining fraction of the steps to this power, from the peak to `end` times the peak.
    Polynomial {
        end: f64,
        power: f64,
    },
    Constant,
    /// The inverse square root of the steps after warm-up plus `timescale`, in units of `timescale`.
    InverseSqrt {
        timescale: f64,
    },
    /// A factor for every `epoch` steps after warm-up, as torch's `ExponentialLR` called once per epoch.
    Exponential {
        gamma: f64,
        epoch: u64,
    },
    StableDecay(StableDecay),
    /// ULMFiT (arXiv 1801.06146, section 3.2): linear increase over `cut_frac` of the steps from the peak divided by
    /// `ratio`, and linear decay back. It has no warm-up.
    SlantedTriangular {
        cut_frac: f64,
        ratio: f64,
    },
}

/// The peak between warm-up and a decay at the end, both along a curve; then `floor` times the peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StableDecay {
    /// Number of steps at the peak; without it, all that are neither warm-up nor decay.
    pub stable: Option<u64>,
    pub decay: u64,
    pub warmup_curve: Curve,
    pub decay_curve: Curve,
    pub floor: f64,
    /// Number of waves of a cosine decay.
    pub cycles: f64,
}

/// The curve of a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    Linear,
    Cosine,
    /// 1 minus a square root.
    OneMinusSqrt,
}

/// The learning rate schedule of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub shape: Shape,
    /// The peak.
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl Schedule {
    /// Returns the learning rate of step `step`, counted from 1.
    pub fn at(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    /// Returns the learning rate of step `step`, counted from 1, as a fraction of the peak.
    pub fn factor(&self, step: u64) -> f64 {
        let (done, warmup) = (step.saturating_sub(1), self.warmup_steps);
        let has_own_warmup = matches!(self.shape, Shape::StableDecay(_) | Shape::SlantedTriangular { .. });
        if done < warmup && !has_own_warmup {
            return done as f64 / warmup as f64;
        }
        let after = done as f64 - warmup as f64;
        let span = self.total_steps.saturating_sub(warmup).max(1) as f64;
        let progress = (after / span).min(1.0);
        match self.shape {
            Shape::Linear => 1.0 - progress,
            Shape::Cosine { cycles, floor } => floored(wave(cycles, progress), floor).max(0.0),
            Shape::Restarts { .. } if progress >= 1.0 => 0.0,
            Shape::Restarts { cycles } => 0.5 * (1.0 + (PI * ((cycles * progress) % 1.0)).cos()),
            Shape::Polynomial { end, power } => floored((1.0 - progress).powf(power), end),
            Shape::Constant => 1.0,
            Shape::InverseSqrt { timescale } => 1.0 / ((after + timescale) / timescale).sqrt(),
            Shape::Exponential { gamma, epoch } => gamma.powf(((done - warmup) / epoch.max(1)) as f64),
            Shape::StableDecay(shape) => shape.factor(done as f64, warmup as f64, self.total_steps as f64),
            Shape::SlantedTriangular { cut_frac, ratio } => {
                let cut = (self.total_steps as f64 * cut_frac).floor();
                let done = done as f64;
                // A run too short for an increase only decays. Rounding `cut` down may end the decay before the run.
                let decay = if cut > 0.0 { cut * (1.0 / cut_frac - 1.0) } else { self.total_steps as f64 };
                let p = if done < cut { done / cut } else { (1.0 - (done - cut) / decay).max(0.0) };
                (1.0 + p * (ratio - 1.0)) / ratio
            }
        }
    }
}

impl StableDecay {
    fn factor(self, done: f64, warmup: f64, total: f64) -> f64 {
        let decay = self.decay as f64;
        let stable = self.stable.map_or(total - warmup - decay, |steps| steps as f64);
        if done < warmup {
            let p = done / warmup;
            let rising = match self.warmup_curve {
                Curve::Linear => p,
                Curve::Cosine => 0.5 * (1.0 - (PI * p).cos()),
                Curve::OneMinusSqrt => 1.0 - (1.0 - p).sqrt(),
            };
            return floored(rising, self.floor).max(0.0);
        }
        if done < warmup + stable {
            return 1.0;
        }
        if done >= warmup + stable + decay {
            return self.floor;
        }
        let p = (done - warmup - stable) / decay;
        let falling = match self.decay_curve {
            Curve::Linear => 1.0 - p,
            Curve::Cosine => wave(self.cycles, p),
            Curve::OneMinusSqrt => 1.0 - p.sqrt(),
        };
        floored(falling, self.floor).max(0.0)
    }
}

/// A cosine from 1 with this number of waves; 0.5 ends at 0.
fn wave(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// Scales a factor from [0, 1] to [floor, 1].
fn floored(factor: f64, floor: f64) -> f64 {
    factor * (1.0 - floor) + floor
}
