//! The learning rate schedule of a configuration.

use crate::checkpoint::state::PlateauState;
use crate::config::{Config, LrSchedulerType};
use crate::optim::plateau::{Plateau, PlateauConfig};
use crate::optim::schedule::{Curve, Schedule, Shape, StableDecay};

/// Returns the schedule of a run of `total_steps` steps, with `steps_per_epoch` steps per epoch. Between the evaluations
/// that `reduce_lr_on_plateau` observes, its rate is constant.
pub fn schedule(config: &Config, total_steps: u64, steps_per_epoch: u64) -> Schedule {
    let (train, kwargs) = (&config.train, &config.train.lr_scheduler_kwargs);
    let fraction = |ratio: f64| (ratio * total_steps as f64).ceil() as u64;
    let warmup_steps = match train.warmup_steps {
        0.0 => fraction(train.warmup_ratio),
        ratio if ratio < 1.0 => fraction(ratio),
        steps => steps as u64,
    };
    let number = |name: &str, default: f64| kwargs.number(name).unwrap_or(default);
    let relative = |rate: f64| rate / train.learning_rate;
    let shape = match train.lr_scheduler_type {
        LrSchedulerType::Linear => Shape::Linear,
        LrSchedulerType::Cosine => Shape::Cosine { cycles: number("num_cycles", 0.5), floor: 0.0 },
        LrSchedulerType::CosineWithMinLr => {
            let floor = kwargs.number("min_lr").map(relative).or(kwargs.number("min_lr_rate"));
            Shape::Cosine { cycles: number("num_cycles", 0.5), floor: floor.unwrap_or_default() }
        }
        LrSchedulerType::CosineWithRestarts => Shape::Restarts { cycles: number("num_cycles", 1.0) },
        LrSchedulerType::Polynomial => {
            Shape::Polynomial { end: relative(number("lr_end", 1e-7)), power: number("power", 1.0) }
        }
        LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup | LrSchedulerType::ReduceLrOnPlateau => {
            Shape::Constant
        }
        LrSchedulerType::InverseSqrt => {
            let usual = if warmup_steps > 0 { warmup_steps as f64 } else { 10_000.0 };
            Shape::InverseSqrt { timescale: number("timescale", usual) }
        }
        LrSchedulerType::Exponential => Shape::Exponential { gamma: number("gamma", 0.95), epoch: steps_per_epoch },
        LrSchedulerType::WarmupStableDecay => Shape::StableDecay(StableDecay {
            stable: kwargs.count("num_stable_steps"),
            decay: kwargs.count("num_decay_steps").unwrap_or_else(|| fraction(0.1)),
            warmup_curve: curve(kwargs.word("warmup_type"), Curve::Linear),
            decay_curve: curve(kwargs.word("decay_type"), Curve::Cosine),
            floor: number("min_lr_ratio", 0.0),
            cycles: number("num_cycles", 0.5),
        }),
        LrSchedulerType::SlantedTriangular => {
            Shape::SlantedTriangular { cut_frac: number("cut_frac", 0.1), ratio: number("ratio", 32.0) }
        }
    };
    Schedule { shape, learning_rate: train.learning_rate, warmup_steps, total_steps }
}

fn curve(word: Option<&str>, default: Curve) -> Curve {
    match word {
        Some("linear") => Curve::Linear,
        Some("cosine") => Curve::Cosine,
        Some("1-sqrt") => Curve::OneMinusSqrt,
        _ => default,
    }
}

/// Returns the state of `reduce_lr_on_plateau`, at the start of a run or with the state of a checkpoint. With another
/// peak than the checkpoint's it starts again from the new peak.
pub fn plateau(config: &Config, before: Option<&PlateauState>) -> Option<Plateau> {
    let (train, kwargs) = (&config.train, &config.train.lr_scheduler_kwargs);
    if train.lr_scheduler_type != LrSchedulerType::ReduceLrOnPlateau {
        return None;
    }
    let number = |name: &str, default: f64| kwargs.number(name).unwrap_or(default);
    let arguments = PlateauConfig {
        greater_is_better: kwargs.word("mode").map_or_else(|| train.is_greater_better(), |mode| mode == "max"),
        factor: number("factor", 0.1),
        patience: kwargs.count("patience").unwrap_or(10),
        threshold: number("threshold", 1e-4),
        relative: kwargs.word("threshold_mode") != Some("abs"),
        cooldown: kwargs.count("cooldown").unwrap_or(0),
        min_lr: number("min_lr", 0.0),
        eps: number("eps", 1e-8),
    };
    let new = Plateau::new(arguments, train.learning_rate);
    let same = before.filter(|before| before.peak == train.learning_rate);
    Some(same.map_or(new, |before| Plateau {
        learning_rate: before.learning_rate,
        best: before.best,
        bad: before.num_bad_evaluations,
        cooldown: before.cooldown,
        ..new
    }))
}

