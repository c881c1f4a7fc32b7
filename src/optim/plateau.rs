//! The learning rate that falls when evaluations stop improving: torch's `ReduceLROnPlateau`.

/// The arguments of torch's `ReduceLROnPlateau`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlateauConfig {
    /// Whether a greater metric is better (`mode`).
    pub greater_is_better: bool,
    pub factor: f64,
    /// Number of evaluations without improvement that are accepted.
    pub patience: u64,
    pub threshold: f64,
    /// Whether the threshold is a fraction of the best value (`threshold_mode`).
    pub relative: bool,
    /// Number of evaluations after a reduction that do not count.
    pub cooldown: u64,
    pub min_lr: f64,
    /// Smallest reduction that is applied.
    pub eps: f64,
}

/// The state of the schedule between evaluations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plateau {
    pub config: PlateauConfig,
    /// Learning rate of the next steps.
    pub learning_rate: f64,
    /// Best metric so far.
    pub best: Option<f64>,
    /// Number of evaluations without improvement.
    pub bad: u64,
    /// Number of evaluations that still do not count.
    pub cooldown: u64,
}

impl Plateau {
    /// Returns the state at the start of a run.
    pub fn new(config: PlateauConfig, learning_rate: f64) -> Self {
        Plateau { config, learning_rate, best: None, bad: 0, cooldown: 0 }
    }

    /// Takes the metric of an evaluation; NaN is no improvement. Returns whether the learning rate was reduced.
    pub fn observe(&mut self, metric: f64) -> bool {
        let PlateauConfig { factor, patience, cooldown, min_lr, eps, .. } = self.config;
        if self.is_better(metric) {
            (self.best, self.bad) = (Some(metric), 0);
        } else {
            self.bad += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad = 0;
        }
        if self.bad <= patience {
            return false;
        }
        (self.cooldown, self.bad) = (cooldown, 0);
        let reduced = (self.learning_rate * factor).max(min_lr);
        let applies = self.learning_rate - reduced > eps;
        if applies {
            self.learning_rate = reduced;
        }
        applies
    }

    fn is_better(&self, metric: f64) -> bool {
        let PlateauConfig { greater_is_better, threshold, relative, .. } = self.config;
        let Some(best) = self.best else { return metric.is_finite() };
        match (greater_is_better, relative) {
            (false, true) => metric < best * (1.0 - threshold),
            (false, false) => metric < best - threshold,
            (true, true) => metric > best * (1.0 + threshold),
            (true, false) => metric > best + threshold,
        }
    }
}
