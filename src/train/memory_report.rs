//! Peak and persistent bytes of tensors on every rank, by use.

use crate::comm::{Collective, Op};
use crate::error::Result;
use crate::ffi::memory::{self, Use};
use crate::observe::memory::human;
use serde_json::{Map, Value, json};
use std::sync::{Mutex, PoisonError};
use tch::Device;

/// Bytes by use, in the order of [`Use::ALL`], and the total; for peaks the peak of the total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    pub by_use: [u64; 5],
    pub total: u64,
}

impl Bytes {
    /// Returns the bytes of this rank's tensors now. On a GPU libtorch has one counter for all tensors: weights,
    /// gradients and optimizer state are taken from `kept`, and the rest counts as activations.
    pub fn held(device: Device, kept: [u64; 3]) -> Self {
        Self::of(device, kept, memory::device_current, |usage| (usage.current, usage.current.iter().sum()))
    }

    /// Returns the peak bytes of this rank's tensors.
    pub fn peak(device: Device, kept: [u64; 3]) -> Self {
        Self::of(device, kept, memory::device_peak, |usage| (usage.peak, usage.total_peak))
    }

    fn of(
        device: Device,
        [weights, gradients, optimizer]: [u64; 3],
        gpu: fn(Device) -> Option<u64>,
        cpu: fn(&memory::Usage) -> ([u64; 5], u64),
    ) -> Self {
        if device == Device::Cpu {
            let (by_use, total) = cpu(&memory::usage());
            return Bytes { by_use, total };
        }
        let total = gpu(device).unwrap_or(0);
        let rest = total.saturating_sub(weights + gradients + optimizer);
        Bytes { by_use: [weights, gradients, optimizer, rest, 0], total }
    }

    fn json(&self) -> Value {
        let parts = Use::ALL.iter().zip(self.by_use).map(|(what, n)| (what.name().into(), json!(n)));
        let mut line: Map<String, Value> = parts.collect();
        line.insert("total".into(), json!(self.total));
        line.into()
    }
}

/// The data of [`account`].
static KEPT: Mutex<Option<(Device, [u64; 3])>> = Mutex::new(None);

/// Sets the data of [`account`]: this rank's device, and its bytes of weights, gradients and optimizer state.
pub fn record_kept(device: Device, kept: [u64; 3]) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some((device, kept));
}

/// Describes the peak bytes of this rank's tensors by use, for out-of-memory errors; `None` before [`record_kept`].
pub fn account() -> Option<String> {
    let (device, kept) = (*KEPT.lock().unwrap_or_else(PoisonError::into_inner))?;
    let mut bytes = Bytes::peak(device, kept);
    if device == Device::Cpu {
        // At the peak of the total, not each use at its own peak.
        bytes.by_use = memory::usage().at_total_peak;
    }
    Some(describe(&bytes))
}

fn describe(bytes: &Bytes) -> String {
    let parts = Use::ALL.iter().zip(bytes.by_use).map(|(what, n)| format!("{} {}", what.name(), human(n)));
    format!("peak memory of its tensors {}: {}", human(bytes.total), parts.collect::<Vec<_>>().join(", "))
}

/// Resets the peaks.
pub fn reset(device: Device) -> Result<()> {
    memory::reset_peaks();
    if device == Device::Cpu { Ok(()) } else { memory::reset_device_peak(device) }
}

/// Number of values of a [`Bytes`] in a collective.
const NUMBERS: usize = Use::ALL.len() + 1;

/// The measurements of every rank.
#[derive(Debug)]
pub struct MemoryReport {
    peak: Vec<Bytes>,
    held: Vec<Bytes>,
}

impl MemoryReport {
    /// Gathers the bytes of each rank. All ranks call it, and all compute on the same kind of device.
    pub fn gather(comm: &dyn Collective, peak: Bytes, held: Bytes) -> Result<Self> {
        let mut all = vec![0.0; comm.world() * 2 * NUMBERS];
        let mine = [peak, held].into_iter().flat_map(|b| b.by_use.into_iter().chain([b.total]));
        for (slot, bytes) in all[comm.rank() * 2 * NUMBERS..].iter_mut().zip(mine) {
            // Exact up to 9 PB.
            *slot = bytes as f64;
        }
        comm.all_reduce_f64(&mut all, Op::Sum, "memory by use")?;
        let bytes = |numbers: &[f64]| Bytes {
            by_use: std::array::from_fn(|i| numbers[i] as u64),
            total: numbers[NUMBERS - 1] as u64,
        };
        let mut rows = all.chunks_exact(NUMBERS).map(bytes);
        let (mut peak, mut held) = (Vec::new(), Vec::new());
        while let (Some(p), Some(h)) = (rows.next(), rows.next()) {
            peak.push(p);
            held.push(h);
        }
        Ok(MemoryReport { peak, held })
    }

