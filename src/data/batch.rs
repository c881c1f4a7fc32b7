//! The tensors of a micro-batch.

use crate::data::dataset::Dataset;
use crate::data::example::Label;
use crate::data::ragged::Sequences;
use tch::{Device, Tensor};

/// A micro-batch of B sequences with T tokens in all.
#[derive(Debug)]
pub struct Batch {
    /// i64 `[T]`.
    pub tokens: Tensor,
    /// i64 `[T]`: 0 in the first text of a pair, 1 in the second.
    pub segments: Tensor,
    /// i64 `[T]`: from 0 in each sequence.
    pub positions: Tensor,
    pub sequences: Sequences,
    pub labels: Labels,
    /// The samples' indices in the data set, one a sequence.
    pub samples: Vec<u32>,
}

/// The targets of a micro-batch.
#[derive(Debug)]
pub enum Labels {
    None,
    /// i64 `[B]`.
    Classes(Tensor),
    /// f32 `[B]`.
    Values(Tensor),
}

impl Batch {
    /// Puts these samples of a data set one after another.
    pub fn collate(dataset: &Dataset, samples: &[u32], device: Device) -> Self {
        let ids = samples.iter().map(|&i| i as usize);
        let widen = |bytes: &[u8]| bytes.iter().map(|&b| i64::from(b)).collect::<Vec<_>>();
        let tokens: Vec<i64> = ids.clone().flat_map(|i| dataset.ids(i).iter().map(|&t| i64::from(t))).collect();
        let segments: Vec<i64> = ids.clone().flat_map(|i| widen(dataset.type_ids(i))).collect();
        let lengths = ids.clone().map(|i| dataset.length(i) as i64).collect();
        let sequences = Sequences::new(lengths, device);
        let labels: Vec<Label> = ids.map(|i| dataset.label(i)).collect();
        Batch {
            tokens: Tensor::from_slice(&tokens).to_device(device),
            segments: Tensor::from_slice(&segments).to_device(device),
            positions: sequences.positions(),
            sequences,
            labels: Labels::new(&labels, device),
            samples: samples.to_vec(),
        }
    }

    /// The number of sequences, B.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether a rank that is short of work got no sequence.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

impl Labels {
    fn new(labels: &[Label], device: Device) -> Self {
        let classes: Option<Vec<i64>> =
            labels.iter().map(|l| if let Label::Class(c) = l { Some(i64::from(*c)) } else { None }).collect();
        let values: Option<Vec<f32>> =
            labels.iter().map(|l| if let Label::Value(v) = l { Some(*v) } else { None }).collect();
        match (classes, values) {
            _ if labels.is_empty() => Labels::None,
            (Some(classes), _) => Labels::Classes(Tensor::from_slice(&classes).to_device(device)),
            (_, Some(values)) => Labels::Values(Tensor::from_slice(&values).to_device(device)),
            _ => Labels::None,
        }
    }
}
