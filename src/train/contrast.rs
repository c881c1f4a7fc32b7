//! The loss of a step that compares each example with all others of the global batch, by gradient caching
//! (arXiv 2101.06983).
//!
//! A first pass computes the embeddings of all micro-batches. From those of all ranks follow the losses and the gradient
//! of each embedding, from which backward starts. Only the first micro-batch keeps its graph until then; the others run
//! forward again, with a graph. Random numbers depend only on the position in the run, so that both passes compute the
//! same embeddings. The loss of a global batch does not depend on how it is split, and only one micro-batch's activations
//! are in memory at a time.

use crate::comm::{Collective, Op};
use crate::data::batch::{Batch, Contrast};
use crate::error::Result;
use crate::ffi::{self, transfer};
use crate::nn::Pass;
use crate::parallel::Weights;
use crate::tasks::embedding::{Rows, chunks, in_batch_losses, unit};
use crate::train::blockwise::{Blockwise, Forward};
use tch::{Kind, Tensor};

/// Computes the losses of this rank's examples and the gradients of their embeddings, and adds both to the batches.
/// Returns the pass of the first micro-batch, whose backward is to follow. All ranks call it, with the same number of
/// micro-batches. `scale` is the factor of similarities.
///
/// # Errors
/// A dead or late rank; out of memory.
pub fn prepare<'a>(
    blockwise: Blockwise<'a>,
    weights: &mut Weights,
    comm: &dyn Collective,
    (batches, micro_batches): (&'a [Batch], usize),
    pass: impl Fn(usize) -> Pass,
    scale: f64,
) -> Result<Forward<'a>> {
    let width = blockwise.model.backbone.head_input().width;
    let mut others = Vec::new();
    for index in 1..micro_batches {
        let found = blockwise.answers(weights, batches.get(index), pass(index))?;
        others.extend(found.into_iter().flatten());
    }
    let mut first = blockwise.forward_to_logits(weights, batches.first(), pass(0))?;
    let none = Tensor::zeros([0, width], (Kind::Float, comm.device()));
    let own: Vec<Tensor> = [none].into_iter().chain(first.logits()).chain(others).collect();
    let own = Tensor::f_cat(&own, 0)?;
    let widths: Vec<usize> = batches.iter().flat_map(|batch| batch.widths.iter().copied()).collect();
    let count = widths.iter().map(|width| width - 1).sum::<usize>();
    let mut counts = vec![0.0; comm.world()];
    counts[comm.rank()] = count as f64;
    comm.all_reduce_f64(&mut counts, Op::Sum, "numbers of texts of a step")?;
    let before = counts[..comm.rank()].iter().sum::<f64>() as i64;
    let rows = Rows::of(&widths, before);
    let [texts, others, matches] = [&rows.texts, &rows.others, &rows.matches]
        .map(|rows| transfer::to_device(Tensor::from_slice(rows), comm.device()));

    // Each rank has its own rows; the others are zero.
    let zeros = |rows: i64| Tensor::f_zeros([rows, width], (Kind::Float, comm.device()));
    let after = counts[comm.rank() + 1..].iter().sum::<f64>() as i64;
    let all = Tensor::f_cat(&[zeros(before)?, own.f_index_select(0, &others)?, zeros(after)?], 0)?;
    comm.start_all_reduce(&all, Op::Sum, "embeddings of a step")?.wait()?;
    let (losses, of_texts, of_all) = gradients(&own.f_index_select(0, &texts)?, &all, &matches, scale)?;
    comm.start_all_reduce(&of_all, Op::Sum, "gradients of embeddings")?.wait()?;
    let of_others = of_all.narrow(0, before, count as i64);
    let gradients = own.zeros_like().f_index_copy(0, &texts, &of_texts)?.f_index_copy(0, &others, &of_others)?;

    let (mut sequence, mut example) = (0, 0);
    for batch in batches {
        let (sequences, examples) = (batch.widths.iter().sum::<usize>() as i64, batch.len() as i64);
        let losses = losses.narrow(0, example, examples);
        let found = Contrast { losses, gradients: gradients.narrow(0, sequence, sequences) };
        assert!(batch.contrast.set(found).is_ok(), "a batch has one loss");
        (sequence, example) = (sequence + sequences, example + examples);
    }
    first.compute_losses();
    Ok(first)
}

