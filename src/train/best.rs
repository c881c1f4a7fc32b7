//! The best evaluation so far, and when to stop without a better one.

use crate::checkpoint::TrainerState;
use crate::config::TrainConfig;

/// Returns the value of `train.metric_for_best_model`; NaN if there is none.
pub fn value(train: &TrainConfig, metrics: &[(String, f64)]) -> f64 {
    metrics.iter().find(|(name, _)| *name == train.metric_for_best_model).map_or(f64::NAN, |metric| metric.1)
}

/// Records an evaluation: the best metric so far with its step, and the number of evaluations since the last improvement,
/// as Hugging Face's `EarlyStoppingCallback` counts them. Returns whether this evaluation is the best so far. An
/// undefined metric (a correlation with a constant) never is.
pub fn observe(state: &mut TrainerState, train: &TrainConfig, metrics: &[(String, f64)]) -> bool {
    let value = value(train, metrics);
    let gain = |best: f64| if train.is_greater_better() { value - best } else { best - value };
    let exceeds = |least: f64| value.is_finite() && state.best_metric.is_none_or(|best| gain(best) > least);
    let (improves, better) = (exceeds(train.early_stopping_threshold), exceeds(0.0));
    state.evaluations_without_improvement = if improves { 0 } else { state.evaluations_without_improvement + 1 };
    if better {
        state.best_metric = Some(value);
        state.best_global_step = Some(state.global_step);
    }
    better
}

/// Why training stops before its last step, if it does.
pub fn reason_to_stop(state: &TrainerState, train: &TrainConfig) -> Option<String> {
    let (patience, count) = (train.early_stopping_patience?, state.evaluations_without_improvement);
    let metric = &train.metric_for_best_model;
    (count >= patience).then(|| format!("stopped early: eval_{metric} has not improved for {count} evaluations"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps, one evaluation each, until training stops; which of them were the best so far.
    fn run(train: &TrainConfig, values: &[f64]) -> (Vec<bool>, u64) {
        let mut state = TrainerState::default();
        let mut best = Vec::new();
        for &value in values {
            state.global_step += 1;
            best.push(observe(&mut state, train, &[("accuracy".into(), 0.5), ("loss".into(), value)]));
            if reason_to_stop(&state, train).is_some() {
                break;
            }
        }
        (best, state.global_step)
    }

    #[test]
    fn training_stops_after_evaluations_without_improvement() {
        let train = |patience: u64, threshold: f64| TrainConfig {
            early_stopping_patience: Some(patience),
            early_stopping_threshold: threshold,
            ..TrainConfig::default()
        };
        let values = [1.0, 0.9, 0.95, 0.89, 0.9, f64::NAN, 0.5];
        assert_eq!(run(&train(2, 0.0), &values), (vec![true, true, false, true, false, false], 6));
        assert_eq!(run(&train(3, 0.0), &values).1, 7);
        // 0.89 is better than 0.9, but not by more than the threshold: the count goes on.
        assert_eq!(run(&train(2, 0.05), &values), (vec![true, true, false, true], 4));
        let greater = TrainConfig { greater_is_better: Some(true), ..train(1, 0.0) };
        assert_eq!(run(&greater, &values), (vec![true, false], 2));
        let endless = TrainConfig { early_stopping_patience: None, ..TrainConfig::default() };
        assert_eq!(run(&endless, &values).1, 7);
    }

    #[test]
    fn an_undefined_metric_is_no_improvement() {
        let train = TrainConfig { early_stopping_patience: Some(2), ..TrainConfig::default() };
        assert_eq!(run(&train, &[f64::NAN, f64::NAN, 1.0]), (vec![false, false], 2));
    }
}
