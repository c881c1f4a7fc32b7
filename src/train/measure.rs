//! Measures this machine: the throughput of its CPU, the time of collectives, and a few real steps of a run.

use crate::comm::{Action, Collective, Op, Pending};
use crate::config::Config;
use crate::data::Sampler;
use crate::error::{self, Error, Result};
use crate::ffi::device::synchronize;
use crate::ops::linear;
use crate::plan::device::Speed;
use crate::plan::fit::Timed;
use crate::train::memory_report::{self, Bytes};
use crate::train::model_loading::Loaded;
use crate::train::session::Session;
use crate::train::step::Stepper;
use crate::train::{feed, schedule, settings};
use std::sync::Arc;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Minimum duration of a measurement in seconds.
const LONG_ENOUGH: f64 = 0.15;
/// Warm-up steps, and timed steps.
const WARM_UP: usize = 1;
const STEPS: usize = 5;
/// Maximum number of skipped steps: the loss scale starts too high and is halved until it fits.
const SKIPPED: usize = 40;
/// Sizes in bytes of the timed collectives, and repetitions of each.
const SIZES: [i64; 4] = [64 << 10, 1 << 20, 4 << 20, 16 << 20];
const REPEATS: usize = 15;
/// Bytes of the buffers that are used in turn, so that they come from memory, as in a step, and not from a cache.
const POOL: i64 = 128 << 20;

/// Measures FLOP/s of matmuls and memory bandwidth of this CPU with libtorch's current number of threads. Takes the
/// best of several tries, because other processes only add time.
pub fn speed(kind: Kind) -> Speed {
    let _guard = tch::no_grad_guard();
    let (rows, width) = (512, 1024);
    let options = (kind, Device::Cpu);
    let (x, w) = (Tensor::ones([rows, width], options), Tensor::ones([width, width], options));
    let matmul_seconds = best(|| drop(linear::linear(&x, &w, None)));
    let flops = 2.0 * (rows * width * width) as f64 / matmul_seconds;
    // Larger than the CPU caches.
    let from = Tensor::ones([16 << 20], (Kind::Float, Device::Cpu));
    let mut to = from.zeros_like();
    let copy_seconds = best(|| to.copy_(&from));
    Speed { flops, bytes: 2.0 * 4.0 * from.numel() as f64 / copy_seconds }
}

/// Returns the seconds of the fastest try.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    while began.elapsed().as_secs_f64() < LONG_ENOUGH {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Times a step's collectives at several sizes: the slowest rank's time in the best try. All ranks call it.
///
/// # Errors
/// A dead or late rank; out of memory.
pub fn collectives(comm: &dyn Collective) -> Result<Vec<Timed>> {
    let (world, options) = (comm.world() as i64, (Kind::Float, comm.device()));
    let pool = Tensor::f_zeros([POOL / 4], options)?;
    let mut all = Vec::new();
    for action in Action::OF_A_STEP {
        for bytes in SIZES {
            let shard = (bytes / 4 / world).max(1);
            let length = shard * world;
            let own = |buffer: &Tensor| buffer.narrow(0, comm.rank() as i64 * shard, shard);
            let start = |buffer: &Tensor| -> Result<Pending> {
                match action {
                    Action::ReduceScatter => comm.start_reduce_scatter(buffer, &own(buffer), "a measurement"),
                    Action::AllGather => comm.start_all_gather(&own(buffer), buffer, "a measurement"),
                    _ => comm.start_all_reduce(buffer, Op::Sum, "a measurement"),
                }
            };
            let mut fastest = f64::INFINITY;
            for turn in 0..REPEATS as i64 {
                // Far apart, because of cache prefetching.
                let places = (pool.numel() as i64 / length).max(1);
                let buffer = pool.narrow(0, turn * (places / REPEATS as i64).max(1) % places * length, length);
                comm.barrier("a measurement")?;
                let began = Instant::now();
                start(&buffer)?.wait()?;
                synchronize(comm.device())?;
                let mut seconds = [began.elapsed().as_secs_f64()];
                comm.all_reduce_f64(&mut seconds, Op::Max, "a measurement")?;
                fastest = fastest.min(seconds[0]);
            }
            all.push(Timed { action, bytes: (4 * shard * world) as f64, seconds: fastest });
        }
    }
    Ok(all)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Result of a few real steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Median seconds per step.
    pub seconds: f64,
    /// Peak bytes of tensors on the rank with the most.
    pub peak: u64,
}

/// Runs one step several times from the initial weights. Writes nothing. All ranks call it.
///
/// # Errors
/// As [`Session::open`] and [`Stepper::step`]; exit 4 if every step is skipped.
pub fn steps(config: &Config, comm: &Arc<dyn Collective>, sampler: &Sampler, step: u64) -> Result<Measured> {
    let session = Session::open(config.clone(), Arc::clone(comm), None)?;
    let per_epoch = sampler.steps_per_epoch();
    let schedule = schedule::schedule(config, settings::total_steps(config, per_epoch), per_epoch);
    let Session { groups, loaded, teacher, data, .. } = session;
    let Loaded { model, params, weights, names, .. } = loaded;
    let scaler = settings::scaler(config, None);
    let mut stepper = Stepper::new(config, groups, (model, params, weights), &names, schedule, scaler)?;
    stepper.teacher = teacher;
    let (dataset, device) = (Arc::new(data.train.dataset), comm.device());
    memory_report::reset(device)?;
    let seconds = time_steps(|| {
        let (dataset, sampler) = (Arc::clone(&dataset), sampler.clone());
        let mut taken = None;
        for input in feed::feed(dataset, sampler, config.seed, comm.rank(), device, step + 1, step + 1)? {
            let input = input?;
            comm.barrier("a measured step")?;
            let began = Instant::now();
            let outcome = stepper.step(input, false)?;
            stepper.weights.settle()?;
            // The optimizer's kernels may still be running.
            synchronize(device)?;
            taken = outcome.filter(|outcome| !outcome.skipped).map(|_| began.elapsed().as_secs_f64());
        }
        Ok(taken)
    })?;
    let mut most = [median(seconds), Bytes::peak(device, stepper.kept()).total as f64];
    comm.all_reduce_f64(&mut most, Op::Max, "what was measured")?;
    Ok(Measured { seconds: most[0], peak: most[1] as u64 })
}

/// Times `STEPS` steps after the warm-up. `step` returns `None` if it was skipped: a skipped step has no update.
fn time_steps(mut step: impl FnMut() -> Result<Option<f64>>) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..WARM_UP + STEPS + SKIPPED {
        seconds.extend(step()?);
        if seconds.len() == WARM_UP + STEPS {
            return Ok(seconds.split_off(WARM_UP));
        }
    }
    Err(Error::new(
        error::Kind::NonFinite,
        format!(
            "--measure: more than {SKIPPED} steps were skipped (NaN or Inf): run `trainer train` to find the cause"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_steps_are_not_timed() {
        // Overflows before the first step that fits, and one among the timed steps.
        let results = [None, None, Some(9.0), Some(1.0), None, Some(2.0), Some(3.0), Some(4.0), Some(5.0), Some(6.0)];
        let mut results = results.into_iter();
        let found = time_steps(|| Ok(results.next().unwrap())).unwrap();
        assert_eq!((found, results.next()), (vec![1.0, 2.0, 3.0, 4.0, 5.0], Some(Some(6.0))));
        assert!(time_steps(|| Ok(None)).unwrap_err().to_string().contains("were skipped"));
    }
}
