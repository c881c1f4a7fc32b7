//! What a run writes.

use crate::nn::params::ParamSpec;
use tch::Kind;

/// Bytes of a run's files; headers, tokenizer and states, some hundred kilobytes, are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// `final/`, or a checkpoint's weights alone.
    pub model: u64,
    /// A checkpoint: weights, AdamW's two moments, in half precision the fp32 masters.
    pub checkpoint: u64,
    /// Checkpoints that lie in the folder at a time.
    pub checkpoints: u64,
    /// The most that the folder holds: these, one that is being written before an old one goes, and `final/`.
    pub most: u64,
}

/// When checkpoints are written and which stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saving {
    /// Checkpoints over the whole run.
    pub saves: u64,
    /// `train.save_total_limit`
    pub limit: Option<usize>,
    /// Whether the best one stays beside them.
    pub keeps_best: bool,
}

impl Storage {
    /// For parameters that are computed with in this type.
    pub fn of(specs: &[ParamSpec], compute: Kind, saving: Saving) -> Self {
        let count = |trained: bool| -> u64 {
            specs.iter().filter(|spec| spec.trainable || !trained).map(|spec| spec.numel() as u64).sum()
        };
        let state = if compute == Kind::Float { 8 } else { 12 };
        let model = compute.elt_size_in_bytes() as u64 * count(false);
        let checkpoint = model + state * count(true);
        let kept = saving.limit.map(|limit| limit as u64 + u64::from(saving.keeps_best));
        let checkpoints = kept.map_or(saving.saves, |kept| kept.min(saving.saves));
        let extra = u64::from(saving.saves > checkpoints);
        Storage { model, checkpoint, checkpoints, most: (checkpoints + extra) * checkpoint + model }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Init, ParamBuilder};

    #[test]
    fn twelve_or_fourteen_bytes_a_parameter() {
        let mut b = ParamBuilder::new();
        b.weight("trained", &[30, 30], Init::Zeros);
        b.weight("frozen", &[10, 10], Init::Zeros);
        let mut specs = b.finish();
        specs[1].trainable = false;
        let saving = Saving { saves: 7, limit: Some(2), keeps_best: false };
        let fp32 = Storage::of(&specs, Kind::Float, saving);
        assert_eq!((fp32.model, fp32.checkpoint), (4000, 900 * 12 + 400));
        assert_eq!((fp32.checkpoints, fp32.most), (2, 3 * fp32.checkpoint + fp32.model));
        let all = Storage::of(&specs, Kind::BFloat16, Saving { limit: None, ..saving });
        assert_eq!((all.checkpoint, all.checkpoints, all.most), (900 * 14 + 200, 7, 7 * (900 * 14 + 200) + 2000));
        let best = Storage::of(&specs, Kind::Float, Saving { saves: 3, keeps_best: true, ..saving });
        assert_eq!((best.checkpoints, best.most), (3, 3 * best.checkpoint + best.model));
    }
}
