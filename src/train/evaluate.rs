//! Inference over a whole dataset on all ranks; the results do not depend on the number of ranks.

use crate::comm::{Collective, Op};
use crate::data::batch::Batch;
use crate::data::{Dataset, Prepared, RandomKey, sampler};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::ffi::transfer;
use crate::metrics::{ClassReport, Metrics};
use crate::nn::Params;
use crate::observe::progress::Phase;
use crate::parallel::Weights;
use crate::tasks::{ExampleTable, Model, Results};
use crate::text::Tokenizer;
use crate::train::blockwise::{Blockwise, Recompute};
use crate::train::generation::Generation;
use tch::Tensor;

/// The model's outputs for every example, in dataset order, the same on every rank.
#[derive(Debug)]
pub struct Outputs {
    /// The outputs of all examples, in the task's format.
    pub answers: Vec<f32>,
    /// `[N + 1]`: offset of each example's outputs.
    pub offsets: Vec<usize>,
    /// The mean of each term of the loss; empty when the data has no labels.
    pub losses: Vec<f64>,
    /// The loss of each example: the mean over its targets, the sum of the terms; `None` without targets.
    pub example_losses: Vec<Option<f64>>,
}

impl Outputs {
    /// Combines the outputs with their dataset.
    pub fn results<'a>(&'a self, data: &'a Prepared) -> Results<'a> {
        let Outputs { answers, offsets, losses, .. } = self;
        Results { dataset: &data.dataset, references: &data.facts.references, answers, offsets, losses }
    }
}

/// Number of examples that an evaluation returns for a report.
pub const EXAMPLES: usize = 30;

/// What an evaluation returns besides metrics.
#[derive(Clone, Copy)]
pub enum Details<'a> {
    None,
    /// The metrics of each class.
    Classes,
    /// Also the worst examples, with their texts if there is a tokenizer.
    Examples(Option<&'a Tokenizer>),
}

/// Result of an evaluation.
#[derive(Debug)]
pub struct Evaluation {
    pub metrics: Metrics,
    /// The metrics of each class, if asked for and the task has classes.
    pub report: Option<ClassReport>,
    /// Examples for a report, if asked for.
    pub examples: Option<ExampleTable>,
    /// A likely problem of the model.
    pub warning: Option<String>,
}

/// A model and the ranks that evaluate it.
pub struct Evaluator<'a> {
    pub model: &'a Model,
    pub params: &'a Params,
    pub weights: &'a mut Weights,
    pub comm: &'a dyn Collective,
    pub micro_batch_tokens: usize,
    /// Settings of generation, if the metrics or the examples need generated texts.
    pub generation: Option<&'a Generation>,
}

