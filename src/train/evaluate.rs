//! Running a model over a whole data set, on all ranks, with results that do not depend on how many there are.

use crate::comm::{Collective, Op};
use crate::data::batch::{Batch, Labels};
use crate::data::{Dataset, Label, sampler};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::metrics::Metrics;
use crate::nn::Params;
use crate::parallel::Weights;
use crate::tasks::Model;
use crate::train::staged::{Recompute, Staged};
use tch::{Device, Kind, Tensor};

/// What the model says of every example, in the data set's order, the same on every rank.
#[derive(Debug)]
pub struct Outputs {
    /// `[N * C]`, row by row.
    pub logits: Vec<f32>,
    /// `[N]`; empty when the data has no labels.
    pub losses: Vec<f32>,
}

/// A model and the ranks that run it.
pub struct Evaluator<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub weights: &'a mut Weights,
    pub comm: &'a dyn Collective,
    /// Tokens that a rank takes through the model at a time.
    pub micro_batch_tokens: usize,
}

impl Evaluator<'_> {
    /// Runs the model over every example once, whatever the number of ranks.
    ///
    /// # Errors
    /// A dead or late rank; libtorch's.
    pub fn outputs(&mut self, dataset: &Dataset) -> Result<Outputs> {
        let Evaluator { model, params, comm, micro_batch_tokens, .. } = *self;
        let staged = Staged { model, params, recompute: Recompute::None, watch: None };
        let (n, width, device) = (dataset.len() as i64, model.task.outputs() as i64, comm.device());
        let labelled = (0..dataset.len()).any(|i| dataset.label(i) != Label::None);
        // Each rank fills its own examples' rows; adding zeros changes nothing.
        let table = Tensor::zeros([n, width + 1], (Kind::Float, device));
        let plan = sampler::eval_plan(&dataset.lengths(), comm.world(), micro_batch_tokens);
        // As many passes on every rank: sharded weights are gathered by all of them together.
        for pass in 0..plan.iter().map(Vec::len).max().unwrap_or_default() {
            let micro = plan[comm.rank()].get(pass);
            let batch = micro.map(|micro| Batch::collate(dataset, micro, device));
            let logits = staged.infer(self.weights, batch.as_ref())?;
            let (Some(micro), Some(batch), Some(logits)) = (micro, batch, logits) else { continue };
            let rows: Vec<i64> = micro.iter().map(|&i| i64::from(i)).collect();
            let rows = Tensor::from_slice(&rows).to_device(device);
            let losses = match batch.labels {
                Labels::None => logits.new_zeros([rows.size()[0]], (Kind::Float, device)),
                _ => tch::no_grad(|| model.task.losses(&logits, &batch.labels)),
            };
            let values = Tensor::cat(&[logits, losses.unsqueeze(1)], 1).to_kind(Kind::Float);
            _ = table.shallow_clone().f_index_copy_(0, &rows, &values)?;
        }
        comm.start_all_reduce(&table, Op::Sum, "evaluation")?.wait()?;
        let flat =
            |t: Tensor| -> Result<Vec<f32>> { Ok(Vec::try_from(t.to_device(Device::Cpu).contiguous().view(-1))?) };
        let logits = flat(table.narrow(1, 0, width))?;
        let losses = if labelled { flat(table.narrow(1, width, 1))? } else { Vec::new() };
        Ok(Outputs { logits, losses })
    }

    /// The mean loss and the task's metrics over a labelled data set, without the `eval_` prefix; `loss` comes first.
    ///
    /// # Errors
    /// As [`Evaluator::outputs`]; exit 4 when the loss is not finite.
    pub fn metrics(&mut self, dataset: &Dataset) -> Result<Metrics> {
        let outputs = self.outputs(dataset)?;
        let sum: f64 = outputs.losses.iter().map(|&x| f64::from(x)).sum();
        let loss = sum / outputs.losses.len() as f64;
        if !loss.is_finite() {
            let message = format!("the evaluation loss is {loss}: the model has diverged");
            return Err(Error::new(ErrorKind::NonFinite, message).shared());
        }
        let labels: Vec<_> = (0..dataset.len()).map(|i| dataset.label(i)).collect();
        let mut metrics = vec![("loss", loss)];
        metrics.extend(self.model.task.metrics(&outputs.logits, &labels));
        Ok(metrics)
    }
}
