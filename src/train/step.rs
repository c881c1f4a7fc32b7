//! One optimizer step: forward and backward over the micro-batches, reduction, clipping, update.

use crate::comm::{Collective, Op};
use crate::error::{Error, Kind, Result};
use crate::nn::{Params, Pass};
use crate::optim::adamw::Slice;
use crate::optim::{AdamW, Schedule};
use crate::parallel::Gradients;
use crate::tasks::Model;
use crate::train::feed::StepInput;
use crate::train::staged::Forward;
use std::sync::Arc;
use tch::Tensor;

/// What a step needs to know besides its input.
#[derive(Debug, Clone, Copy)]
pub struct StepConfig {
    pub seed: u64,
    pub schedule: Schedule,
    /// The norm that gradients are clipped to; 0 leaves them alone.
    pub max_grad_norm: f64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// The mean loss over the global batch.
    pub loss: f64,
    /// The global gradient norm before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
}

/// The moving parts of training.
pub struct Stepper {
    pub model: Model,
    pub params: Params,
    pub optimizer: AdamW,
    pub config: StepConfig,
    gradients: Gradients,
    comm: Arc<dyn Collective>,
}

impl Stepper {
    /// For parameters with gradient buffers.
    pub fn new(model: Model, params: Params, optimizer: AdamW, config: StepConfig, comm: Arc<dyn Collective>) -> Self {
        let gradients = Gradients::new(&params, Arc::clone(&comm));
        Stepper { model, params, optimizer, config, gradients, comm }
    }

    /// Takes one step. All ranks call it with their part of the same global batch; all get the same outcome.
    ///
    /// `stop` is this rank's wish to stop before the step.
    /// `None` means that some rank wishes it: nothing was done.
    ///
    /// # Errors
    /// A dead or late rank (exit 5); a loss or gradient norm that is not finite (exit 4), before any weight changes.
    pub fn step(&mut self, input: &StepInput, stop: bool) -> Result<Option<StepOutcome>> {
        let mine: usize = input.batches.iter().map(|b| b.len()).sum();
        let mut totals = [mine as f64, f64::from(u8::from(stop))];
        self.comm.all_reduce_f64(&mut totals, Op::Sum, "examples of a step")?;
        let [count, stops] = totals;
        if stops > 0.0 {
            return Ok(None);
        }
        let loss = self.gradients_of(input, count)? / count;
        let grad_norm = self.gradients.norm(&self.params)?;
        self.check_finite(input, loss, grad_norm)?;
        let learning_rate = self.config.schedule.at(input.step);
        self.update(learning_rate, grad_norm)?;
        Ok(Some(StepOutcome { loss, grad_norm, learning_rate }))
    }

    /// Leaves the reduced gradient of the mean loss in the flat buffers; returns the sum of losses over all ranks.
    fn gradients_of(&mut self, input: &StepInput, count: f64) -> Result<f64> {
        let Stepper { model, params, gradients, comm, config, .. } = self;
        gradients.begin(params, &input.rows)?;
        let loss = Tensor::zeros([1], (tch::Kind::Double, comm.device()));
        let reduce_loss = || comm.start_all_reduce(&loss, Op::Sum, "loss");
        let mut reduced = None;
        for (i, batch) in input.batches.iter().enumerate() {
            let pass = Pass { seed: config.seed, step: input.step, micro_batch: i as u64, rank: comm.rank() as u64 };
            let forward = Forward::run(model, params, batch, pass);
            _ = loss.shallow_clone().f_add_(&forward.loss_sum())?;
            let last = i + 1 == input.batches.len();
            if last {
                reduced = Some(reduce_loss()?);
            }
            forward.backward(1.0 / count, |stage| {
                if last { gradients.start(params, stage, &model.stage_name(stage)) } else { Ok(()) }
            })?;
        }
        if reduced.is_none() {
            // No sample for this rank in this step: the same collectives in the same order.
            reduced = Some(reduce_loss()?);
            for stage in (0..model.stages()).rev() {
                gradients.start(params, stage, &model.stage_name(stage))?;
            }
        }
        gradients.finish(params)?;
        reduced.map_or(Ok(()), |pending| pending.wait())?;
        Ok(loss.double_value(&[0]))
    }

    fn check_finite(&self, input: &StepInput, loss: f64, grad_norm: f64) -> Result<()> {
        if loss.is_finite() && grad_norm.is_finite() {
            return Ok(());
        }
        Err(Error::new(
            Kind::NonFinite,
            format!(
                "step {}: the loss is {loss} and the gradient norm {grad_norm}; no weight was changed by this step. \
                 A lower learning_rate or a longer warm-up is the usual remedy",
                input.step
            ),
        )
        .shared())
    }

    fn update(&mut self, learning_rate: f64, grad_norm: f64) -> Result<()> {
        // As torch.nn.utils.clip_grad_norm_: a norm above the limit is scaled to it.
        let limit = self.config.max_grad_norm;
        let excess = (grad_norm + 1e-6) / limit;
        let grad_scale = if limit > 0.0 && excess > 1.0 { excess } else { 1.0 };
        self.optimizer.begin_step();
        for (index, stage) in self.params.stages().iter().enumerate() {
            for group in &stage.groups {
                let slice = Slice {
                    weights: &stage.weights,
                    grads: &stage.grads,
                    range: group.range.clone(),
                    decay: group.decay,
                };
                self.optimizer.update(index, &slice, learning_rate, grad_scale)?;
            }
        }
        Ok(())
    }
}
