//! Estimates the disk space of a run.

use crate::nn::param_builder::ParamSpec;
use tch::Kind;

/// Disk space of a run in bytes, without headers, tokenizer and trainer state (a few hundred kilobytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// `final/`, or only the weights of a checkpoint.
    pub model: u64,
    /// A checkpoint: weights, optimizer state and, in half precision, the fp32 master weights.
    pub checkpoint: u64,
    /// Maximum number of checkpoints kept at a time.
    pub checkpoints: u64,
    /// Maximum total: these checkpoints, one being written before an old one is removed, and `final/`.
    pub most: u64,
}

/// The number of checkpoints written and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saving {
    /// Number of checkpoints written in the whole run.
    pub saves: u64,
    /// `train.save_total_limit`
    pub limit: Option<usize>,
    /// Whether the best checkpoint is always kept; it counts towards the limit, like the latest one.
    pub keeps_best: bool,
}

impl Storage {
    /// Estimates the disk space for parameters with this compute dtype and these bytes of optimizer state.
    pub fn of(specs: &[ParamSpec], compute: Kind, state: u64, saving: Saving) -> Self {
        let count = |trained: bool| -> u64 {
            specs.iter().filter(|spec| spec.trainable || !trained).map(|spec| spec.numel() as u64).sum()
        };
        let master = if compute == Kind::Float { 0 } else { 4 };
        // Of a model with adapters, only what is trained is saved.
        let model = compute.elt_size_in_bytes() as u64 * count(specs.iter().any(|spec| spec.adapter));
        let checkpoint = model + state + master * count(true);
        let least = if saving.keeps_best { 2 } else { 1 };
        let kept = saving.limit.map(|limit| (limit as u64).max(least));
        let checkpoints = kept.map_or(saving.saves, |kept| kept.min(saving.saves));
        let extra = u64::from(saving.saves > checkpoints);
        Storage { model, checkpoint, checkpoints, most: (checkpoints + extra) * checkpoint + model }
    }
}

/// Number of steps of a run that are a multiple of one of these intervals, or the last step; 0 without an interval.
pub fn written(every: [Option<u64>; 2], steps: u64) -> u64 {
    let multiples = |n: u64| steps / n.max(1);
    let both = match every {
        [None, None] => return 0,
        [Some(a), Some(b)] => (a / divisor(a, b).max(1)).checked_mul(b).map_or(0, multiples),
        _ => 0,
    };
    let numbers = every.into_iter().flatten();
    let last = u64::from(!numbers.clone().any(|n| steps.is_multiple_of(n)));
    numbers.map(multiples).sum::<u64>() - both + last
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, ParamBuilder};

    #[test]
    fn a_parameter_takes_twelve_or_fourteen_bytes() {
        let mut b = ParamBuilder::new();
        b.weight("trained", &[30, 30], Init::Zeros);
        b.weight("frozen", &[10, 10], Init::Zeros);
        let mut specs = b.finish();
        specs[1].trainable = false;
        let saving = Saving { saves: 7, limit: Some(2), keeps_best: false };
        let fp32 = Storage::of(&specs, Kind::Float, 8 * 900, saving);
        assert_eq!((fp32.model, fp32.checkpoint), (4000, 900 * 12 + 400));
        assert_eq!((fp32.checkpoints, fp32.most), (2, 3 * fp32.checkpoint + fp32.model));
        let all = Storage::of(&specs, Kind::BFloat16, 8 * 900, Saving { limit: None, ..saving });
        assert_eq!((all.checkpoint, all.checkpoints, all.most), (900 * 14 + 200, 7, 7 * (900 * 14 + 200) + 2000));
        // The best checkpoint counts, as in `RunDir::rotate`, but the latest one is also kept.
        let best = |limit| {
            Storage::of(&specs, Kind::Float, 8 * 900, Saving { saves: 7, limit: Some(limit), keeps_best: true })
        };
        assert_eq!([3, 2, 1].map(|limit| best(limit).checkpoints), [3, 2, 2]);
        assert_eq!(best(1).most, 3 * best(1).checkpoint + best(1).model);
    }

    #[test]
    fn steps_that_save_are_counted_once() {
        assert_eq!([20, 22].map(|steps| written([None, Some(5)], steps)), [4, 5]);
        // 4, 6, 8, 12, 16, 18, 20, and the last.
        assert_eq!([20, 22].map(|steps| written([Some(4), Some(6)], steps)), [7, 8]);
        assert_eq!(written([Some(10), Some(30)], 20), 2);
        assert_eq!(written([Some(u64::MAX - 1), Some(u64::MAX)], 20), 1);
        assert_eq!(written([None, None], 20), 0);
    }
}
