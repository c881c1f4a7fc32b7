//! One optimizer step: forward and backward over the micro-batches, reduction, clipping, update.

use crate::comm::{self, Collective, Op};
use crate::config::{self, Config};
use crate::data::batch::Batch;
use crate::error::Result;
use crate::ffi::profiler;
use crate::ffi::transfer::{self, Copies};
use crate::models::hf_names::HfNames;
use crate::nn::layout::{Group, Unit};
use crate::nn::{Params, Pass};
use crate::optim::loss_scale::{LossScaler, Overflow};
use crate::optim::{Ema, Optimizer, Part, Schedule, UnitShape};
use crate::parallel::{Gradients, Groups, Offload, Weights, whole};
use crate::tasks::Model;
use crate::train::begun::Begun;
use crate::train::blockwise::{Blockwise, Forward, mean_factors};
use crate::train::contrast;
use crate::train::feed::StepInput;
use crate::train::non_finite::{self, Fault, Rerun};
use crate::train::optimizers;
use crate::train::rank_times::RankTimes;
use crate::train::settings::{self, StepConfig};
use crate::train::teacher::Teacher;
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Tensor};

/// Result of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// The mean loss over the global batch.
    pub loss: f64,
    /// The global gradient norm before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// No weight was changed, because the loss or the norm is NaN or Inf.
    pub skipped: bool,
    /// Copies between host and device, for this rank's input and in the step itself.
    pub copies: Copies,
}

/// The state that a training step updates.
pub struct Stepper {
    pub model: Model,
    pub params: Params,
    pub weights: Weights,
    pub gradients: Gradients,
    pub optimizer: Optimizer,
    /// The moving average of the weights.
    pub ema: Option<Ema>,
    /// The frozen model that the step learns from too.
    pub teacher: Option<Teacher>,
    /// The copies of an update in host memory.
    pub offload: Option<Offload>,
    /// The dynamic loss scale; fp16 only.
    pub scaler: Option<LossScaler>,
    pub config: StepConfig,
    pub comm: Arc<dyn Collective>,
    pub begun: Begun,
    /// On several CPU ranks: on a GPU the host does not wait for the others.
    pub times: Option<RankTimes>,
}