    /// The peaks, one object per rank.
    pub fn peak_json(&self) -> Value {
        self.peak.iter().map(Bytes::json).collect()
    }

    /// The bytes after the last step, one object per rank.
    pub fn held_json(&self) -> Value {
        self.held.iter().map(Bytes::json).collect()
    }

    /// Returns a table row for each use and the total: maximum over the ranks of the peak, and after the last step.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let row = |name: &str, pick: &dyn Fn(&Bytes) -> u64| {
            let largest = |of: &[Bytes]| human(of.iter().map(pick).max().unwrap_or_default());
            vec![name.to_owned(), largest(&self.peak), largest(&self.held)]
        };
        let uses = Use::ALL.iter().enumerate().map(|(i, what)| row(what.name(), &|b| b.by_use[i]));
        uses.chain([row("total", &|b| b.total)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use std::thread;
    use std::time::Duration;

    fn reports(of: impl Fn(u64) -> (Bytes, Bytes) + Sync) -> Vec<MemoryReport> {
        thread::scope(|scope| {
            let of = &of;
            let ranks = threads::group(2, Duration::from_secs(20)).into_iter().map(|comm| {
                scope.spawn(move || {
                    let (peak, held) = of(comm.rank() as u64);
                    MemoryReport::gather(comm.as_ref(), peak, held).unwrap()
                })
            });
            ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_all() {
        let of = |rank: u64| {
            let peak = Bytes { by_use: [10 + rank, 20 - rank, 30, 4000, 5], total: 4040 + rank };
            (peak, Bytes { by_use: [10, 20, 30, rank, 0], total: 60 + rank })
        };
        for report in reports(of) {
            assert_eq!((report.peak[1], report.held[0]), (of(1).0, of(0).1));
            assert_eq!(
                report.held_json()[1].to_string(),
                r#"{"weights":10,"gradients":20,"optimizer":30,"activations":1,"communication":0,"total":61}"#
            );
            let rows = report.rows();
            assert_eq!(rows.len(), 6);
            assert_eq!(rows[0], ["weights", "11 B", "10 B"]);
            assert_eq!(rows[1], ["gradients", "20 B", "20 B"]);
            assert_eq!(rows[3], ["activations", "4.0 kB", "1 B"]);
            assert_eq!(rows[5], ["total", "4.0 kB", "61 B"]);
        }
    }

    #[test]
    fn on_a_gpu_activations_are_the_rest() {
        let bytes = Bytes::of(Device::Cuda(0), [100, 200, 300], |_| Some(1000), |_| panic!("not the CPU"));
        assert_eq!(bytes, Bytes { by_use: [100, 200, 300, 400, 0], total: 1000 });
    }

    #[test]
    fn cpu_tensors_are_measured() {
        memory::install();
        let kept = memory::during(Use::Optimizer, || tch::Tensor::zeros([1000], (tch::Kind::Double, Device::Cpu)));
        let (held, peak) = (Bytes::held(Device::Cpu, [0; 3]), Bytes::peak(Device::Cpu, [0; 3]));
        let of = |bytes: &Bytes| bytes.by_use[Use::Optimizer as usize];
        assert!(of(&held) >= 8000 && of(&peak) >= of(&held) && peak.total >= 8000, "{held:?} {peak:?}");
        record_kept(Device::Cpu, [0; 3]);
        assert!(account().is_some_and(|text| text.starts_with("peak memory of its tensors ")));
        drop(kept);
    }

    #[test]
    fn an_account_lists_memory_by_use() {
        let bytes = Bytes { by_use: [10, 20, 30, 4000, 5], total: 4065 };
        let wanted = "peak memory of its tensors 4.1 kB: weights 10 B, gradients 20 B, optimizer 30 B, \
                      activations 4.0 kB, communication 5 B";
        assert_eq!(describe(&bytes), wanted);
    }
}