impl Evaluator<'_> {
    /// Runs the model on every example once, on any number of ranks.
    ///
    /// # Errors
    /// A dead or late rank; libtorch's.
    pub fn outputs(&mut self, dataset: &Dataset) -> Result<Outputs> {
        self.outputs_for(Some("predicting"), dataset)
    }

    /// Does the same without showing progress.
    ///
    /// # Errors
    /// As [`Evaluator::outputs`].
    pub fn quiet_outputs(&mut self, dataset: &Dataset) -> Result<Outputs> {
        self.outputs_for(None, dataset)
    }

    fn outputs_for(&mut self, what: Option<&'static str>, dataset: &Dataset) -> Result<Outputs> {
        let Evaluator { model, params, comm, micro_batch_tokens, .. } = *self;
        let blockwise = Blockwise { model, params, recompute: Recompute::None, watch: None };
        let (task, n) = (&model.task, dataset.len());
        let mut offsets = vec![0];
        offsets.extend((0..n).scan(0, |end, i| {
            *end += task.answer_size(dataset, i);
            Some(*end)
        }));
        let answers = offsets[n];
        let terms = task.terms();
        // Each rank fills in the values of its own examples (the outputs, then sum and count of the losses of each
        // term) and leaves the others zero; the all-reduce then collects them.
        let mut table = vec![0.0_f32; answers + 2 * terms * n];
        let plan = sampler::eval_plan(&dataset.lengths(), comm.world(), micro_batch_tokens);
        // Every rank runs the same number of passes, because gathering sharded weights needs all of them.
        let phase = what.map(|what| Phase::of(what, n as u64, "examples"));
        for pass in 0..plan.iter().map(Vec::len).max().unwrap_or_default() {
            if let Some(phase) = phase.as_ref().filter(|_| pass > 0) {
                phase.advance(sampler::samples_in(&plan, pass - 1));
            }
            let micro = plan[comm.rank()].get(pass);
            let batch =
                micro.map(|micro| Batch::on(comm.device(), dataset, micro, RandomKey::default())).transpose()?;
            let found = blockwise.evaluate(self.weights, batch.as_ref())?;
            let (Some(batch), Some((found, losses))) = (batch, found) else { continue };
            let found: Vec<f32> = transfer::values(&found)?;
            let mut found = found.as_slice();
            for &sample in &batch.samples {
                let place = offsets[sample as usize]..offsets[sample as usize + 1];
                let (own, others) = found.split_at(place.len());
                table[place].copy_from_slice(own);
                found = others;
            }
            for (term, losses) in losses.iter().enumerate() {
                for (loss, owner) in transfer::values::<f32>(losses)?.into_iter().zip(batch.owners(term)) {
                    let place = answers + 2 * (terms * batch.samples[owner] as usize + term);
                    table[place] += loss;
                    table[place + 1] += 1.0;
                }
            }
        }
        drop(phase);
        let table = transfer::to_device(Tensor::from_slice(&table), comm.device());
        comm.start_all_reduce(&table, Op::Sum, "evaluation")?.wait()?;
        let mut answers_and_losses: Vec<f32> = transfer::values(&table)?;
        let losses = answers_and_losses.split_off(answers);
        let mean = |term: usize| {
            let of_term = || losses.chunks_exact(2 * terms).map(|example| &example[2 * term..2 * term + 2]);
            let [sum, count] = [0, 1].map(|i| of_term().map(|pair| f64::from(pair[i])).sum::<f64>());
            (count > 0.0).then(|| sum / count)
        };
        let of_example = |sums: &[f32]| {
            let means = sums.chunks_exact(2).filter(|pair| pair[1] > 0.0).map(|pair| f64::from(pair[0] / pair[1]));
            means.reduce(|a, b| a + b)
        };
        let example_losses = losses.chunks_exact(2 * terms).map(of_example).collect();
        let losses = (0..terms).filter_map(mean).collect();
        Ok(Outputs { answers: answers_and_losses, offsets, losses, example_losses })
    }

    /// Returns the mean loss (first) and the task's metrics on a labelled dataset, without the `eval_` prefix, and the
    /// details, which may differ from rank to rank.
    ///
    /// # Errors
    /// As [`Evaluator::outputs`]; exit 2 if there are no targets; exit 4 if the loss is NaN or Inf.
    pub fn metrics(&mut self, data: &Prepared, details: Details) -> Result<Evaluation> {
        let outputs = self.outputs_for(Some("evaluating"), &data.dataset)?;
        let results = outputs.results(data);
        let loss = self.model.task.loss(&results);
        if loss.is_none() && outputs.losses.is_empty() {
            let message = "there is nothing to evaluate: no example of the data has a target";
            return Err(Error::input(message).shared());
        }
        let loss = loss.unwrap_or_else(|| outputs.losses.iter().sum());
        if !loss.is_finite() {
            let message = format!("the evaluation loss is {loss}: the model has diverged");
            return Err(Error::new(ErrorKind::NonFinite, message).shared());
        }
        let mut metrics = vec![("loss", loss)];
        metrics.extend(self.model.task.metrics(&results));
        let mut generated = None;
        if let Some(generation) = self.generation {
            let (of_texts, examples) = self.generated(data, generation)?;
            metrics.extend(of_texts);
            generated = Some(examples);
        }
        let task = &self.model.task;
        let report = if let Details::None = details { None } else { task.report(&results) };
        let examples = match details {
            Details::Examples(texts) => {
                let worst = match generated {
                    Some(generated) => Some(generated.only_numbers_without(texts)),
                    None => task.worst(&results, texts, EXAMPLES)?,
                };
                let mut examples =
                    worst.unwrap_or_else(|| ExampleTable::highest_loss(&outputs.example_losses, EXAMPLES));
                texts.map_or(Ok(()), |tokenizer| examples.add_texts(&data.dataset, tokenizer))?;
                Some(examples)
            }
            _ => None,
        };
        Ok(Evaluation { metrics, report, examples, warning: task.warning(&results) })
    }
}
