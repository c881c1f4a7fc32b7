//! Warnings during training; each is shown once.

use crate::machine::cpus;
use std::time::{Duration, Instant};

/// Fraction of time waiting for a core above which a warning is due. Other programs slow a run down more than this
/// fraction suggests, because a parallel region ends with its last thread.
const CROWDED: f64 = 0.2;
/// Time to measure before a warning.
const LOOK: Duration = Duration::from_secs(5);
/// Number of steps in the mean losses that are compared.
const STEPS: usize = 10;
/// The loss has grown if it is larger by this factor and by this difference.
const GROWN: (f64, f64) = (2.0, 0.5);

/// State of the checks.
#[derive(Debug)]
pub struct Warnings {
    /// Start of the measurement, and the main thread's times then; `None` once checked.
    cores: Option<(Instant, Option<[Duration; 2]>)>,
    /// The losses of the first steps, and of the latest.
    first: Vec<f64>,
    last: Vec<f64>,
    has_grown: bool,
}

impl Default for Warnings {
    fn default() -> Self {
        Self::new()
    }
}

impl Warnings {
    pub fn new() -> Self {
        let cores = Some((Instant::now(), cpus::main_thread_times()));
        Warnings { cores, first: Vec::new(), last: Vec::new(), has_grown: false }
    }

    /// Returns new warnings after a step with this loss.
    pub fn after_step(&mut self, loss: f64) -> Vec<String> {
        [self.busy_cores(), self.growing_loss(loss)].into_iter().flatten().collect()
    }

    fn busy_cores(&mut self) -> Option<String> {
        let (_, before) = self.cores.take_if(|(since, _)| since.elapsed() >= LOOK)?;
        let share = cpus::waited_since(before).filter(|&share| share >= CROWDED)?;
        Some(format!(
            "the cores are busy with other programs: this rank waits for one {:.0} % of the time; fewer threads \
             may be faster (parallel.num_threads)",
            100.0 * share
        ))
    }

    fn growing_loss(&mut self, loss: f64) -> Option<String> {
        if self.has_grown || !loss.is_finite() {
            return None;
        }
        if self.first.len() < STEPS {
            self.first.push(loss);
            return None;
        }
        if self.last.len() == STEPS {
            self.last.remove(0);
        }
        self.last.push(loss);
        let [first, last] = [&self.first, &self.last].map(|losses| losses.iter().sum::<f64>() / losses.len() as f64);
        self.has_grown = self.last.len() == STEPS && last > GROWN.0 * first && last > first + GROWN.1;
        self.has_grown.then(|| {
            format!(
                "the loss has grown from {first:.4} to {last:.4}: lower learning_rate, or raise warmup_steps or lower \
                 max_grad_norm"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the warnings after steps with these losses.
    fn after(losses: impl IntoIterator<Item = f64>) -> Vec<String> {
        let mut warnings = Warnings::new();
        losses.into_iter().flat_map(|loss| warnings.after_step(loss)).filter(|text| text.contains("loss")).collect()
    }

    #[test]
    fn a_growing_loss_is_reported_once() {
        let grows = after([1.0; 10].into_iter().chain([3.0; 40]));
        assert_eq!(
            grows,
            ["the loss has grown from 1.0000 to 3.0000: lower learning_rate, or raise warmup_steps or lower \
                            max_grad_norm"]
        );
        assert!(after([1.0; 10].into_iter().chain([1.9; 40])).is_empty());
        assert!(after([0.01; 10].into_iter().chain([0.05; 40])).is_empty(), "near zero a factor means nothing");
        let spike = after((0..60).map(|step| if step == 30 { 9.0 } else { 1.0 }));
        assert!(spike.is_empty(), "{spike:?}");
        assert!(after([f64::NAN; 60]).is_empty());
    }
}
