//! Learning-rate schedules, as `transformers.get_scheduler` defines them.

use std::f64::consts::PI;

/// The shape after warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Linear decay to zero at the last step.
    Linear,
    /// Cosine decay to zero at the last step.
    Cosine,
    Constant,
}

/// The learning-rate schedule of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    pub shape: Shape,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub total_steps: u64,
}

impl Schedule {
    /// Returns the learning rate of step `step`, counted from 1.
    pub fn at(&self, step: u64) -> f64 {
        let done = step.saturating_sub(1);
        if done < self.warmup_steps {
            return self.learning_rate * done as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((done - self.warmup_steps) as f64 / span).min(1.0);
        let factor = match self.shape {
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            Shape::Constant => 1.0,
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values of transformers.get_scheduler(name, optimizer, num_warmup_steps=2, num_training_steps=6) at lr 1,
    // before each of the six steps.
    #[test]
    fn matches_transformers() {
        let cases = [
            (Shape::Linear, [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
            (Shape::Cosine, [0.0, 0.5, 1.0, 0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_726_27]),
            (Shape::Constant, [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ];
        for (shape, wanted) in cases {
            let s = Schedule { shape, learning_rate: 1.0, warmup_steps: 2, total_steps: 6 };
            for (i, want) in wanted.into_iter().enumerate() {
                assert!((s.at(i as u64 + 1) - want).abs() < 1e-12, "{shape:?} step {}", i + 1);
            }
        }
    }
}
