//! What a run does after a step.

use crate::config::{IntervalStrategy, TrainConfig};

/// What is due after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub log: bool,
    pub evaluation: bool,
    pub checkpoint: bool,
}

impl Due {
    /// Returns what the configuration asks for after `step`, of which an epoch has `steps_per_epoch`.
    pub fn after(step: u64, is_last: bool, train: &TrainConfig, steps_per_epoch: u64) -> Self {
        let due = |strategy, every: u64| match strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => step.is_multiple_of(every),
            IntervalStrategy::Epoch => step.is_multiple_of(steps_per_epoch),
        };
        let saves = train.save_strategy != IntervalStrategy::No;
        Due {
            log: is_last || step.is_multiple_of(train.logging_steps) || (train.logging_first_step && step == 1),
            evaluation: is_last || due(train.eval_strategy, train.eval_steps.unwrap_or(u64::MAX)),
            checkpoint: due(train.save_strategy, train.save_steps) || (is_last && saves),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_at_its_interval_and_at_the_end() {
        let train = TrainConfig {
            logging_steps: 5,
            logging_first_step: true,
            eval_strategy: IntervalStrategy::Epoch,
            save_steps: 4,
            ..TrainConfig::default()
        };
        let steps = |test: fn(Due) -> bool| {
            (1..=11).filter(|&step| test(Due::after(step, step == 11, &train, 3))).collect::<Vec<_>>()
        };
        assert_eq!(steps(|due| due.log), [1, 5, 10, 11]);
        assert_eq!(steps(|due| due.evaluation), [3, 6, 9, 11]);
        assert_eq!(steps(|due| due.checkpoint), [4, 8, 11]);
        let none = TrainConfig { save_strategy: IntervalStrategy::No, ..TrainConfig::default() };
        let due = Due::after(500, true, &none, 3);
        assert_eq!(due, Due { log: true, evaluation: true, checkpoint: false });
        assert!(!Due::after(1, false, &none, 3).log);
    }
}
