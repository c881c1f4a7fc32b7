//! A short sweep over collectives and sizes: measures their time and checks their results.

use super::facts::{Sweep, Timing, Wrong};
use super::gather::gather;
use crate::comm::{Action, Collective, Op};
use crate::error::Result;
use crate::ffi::device::synchronize;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use tch::{Device, Tensor};

/// From 1 KB to 64 MB.
const SIZES: [u64; 9] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];
/// Period of the values in elements. They are small integers, whose sums over any number of ranks are exact in f32.
const PERIOD: usize = 64;

/// Maximum seconds for the calls of one size, and the minimum and maximum number of calls.
const ENOUGH: f64 = 0.2;
const CALLS: (usize, usize) = (2, 20);

/// The results of one rank.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    seconds: Vec<f64>,
    wrong: Option<Wrong>,
}

/// Times and checks each collective at each size on the device of this backend's ranks. All ranks call it. Calls
/// `before` before each measurement. On an error, `sweep` has the results so far.
///
/// Time is the mean over calls and ranks. The bandwidths are defined as in nccl-tests (`doc/PERFORMANCE.md`): the
/// algorithm bandwidth of n ranks is the buffer size divided by the time; the bus bandwidth is that times 2 (n - 1) / n
/// for an all-reduce, and times (n - 1) / n for the others.
///
/// # Errors
/// Errors of a collective, which name the late rank.
pub fn run(comm: &dyn Collective, sweep: &mut Sweep, mut before: impl FnMut(String)) -> Result<()> {
    sweep.backend = comm.name().to_owned();
    let mut own = Own::default();
    for action in Action::OF_A_STEP {
        for size in SIZES {
            // Equal shards of f32 values.
            let elements = (size as usize / size_of::<f32>()).next_multiple_of(comm.world());
            let bytes = (elements * size_of::<f32>()) as u64;
            before(format!("{} of {bytes} bytes", action.name()));
            let case = Case { comm, action, elements };
            let (seconds, wrong) = case.run()?;
            own.seconds.push(seconds);
            own.wrong = own.wrong.or(wrong);
            sweep.rows.push(timing(action, bytes, seconds, comm.world()));
        }
    }
    before("the results of the sweep".to_owned());
    let all = gather(comm, &own, "the results of the sweep")?;
    for (at, row) in sweep.rows.iter_mut().enumerate() {
        let seconds = all.iter().filter_map(|own| own.seconds.get(at)).sum::<f64>() / all.len() as f64;
        *row = timing(Action::OF_A_STEP[at / SIZES.len()], row.bytes, seconds, comm.world());
    }
    sweep.wrong = all.into_iter().find_map(|own| own.wrong);
    Ok(())
}

fn timing(action: Action, bytes: u64, seconds: f64, world: usize) -> Timing {
    let algorithm_bandwidth = bytes as f64 / seconds.max(1e-9);
    let times = if matches!(action, Action::AllReduce(_)) { 2.0 } else { 1.0 };
    let bus_bandwidth = algorithm_bandwidth * times * (world as f64 - 1.0) / world as f64;
    Timing { collective: action.name().to_owned(), bytes, seconds, algorithm_bandwidth, bus_bandwidth }
}

/// Result of a call with known values.
struct Checked {
    buffer: Tensor,
    shard: Option<Tensor>,
    wrong: Option<Wrong>,
    seconds: f64,
}

/// One collective at one size.
struct Case<'a> {
    comm: &'a dyn Collective,
    action: Action,
    elements: usize,
}

impl Case<'_> {
    /// Returns the mean seconds of a call on this rank, and the first wrong value.
    fn run(&self) -> Result<(f64, Option<Wrong>)> {
        // The first call also initializes connections.
        let first = self.check()?;
        // The same number of calls on all ranks.
        let mut slowest = [first.seconds];
        self.comm.all_reduce_f64(&mut slowest, Op::Max, "before timing")?;
        let calls = ((ENOUGH / slowest[0].max(1e-9)) as usize).clamp(CALLS.0, CALLS.1);
        let since = Instant::now();
        for _ in 0..calls {
            self.call(&first.buffer, first.shard.as_ref())?;
        }
        synchronize(self.comm.device())?;
        let seconds = since.elapsed().as_secs_f64() / calls as f64;
        // Check the values again after the warm-up.
        let wrong = first.wrong.or(self.check()?.wrong);
        Ok((seconds, wrong))
    }

    /// Runs the collective once with known values.
    fn check(&self) -> Result<Checked> {
        let (rank, world, device) = (self.comm.rank(), self.comm.world(), self.comm.device());
        let (n, part) = (self.elements, self.elements / world);
        let values = |of: &dyn Fn(usize) -> f32| -> Vec<f32> { (0..PERIOD).map(of).collect() };
        let own = values(&|i| value(rank, i));
        let sums = values(&|i| (0..world).map(|r| value(r, i)).sum());
        let zeros = |n| repeated(&[0.0], 0, n, device);
        let (buffer, shard) = match self.action {
            Action::ReduceScatter => (repeated(&own, 0, n, device), Some(zeros(part))),
            Action::AllGather => (zeros(n), Some(repeated(&own, 0, part, device))),
            _ => (repeated(&own, 0, n, device), None),
        };
        let since = Instant::now();
        self.call(&buffer, shard.as_ref())?;
        synchronize(self.comm.device())?;
        let seconds = since.elapsed().as_secs_f64();
        let wrong = match (self.action, &shard) {
            (Action::ReduceScatter, Some(shard)) => self.compare(shard, &repeated(&sums, rank * part, part, device), 0),
            (Action::AllGather, _) => (0..world).find_map(|r| {
                let got = buffer.narrow(0, (r * part) as i64, part as i64);
                self.compare(&got, &repeated(&values(&|i| value(r, i)), 0, part, device), r * part)
            }),
            _ => self.compare(&buffer, &repeated(&sums, 0, n, device), 0),
        };
        if matches!(self.action, Action::AllReduce(_)) {
            // Repeated sums would overflow.
            _ = buffer.shallow_clone().zero_();
        }
        Ok(Checked { buffer, shard, wrong, seconds })
    }

    fn call(&self, buffer: &Tensor, shard: Option<&Tensor>) -> Result<()> {
        self.comm.start(self.action, buffer, shard, &format!("the sweep's {}", self.action.name()))?.wait()
    }

    /// Returns the first wrong element; `first` is the index of the tensor's first element.
    fn compare(&self, got: &Tensor, expected: &Tensor, first: usize) -> Option<Wrong> {
        if got.equal(expected) {
            return None;
        }
        let at = got.ne_tensor(expected).to_device(Device::Cpu).nonzero().view([-1]).int64_value(&[0]);
        Some(Wrong {
            collective: self.action.name().to_owned(),
            bytes: (self.elements * size_of::<f32>()) as u64,
            rank: self.comm.rank(),
            element: first + at as usize,
            expected: expected.double_value(&[at]),
            found: got.double_value(&[at]).to_string(),
        })
    }
}

fn value(rank: usize, element: usize) -> f32 {
    ((element + 7 * rank) % PERIOD) as f32
}

/// Returns `n` elements that repeat `values`, starting at index `first`.
fn repeated(values: &[f32], first: usize, n: usize, device: Device) -> Tensor {
    let rotated: Vec<f32> = (0..values.len()).map(|i| values[(first + i) % values.len()]).collect();
    let times = n.div_ceil(values.len()) as i64;
    Tensor::from_slice(&rotated).to_device(device).repeat([times]).narrow(0, 0, n as i64).contiguous()
}

#[cfg(test)]
mod tests;
