//! The evaluations of a training run.

use super::Trainer;
use crate::data::Prepared;
use crate::error::{Context, Result};
use crate::ffi::device::DisableTf32;
use crate::train::best;
use crate::train::evaluate::{Details, Evaluation, Evaluator};
use crate::train::recorder::Recorder;
use crate::train::step::Stepper;
use serde_json::{Map, Value, json};
use std::sync::Arc;

impl Trainer {
    /// Evaluates on all evaluation sets if there are any; returns whether this is the best step so far.
    pub(super) fn evaluate(&mut self) -> Result<bool> {
        let Some(eval) = self.data.eval.clone() else { return Ok(false) };
        let sets = Arc::clone(&self.data.eval_sets);
        self.stepper.swap_ema()?;
        let evaluation = self.evaluation_of(&eval, true)?;
        let mut metrics: Vec<(String, f64)> = named("", &evaluation);
        let mut warnings = Vec::from_iter(evaluation.warning.clone());
        for (name, set) in sets.iter() {
            let found = self.evaluation_of(set, false).context(format_args!("data.eval_sets: {name}"))?;
            metrics.extend(named(&format!("{name}_"), &found));
            warnings.extend(found.warning.map(|warning| format!("{name}: {warning}")));
        }
        self.stepper.swap_ema()?;
        let step = self.state.global_step;
        let best = step > 0 && best::observe(&mut self.state, &self.config.train, &metrics);
        let reduced = if step > 0 { self.observe_plateau(&metrics) } else { None };
        let text: Vec<String> = metrics.iter().map(|(name, value)| format!("eval_{name} {value:.4}")).collect();
        self.progress.line(&format!("{}  {}", self.state.place(), text.join("  ")));
        warnings.iter().filter(|_| self.comm.is_main()).for_each(|warning| self.progress.warn(warning));
        reduced
            .inspect(|rate| self.progress.event(&format!("{}  learning rate reduced to {rate:e}", self.state.place())));
        let mut line = Map::from_iter([("step".into(), json!(step)), ("epoch".into(), json!(self.state.epoch))]);
        line.extend(metrics.iter().map(|(name, value)| (format!("eval_{name}"), json!(value))));
        self.record(Value::Object(line));
        let (recorder, state) = (&mut self.recorder, &self.state);
        if let Some(recorder) = recorder {
            self.clock.pause(|| recorder.evaluated(state, evaluation));
        }
        Ok(best)
    }

    /// Evaluates on one set; the report is about the main one.
    fn evaluation_of(&mut self, data: &Prepared, is_main: bool) -> Result<Evaluation> {
        let details = self.recorder.as_ref().filter(|_| is_main).map_or(Details::None, Recorder::details);
        let generates = is_main || self.config.task.predict_with_generate;
        let Stepper { model, params, weights, .. } = &mut self.stepper;
        let micro_batch_tokens = self.micro_batch_tokens;
        let (comm, generation) = (self.comm.as_ref(), self.generation.as_ref().filter(|_| generates));
        let mut evaluator = Evaluator { model, params, weights, comm, micro_batch_tokens, generation };
        self.clock.pause(|| {
            // As `trainer evaluate` computes them.
            let _exact = DisableTf32::new()?;
            evaluator.metrics(data, details)
        })
    }

    /// Passes an evaluation on to `reduce_lr_on_plateau`. Returns the learning rate if it was reduced.
    fn observe_plateau(&mut self, metrics: &[(String, f64)]) -> Option<f64> {
        let value = best::value(&self.config.train, metrics);
        let plateau = self.plateau.as_mut()?;
        let reduced = plateau.observe(value);
        self.stepper.config.schedule.learning_rate = plateau.learning_rate;
        reduced.then_some(plateau.learning_rate)
    }
}

/// Returns the metrics of an evaluation with their names in a run, without `eval_`.
fn named(set: &str, evaluation: &Evaluation) -> Vec<(String, f64)> {
    evaluation.metrics.iter().map(|(name, value)| (format!("{set}{name}"), *value)).collect()
}
