//! Running a model over a whole data set, on all ranks, with results that do not depend on how many there are.

use crate::comm::{Collective, Op};
use crate::data::batch::{Batch, Labels};
use crate::data::dataset::Dataset;
use crate::data::sampler;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::metrics::Metrics;
use crate::nn::Params;
use crate::tasks::Model;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// What the model says of every example, in the data set's order, the same on every rank.
#[derive(Debug)]
pub struct Outputs {
    /// `[N * C]`, row by row.
    pub logits: Vec<f32>,
    /// `[N]`; empty when the data has no labels.
    pub losses: Vec<f32>,
}

/// Runs the model over every example once, whatever the number of ranks.
///
/// # Errors
/// A dead or late rank; libtorch's.
pub fn outputs(
    model: &Model,
    params: &Params,
    dataset: &Dataset,
    comm: &Arc<dyn Collective>,
    device: Device,
    micro_batch_tokens: usize,
) -> Result<Outputs> {
    let (n, width) = (dataset.len() as i64, model.task.outputs() as i64);
    // Each rank fills its own examples' rows; adding zeros changes nothing.
    let table = Tensor::zeros([n, width + 1], (Kind::Float, device));
    let mut labelled = false;
    let lengths = dataset.lengths();
    for micro in &sampler::eval_plan(&lengths, comm.world(), micro_batch_tokens)[comm.rank()] {
        let batch = Batch::collate(dataset, micro, device);
        let logits = model.infer(params, &batch);
        let rows: Vec<i64> = micro.iter().map(|&i| i64::from(i)).collect();
        let rows = Tensor::from_slice(&rows).to_device(device);
        let losses = match batch.labels {
            Labels::None => logits.new_zeros([rows.size()[0]], (Kind::Float, device)),
            _ => tch::no_grad(|| model.task.losses(&logits, &batch.labels)),
        };
        labelled |= !matches!(batch.labels, Labels::None);
        let values = Tensor::cat(&[logits, losses.unsqueeze(1)], 1).to_kind(Kind::Float);
        _ = table.shallow_clone().f_index_copy_(0, &rows, &values)?;
    }
    comm.start_all_reduce(&table, Op::Sum, "evaluation")?.wait()?;
    let mut any = [f64::from(u8::from(labelled))];
    comm.all_reduce_f64(&mut any, Op::Max, "evaluation")?;
    let flat = |t: Tensor| -> Result<Vec<f32>> { Ok(Vec::try_from(t.to_device(Device::Cpu).contiguous().view(-1))?) };
    let logits = flat(table.narrow(1, 0, width))?;
    let losses = if any[0] > 0.0 { flat(table.narrow(1, width, 1))? } else { Vec::new() };
    Ok(Outputs { logits, losses })
}

/// The mean loss and the task's metrics over a labelled data set, without the `eval_` prefix; `loss` comes first.
///
/// # Errors
/// As [`outputs`].
pub fn evaluate(
    model: &Model,
    params: &Params,
    dataset: &Dataset,
    comm: &Arc<dyn Collective>,
    device: Device,
    micro_batch_tokens: usize,
) -> Result<Metrics> {
    let outputs = outputs(model, params, dataset, comm, device, micro_batch_tokens)?;
    let sum: f64 = outputs.losses.iter().map(|&x| f64::from(x)).sum();
    let labels: Vec<_> = (0..dataset.len()).map(|i| dataset.label(i)).collect();
    let loss = sum / outputs.losses.len() as f64;
    if !loss.is_finite() {
        return Err(
            Error::new(ErrorKind::NonFinite, format!("the evaluation loss is {loss}: the model has diverged")).shared()
        );
    }
    let mut metrics = vec![("loss", loss)];
    metrics.extend(model.task.metrics(&outputs.logits, &labels));
    Ok(metrics)
}
