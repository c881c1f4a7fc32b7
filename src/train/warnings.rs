//! What a person should look at while a run goes on; each is said once.

use crate::machine::cpus;
use std::time::{Duration, Instant};

/// The share of time that a thread waits for a core, from which other programs cost a run more than they seem to: a region
/// of several threads ends with its last one.
const CROWDED: f64 = 0.2;
/// So much time tells.
const LOOK: Duration = Duration::from_secs(5);
/// Steps whose mean loss is compared.
const STEPS: usize = 10;
/// The loss has grown when it is so many times what it was, and by so much.
const GROWN: (f64, f64) = (2.0, 0.5);

/// What has been seen so far.
#[derive(Debug)]
pub struct Warnings {
    /// When this began, with the main thread's times then; `None` once it has been looked at.
    cores: Option<(Instant, Option<[Duration; 2]>)>,
    /// The losses of the first steps, and of the last.
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
    /// Begins to look.
    pub fn new() -> Self {
        let cores = Some((Instant::now(), cpus::main_thread_times()));
        Warnings { cores, first: Vec::new(), last: Vec::new(), has_grown: false }
    }

    /// What is new after a step of this loss.
    pub fn after_step(&mut self, loss: f64) -> Vec<String> {
        [self.busy_cores(), self.growing_loss(loss)].into_iter().flatten().collect()
    }

    fn busy_cores(&mut self) -> Option<String> {
        let (_, before) = self.cores.take_if(|(since, _)| since.elapsed() >= LOOK)?;
        let share = cpus::waited_since(before).filter(|&share| share >= CROWDED)?;
        Some(format!(
            "the cores are busy: for {:.0} % of the time this rank waits for one, as other programs use them; fewer threads \
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

    /// The warnings after steps of these losses.
    fn after(losses: impl IntoIterator<Item = f64>) -> Vec<String> {
        let mut warnings = Warnings::new();
        losses.into_iter().flat_map(|loss| warnings.after_step(loss)).filter(|text| text.contains("loss")).collect()
    }

    #[test]
    fn a_loss_that_grows_is_told_once() {
        let grows = after([1.0; 10].into_iter().chain([3.0; 40]));
        assert_eq!(
            grows,
            ["the loss has grown from 1.0000 to 3.0000: lower learning_rate, or raise warmup_steps or lower \
                            max_grad_norm"]
        );
        assert!(after([1.0; 10].into_iter().chain([1.9; 40])).is_empty());
        assert!(after([0.01; 10].into_iter().chain([0.05; 40])).is_empty(), "near zero a factor says nothing");
        let spike = after((0..60).map(|step| if step == 30 { 9.0 } else { 1.0 }));
        assert!(spike.is_empty(), "{spike:?}");
        assert!(after([f64::NAN; 60]).is_empty());
    }
}