/// Returns the losses of texts `[n, width]` among `others` `[m, width]`, and the gradients of their sum by both;
/// `matches` i64 `[n]` says which of the others is whose match.
fn gradients(texts: &Tensor, others: &Tensor, matches: &Tensor, scale: f64) -> Result<(Tensor, Tensor, Tensor)> {
    let leaf = |x: &Tensor| x.detach().set_requires_grad(true);
    let (texts, others) = (leaf(texts), leaf(others));
    let units = [unit(&texts), unit(&others)];
    let [unit_texts, unit_others] = [leaf(&units[0]), leaf(&units[1])];
    let mut losses = vec![texts.new_zeros([0], (Kind::Float, texts.device()))];
    for (start, rows) in chunks(texts.size()[0], others.size()[0]) {
        let [texts, matches] = [&unit_texts, matches].map(|all| all.narrow(0, start, rows));
        let each = in_batch_losses(&texts, &unit_others, &matches, scale);
        ffi::backward(&[&each], &[&each.ones_like()])?;
        losses.push(each.detach());
    }
    if losses.len() > 1 {
        ffi::backward(&[&units[0], &units[1]], &[&unit_texts.grad(), &unit_others.grad()])?;
    }
    let gradient = |x: &Tensor| if x.grad().defined() { x.grad() } else { x.zeros_like() };
    Ok((Tensor::f_cat(&losses, 0)?, gradient(&texts), gradient(&others)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::embedding::CHUNK;
    use serde_json::Value;
    use tch::Device;

    fn tensor(value: &Value) -> Tensor {
        let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
        Tensor::from_slice2(&rows).to_kind(Kind::Float)
    }

    /// Losses and gradients of `MultipleNegativesRankingLoss`.
    #[test]
    fn losses_are_those_of_sentence_transformers() {
        let cases: Value = serde_json::from_str(include_str!("../../tests/reference/embeddings.json")).unwrap();
        for case in cases["in_batch"].as_array().unwrap() {
            let (texts, others) = (tensor(&case["texts"]), tensor(&case["others"]));
            let n = texts.size()[0];
            let matches = Tensor::arange(n, (Kind::Int64, Device::Cpu));
            let found = gradients(&texts, &others, &matches, case["scale"].as_f64().unwrap()).unwrap();
            let loss = found.0.mean(Kind::Double).double_value(&[]);
            let expected = case["loss"].as_f64().unwrap();
            assert!((loss - expected).abs() <= 1e-6 * expected.abs(), "{loss} and not {expected}");
            for (name, found) in [("texts_grad", &found.1), ("others_grad", &found.2)] {
                let expected = tensor(&case[name]) * n as f64;
                let [error, size] = [found - &expected, expected].map(|x| x.norm().double_value(&[]));
                assert!(error <= 1e-5 * size, "{name} differs by {error:e} of {size:e}");
            }
        }
    }

    /// Similarities are computed some rows at a time; a rank may have none.
    #[test]
    fn rows_are_computed_in_chunks() {
        assert_eq!(chunks(5, CHUNK / 2).collect::<Vec<_>>(), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(chunks(2, 3 * CHUNK).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        let empty = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
        let others = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        let matches = Tensor::zeros([0], (Kind::Int64, Device::Cpu));
        let (losses, of_texts, of_others) = gradients(&empty, &others, &matches, 20.0).unwrap();
        assert_eq!((losses.size(), of_texts.size()), (vec![0], vec![0, 3]));
        assert_eq!(of_others, others.zeros_like());
    }
}