/// Returns the state of `reduce_lr_on_plateau` for a checkpoint.
pub fn plateau_state(config: &Config, plateau: &Plateau) -> PlateauState {
    PlateauState {
        peak: config.train.learning_rate,
        learning_rate: plateau.learning_rate,
        best: plateau.best,
        num_bad_evaluations: plateau.bad,
        cooldown: plateau.cooldown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Values of `transformers` 5, torch 2.11 and the formula of ULMFiT's paper, by tests/reference/schedules.py.
    const REFERENCE: &str = include_str!("../../tests/reference/schedules.json");

    fn config(case: &Value) -> Config {
        let text = |key: &str| case[key].to_string().trim_matches('"').to_owned();
        let words = ["output_dir=o", "model.path=m", "task.kind=regression", "data.train=t", "data.eval=e"];
        let more = [
            format!("lr_scheduler_type={}", text("name")),
            format!("lr_scheduler_kwargs={}", case["kwargs"]),
            format!("warmup_steps={}", text("warmup")),
            format!("learning_rate={}", text("learning_rate")),
            "eval_steps=1".into(),
        ];
        let words: Vec<String> = words.map(str::to_owned).into_iter().chain(more).collect();
        Config::load(None, &words).unwrap_or_else(|e| panic!("{case}: {e}"))
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
    }

    #[test]
    fn rates_are_those_of_the_reference_at_each_step() {
        let reference: Value = serde_json::from_str(REFERENCE).unwrap();
        let mut seen = Vec::new();
        for case in reference["schedules"].as_array().unwrap() {
            let config = config(case);
            let schedule = schedule(&config, 50, case["epoch"].as_u64().unwrap());
            let rates = numbers(&case["rates"]);
            assert_eq!(rates.len(), 50);
            for (step, expected) in (1..).zip(rates) {
                let rate = schedule.at(step);
                let error = (rate - expected).abs() / expected.abs().max(1e-12);
                assert!(error < 1e-12, "{} {}, step {step}: {rate} and {expected}", case["name"], case["kwargs"]);
                assert_eq!(schedule.factor(step) * schedule.learning_rate, rate);
            }
            seen.push(config.train.lr_scheduler_type);
        }
        for kind in LrSchedulerType::ALL {
            assert!(seen.contains(kind) || *kind == LrSchedulerType::ReduceLrOnPlateau, "{kind} has no case");
        }
    }

    #[test]
    fn a_plateau_reduces_as_torch_does() {
        let reference: Value = serde_json::from_str(REFERENCE).unwrap();
        let mut reductions = 0;
        for case in reference["plateaus"].as_array().unwrap() {
            let config = config(case);
            let mut state = plateau(&config, None).unwrap();
            for (metric, rate) in numbers(&case["metrics"]).into_iter().zip(numbers(&case["rates"])) {
                reductions += usize::from(state.observe(metric));
                assert_eq!(state.learning_rate, rate, "{}: {metric}", case["kwargs"]);
                // What a checkpoint keeps is everything.
                let saved = serde_json::to_string(&plateau_state(&config, &state)).unwrap();
                state = plateau(&config, Some(&serde_json::from_str(&saved).unwrap())).unwrap();
            }
        }
        assert!(reductions > 8, "{reductions} reductions");
    }

    #[test]
    fn another_peak_starts_again() {
        let config = |rate: f64| {
            config(&serde_json::json!({
                "name": "reduce_lr_on_plateau", "kwargs": {"patience": 0}, "warmup": 0, "learning_rate": rate
            }))
        };
        let mut state = plateau(&config(0.1), None).unwrap();
        assert!(!state.observe(1.0) && state.observe(2.0));
        let saved = plateau_state(&config(0.1), &state);
        assert_eq!(plateau(&config(0.1), Some(&saved)), Some(state));
        assert_eq!(plateau(&config(0.2), Some(&saved)), plateau(&config(0.2), None));
    }

    #[test]
    fn a_short_triangle_stays_positive() {
        let case = serde_json::json!({"name": "slanted_triangular", "kwargs": {}, "warmup": 0, "learning_rate": 1.0});
        for total in [1, 5, 19, 55] {
            let schedule = schedule(&config(&case), total, 1);
            let least = (1..=total).map(|step| schedule.at(step)).fold(f64::INFINITY, f64::min);
            assert!(least >= 1.0 / 32.0, "{total} steps: {least}");
        }
    }
}