impl Stepper {
    /// Allocates gradients and optimizer state for a loaded model.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        config: &Config,
        groups: Groups,
        (model, params, weights): (Model, Params, Weights),
        names: &HfNames,
        schedule: Schedule,
        scaler: Option<LossScaler>,
    ) -> Result<Self> {
        let shape = |(index, unit): (usize, &Unit)| {
            let pieces = || optimizers::pieces(&params, names, index);
            let of = |master| UnitShape { weights: master, owned: weights.owned(unit), pieces: pieces() };
            weights.master(index).map(of)
        };
        let units = params.layout().units().iter().enumerate().map(shape);
        let optimizer = Optimizer::new(optimizers::rule(config), units)?;
        let masters = || (0..params.layout().units().len()).map(|unit| weights.master(unit));
        let ema = config.train.ema_decay.map(|decay| Ema::new(decay, masters())).transpose()?;
        let reduce = settings::kind(config.parallel.reduce_dtype);
        let comm = Arc::clone(&groups.all);
        let gradients = Gradients::new(&params, groups, weights.zero(), reduce)?;
        let offload = match config.parallel.offload {
            config::Offload::None => None,
            config::Offload::Optimizer if weights.is_offloaded() => {
                let elements = |unit: &Unit| weights.owned(unit).end - weights.owned(unit).start;
                let trained = params.layout().units().iter().filter(|unit| unit.is_trained());
                let largest = trained.map(elements).max().unwrap_or(0);
                Some(Offload::new(largest, reduce, params.kind(), params.device())?)
            }
            config::Offload::Optimizer => Some(Offload::in_place()),
        };
        let config = settings::step(config, schedule);
        let begun = Begun::new(&params);
        let times = (comm.world() > 1 && comm.device() == Device::Cpu).then(|| RankTimes::new(comm.world()));
        Ok(Stepper {
            model,
            params,
            weights,
            gradients,
            optimizer,
            ema,
            teacher: None,
            offload,
            scaler,
            config,
            comm,
            begun,
            times,
        })
    }

    /// Runs one step. All ranks call it with their part of the same global batch; all get the same outcome. `stop`
    /// requests a stop before the step. Returns `None` if any rank requested it; nothing was done then.
    ///
    /// # Errors
    /// A dead or late rank (exit 5); a NaN or Inf loss or gradient norm (exit 4), before any weight changes.
    pub fn step(&mut self, mut input: StepInput, stop: bool) -> Result<Option<StepOutcome>> {
        let before = transfer::copies();
        let (began, waited) = (Instant::now(), comm::waited());
        // The weight of the targets of each term of the loss, a teacher's last, then the number of stop requests.
        let mut totals = vec![0.0; self.model.task.terms()];
        for batch in &input.batches {
            totals.iter_mut().zip(&batch.weights).for_each(|(total, weight)| *total += weight);
        }
        if self.teacher.is_some() {
            // Its answers have no class weights.
            totals.push(input.batches.iter().flat_map(Batch::counts).map(|count| count as f64).sum());
        }
        totals.push(f64::from(u8::from(stop)));
        let numbers = totals.len();
        totals.extend(self.times.iter().flat_map(|times| times.to_send(self.comm.rank())));
        self.comm.all_reduce_f64(&mut totals, Op::Sum, "targets of a step")?;
        let sent = totals.split_off(numbers);
        self.times.iter_mut().for_each(|times| times.received(&sent));
        let stop_requests = totals.pop().unwrap_or_default();
        if stop_requests > 0.0 {
            return Ok(None);
        }
        input.arrived()?;
        let _range = profiler::range(|| format!("step {}", input.step));
        let StepInput { step, mut batches, micro_batches, rows, copies: uploads, .. } = input;
        self.params.begin_step(step);
        self.begun.begin_step(&self.params, &mut self.optimizer);
        {
            let _range = profiler::range(|| "clear gradients".to_owned());
            self.gradients.begin(&self.params, rows)?;
        }
        let scale = self.scaler.as_ref().map_or(1.0, LossScaler::scale);
        let mut weights = mean_factors(&totals);
        self.teacher.iter().for_each(|teacher| teacher.mix(&mut weights));
        let scales: Vec<f64> = weights.iter().map(|weight| scale * weight).collect();
        let (sums, squares) = self.backward(step, &mut batches, micro_batches, &scales)?;
        let loss: f64 = sums.iter().zip(&weights).map(|(sum, weight)| sum * weight).sum();
        let grad_norm = squares.sqrt() / scale;
        let learning_rate = self.config.schedule.at(step);
        let finite = loss.is_finite() && grad_norm.is_finite();
        if finite {
            self.update(learning_rate, grad_norm, scale)?;
        } else {
            self.refuse(&Fault { step, loss, grad_norm, batches: &batches, micro_batches, scales: &scales })?;
        }
        let copies = uploads + (transfer::copies() - before);
        self.times.iter_mut().for_each(|times| times.step(began.elapsed(), comm::waited() - waited));
        Ok(Some(StepOutcome { loss, grad_norm, learning_rate, skipped: !finite, copies }))
    }

    /// Bytes of weights, gradients and optimizer state that this rank keeps between steps on its device.
    pub fn kept(&self) -> [u64; 3] {
        let (weights, masters) = self.weights.bytes(&self.params);
        let weights = weights + self.teacher.as_ref().map_or(0, Teacher::bytes);
        let host = self.weights.is_offloaded() && self.params.device() != Device::Cpu;
        [weights, self.gradients.bytes(), if host { 0 } else { self.state_bytes() + masters }]
    }

    /// Bytes of optimizer state, master weights and the buffers of their copies.
    pub fn optimizer_bytes(&self) -> u64 {
        let buffers = self.offload.as_ref().map_or(0, Offload::bytes);
        self.state_bytes() + self.weights.bytes(&self.params).1 + buffers
    }

    fn state_bytes(&self) -> u64 {
        self.optimizer.bytes() + self.ema.as_ref().map_or(0, Ema::bytes)
    }

    /// Exchanges the weights with their moving average, if there is one: for an evaluation or the final model, and back.
    /// All ranks call it.
    ///
    /// # Errors
    /// A dead or late rank; out of memory.
    pub fn swap_ema(&mut self) -> Result<()> {
        let Stepper { params, weights, ema, offload, .. } = self;
        let Some(ema) = ema else { return Ok(()) };
        weights.settle()?;
        for unit in 0..params.layout().units().len() {
            let Some(master) = weights.master(unit) else { continue };
            ema.swap(unit, master)?;
            match offload {
                None => weights.publish(params, unit, "averaged weights")?,
                Some(offload) => weights.publish_from_host(params, unit, "averaged weights", offload)?,
            }
        }
        weights.settle()
    }

    pub fn may_skip(&self) -> bool {
        self.scaler.is_some() || self.config.skips_non_finite
    }

    /// Computes the gradient of the terms' summed losses, each multiplied by its scale, and reduces it over all ranks.
    /// Returns the loss sums and the sum of squares of the gradient, over all ranks.
    fn backward(
        &mut self,
        step: u64,
        batches: &mut [Batch],
        micro_batches: usize,
        scales: &[f64],
    ) -> Result<(Vec<f64>, f64)> {
        let Stepper { model, params, weights, gradients, comm, config, teacher, .. } = self;
        let blockwise = Blockwise { model, params, recompute: config.recompute, watch: None };
        let sums = Tensor::zeros([scales.len() as i64], (tch::Kind::Double, comm.device()));
        let rank = comm.rank() as u64;
        let pass = |index: usize| Pass { seed: config.seed, step, micro_batch: index as u64, rank };
        let mut backward = |forward: Forward, weights: &mut Weights, index: usize| -> Result<()> {
            if let Some(found) = forward.loss_sums() {
                _ = sums.shallow_clone().f_add_(&found)?;
            }
            forward.backward(weights, gradients, scales, index + 1 == micro_batches)
        };
        let mut done = 0;
        if let Some(scale) = model.task.contrast() {
            let first = contrast::prepare(blockwise, weights, comm.as_ref(), (&*batches, micro_batches), pass, scale)?;
            backward(first, weights, 0)?;
            done = 1;
        }
        for index in done..micro_batches {
            teacher.as_mut().map_or(Ok(()), |teacher| teacher.answer(batches.get_mut(index)))?;
            let forward = blockwise.forward(weights, batches.get(index), pass(index))?;
            backward(forward, weights, index)?;
        }
        gradients.finish(params)?;
        let numbers = {
            let _range = profiler::range(|| "gradient norm".to_owned());
            Tensor::f_cat(&[sums, gradients.squares(params)?], 0)?
        };
        comm.start_all_reduce(&numbers, Op::Sum, "loss and gradient norm")?.wait()?;
        // The only copy from device to host in a step, if the update is on the device.
        let mut sums = transfer::values(&numbers)?;
        let squares = sums.pop().unwrap_or_default();
        Ok((sums, squares))
    }

    /// Handles a NaN or Inf step: lowers the fp16 loss scale, skips the step, or returns the error that ends the run.
    fn refuse(&mut self, fault: &Fault) -> Result<()> {
        // A loss scale that is too large overflows the gradients, never the loss.
        let overflow = fault.loss.is_finite()
            && self.scaler.as_mut().is_some_and(|scaler| scaler.overflowed() == Overflow::Halved);
        if overflow || self.config.skips_non_finite {
            return Ok(());
        }
        let Stepper { model, params, weights, gradients, comm, config, .. } = self;
        let rerun = Rerun { model, params, weights, gradients, comm: comm.as_ref(), config: *config };
        Err(non_finite::diagnose(rerun, fault)?)
    }

    fn update(&mut self, learning_rate: f64, grad_norm: f64, scale: f64) -> Result<()> {
        let _range = profiler::range(|| "optimizer".to_owned());
        // Same formula as torch.nn.utils.clip_grad_norm_.
        let limit = self.config.max_grad_norm;
        let excess = (grad_norm + 1e-6) / limit;
        let clip = if limit > 0.0 && excess > 1.0 { excess } else { 1.0 };
        self.optimizer.begin_step();
        let Stepper { model, params, weights, gradients, optimizer, ema, offload, config, .. } = self;
        let units = params.layout().units();
        let is_updated = |unit: &usize| weights.master(*unit).is_some() && params.trains(*unit);
        let trained: Vec<usize> = (0..units.len()).filter(is_updated).collect();
        let fetch = |offload: &mut Option<Offload>, turn: usize| {
            let next = trained.get(turn).and_then(|&unit| gradients.owned(unit, &units[unit]));
            offload.as_mut().zip(next).map_or(Ok(()), |(offload, gradient)| offload.fetch(&gradient))
        };
        fetch(offload, 0)?;
        for (turn, &index) in trained.iter().enumerate() {
            let unit = &units[index];
            let brought = offload.as_mut().map(Offload::gradient).transpose()?;
            // It comes while this unit is updated.
            fetch(offload, turn + 1)?;
            let grads = brought.or_else(|| gradients.owned(index, unit));
            let (Some(master), Some(grads)) = (weights.master(index), grads) else { continue };
            let parts = |group: &Group| {
                let Group { hyper, range } = group;
                let learning_rate = learning_rate * hyper.rate;
                let weight_decay = hyper.weight_decay(config.weight_decay);
                let [l1, l2] = if hyper.decays() { config.penalties } else { [0.0; 2] };
                let part = move |(range, began)| Part { range, learning_rate, weight_decay, l1, l2, began };
                optimizer.ages(index, range).into_iter().map(part).collect::<Vec<_>>()
            };
            let parts: Vec<Part> = unit.groups.iter().flat_map(parts).collect();
            let gather = |own: &Tensor| whole(weights.comm(), weights.zero(), own, "values of the optimizer");
            optimizer.update(index, (master, &grads), &parts, clip * scale, &gather)?;
            ema.as_ref().map_or(Ok(()), |ema| ema.update(index, master))?;
            let what = format!("updated weights of {}", model.block_name(unit.blocks[0]));
            match offload {
                None => weights.publish(params, index, &what)?,
                Some(offload) => weights.publish_from_host(params, index, &what, offload)?,
            }
        }
        if let Some(scaler) = &mut self.scaler {
            scaler.stepped();
        }
        Ok(())
    }
}
