//! Finds the first tensor of a pass with NaN or Inf, and its samples.

use crate::data::batch::Batch;
use crate::data::ragged::Sequences;
use crate::ffi::transfer;
use crate::models::Boundary;
use crate::nn::{ParamId, Params, RowGradient};
use crate::tasks::Model;
use std::cell::RefCell;
use tch::Tensor;

/// Maximum number of samples that a message lists.
const NAMED: usize = 8;

/// Checks the tensors of a pass and records the first with NaN or Inf.
#[derive(Default)]
pub struct Watch {
    pub(super) found: RefCell<Option<String>>,
}

impl Watch {
    fn record(&self, what: impl FnOnce() -> String) {
        let mut found = self.found.borrow_mut();
        if found.is_none() {
            *found = Some(what());
        }
    }

    /// Checks the output of a block's forward pass.
    pub fn after_forward(&self, model: &Model, params: &Params, block: usize, output: &Boundary, batch: &Batch) {
        let Some(bad) = output.iter().find(|tensor| is_bad(tensor)) else { return };
        // Look for a bad weight only here: a bad embedding row that no sample uses is not the cause.
        let weight = params_of(params, block).find(|id| is_bad(params.view(*id)));
        let what = match weight {
            Some(id) => format!("the weight {}", name_of(model, params, id)),
            None => format!("the output of the {}", model.block_name(block)),
        };
        self.record(|| format!("{what}{}", samples(bad, batch)));
    }

    /// Checks the losses `[B]`.
    pub fn after_loss(&self, losses: &Tensor, batch: &Batch) {
        if is_bad(losses) {
            self.record(|| format!("the loss{}", samples(losses, batch)));
        }
    }

    /// Checks the gradients of a block's backward pass; `boundary` is the gradient of its input.
    pub fn after_backward(&self, model: &Model, params: &Params, block: usize, boundary: &Boundary, batch: &Batch) {
        for id in params_of(params, block).filter(|id| is_bad(&params.view(*id).grad())) {
            self.record(|| format!("the gradient of {}{}", name_of(model, params, id), named(&batch.samples)));
        }
        for tensor in boundary.iter().filter(|tensor| is_bad(tensor)) {
            let name = model.block_name(block);
            self.record(|| format!("the gradient of the input of the {name}{}", samples(tensor, batch)));
        }
    }

    /// Checks the gradient of embedding rows.
    pub fn after_lookup(&self, model: &Model, params: &Params, found: &RowGradient, batch: &Batch) {
        if is_bad(&found.grad) {
            let name = name_of(model, params, found.table);
            self.record(|| format!("the gradient of {name}{}", samples(&found.grad, batch)));
        }
    }
}

fn params_of(params: &Params, block: usize) -> impl Iterator<Item = ParamId> {
    params.layout().of_block(block).flat_map(|unit| params.layout().units()[unit].members.iter().copied())
}

/// Returns the Hugging Face name.
fn name_of(model: &Model, params: &Params, id: ParamId) -> String {
    let names = model.backbone.hf_names();
    names.exported(names.of(&params.spec(id).name)).join(" + ")
}

fn is_bad(tensor: &Tensor) -> bool {
    tensor.defined()
        && tensor.is_floating_point()
        && transfer::values::<bool>(&tensor.isfinite().all()).is_ok_and(|finite| finite != [true])
}

/// Names the samples of the bad rows of `[T, ..]`, a decoder's `[D, ..]`, `[S, ..]` or `[B, ..]`; all samples if
/// ambiguous.
fn samples(tensor: &Tensor, batch: &Batch) -> String {
    let rows = tensor.size().first().copied().unwrap_or_default();
    let bad = tensor.isfinite().logical_not().reshape([rows, -1]).any_dim(1, false).nonzero().view(-1);
    let bad: Vec<i64> = transfer::values(&bad).unwrap_or_default();
    let sides = [Some(&batch.sequences), batch.decoder.as_ref().map(|decoder| &decoder.sequences)];
    let mut sides = sides.into_iter().flatten().map(Sequences::lengths).filter(|side| rows == side.iter().sum::<i64>());
    let owners: Vec<u32> =
        batch.samples.iter().zip(&batch.widths).flat_map(|(&id, &n)| std::iter::repeat_n(id, n)).collect();
    let mut ids: Vec<u32> = if rows as usize == batch.len() {
        bad.iter().map(|&row| batch.samples[row as usize]).collect()
    } else if rows as usize == owners.len() {
        bad.iter().map(|&row| owners[row as usize]).collect()
    } else if let (Some(lengths), None) = (sides.next(), sides.next()) {
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        let ends: Vec<i64> = ends.collect();
        bad.iter().map(|&row| owners[ends.partition_point(|&end| end <= row)]).collect()
    } else {
        batch.samples.clone()
    };
    // Rows of one sample are neighbors.
    ids.dedup();
    named(&ids)
}

fn named(ids: &[u32]) -> String {
    let list: Vec<String> = ids.iter().take(NAMED).map(u32::to_string).collect();
    let more = if ids.len() > NAMED { format!(" and {} more", ids.len() - NAMED) } else { String::new() };
    format!(
        ", over sample{} {}{more} of data.train (counted from 0)",
        if ids.len() == 1 { "" } else { "s" },
        list.join(", ")
    )
}
