//! The tensors of a micro-batch.

use crate::data::collation::Collation;
use crate::data::dataset::{Dataset, LabelKind};
use crate::data::example::{Example, Label};
use crate::data::objective;
use crate::data::ragged::{Cross, Sequences, padded_positions};
use crate::data::random::RandomKey;
use crate::error::Result;
use crate::ffi::transfer::{self, Arrival};
use std::sync::OnceLock;
use tch::{Device, Tensor};

/// A packed micro-batch of B examples: S sequences (S = B except for choices and packed documents) with T tokens in
/// total.
#[derive(Debug)]
pub struct Batch {
    /// i64 `[T]`.
    pub tokens: Tensor,
    /// The same in host memory, for sizes that depend on them.
    pub ids: Vec<i64>,
    /// i64 `[T]`: 0 in the first text of a pair, 1 in the second.
    pub segments: Tensor,
    pub sequences: Sequences,
    /// The decoder's side of an encoder-decoder.
    pub decoder: Option<Decoder>,
    pub labels: Labels,
    /// The examples' indices in the data set, `[B]`.
    pub samples: Vec<u32>,
    /// Number of sequences of each example, `[B]`; they add up to S.
    pub widths: Vec<usize>,
    /// The sum of the targets' weights of each loss term: the denominators of the mean losses. Without weights of
    /// classes or examples, the numbers of targets.
    pub weights: Vec<f64>,
    /// f32 `[B]`: the weight of each example's loss.
    pub example_weights: Option<Tensor>,
    /// f32 `[C]`, of the classes.
    pub class_weights: Option<Tensor>,
    pub label_smoothing: f64,
    pub noise: Option<Noise>,
    /// What a teacher answers to this batch, if there is one; set when the batch is used.
    pub taught: Option<Taught>,
    /// The loss against the whole global batch, if the task has such a loss; set when the batch is used.
    pub contrast: OnceLock<Contrast>,
    /// [`padded_positions`] of the scores among which a span or a choice is selected; `None` without such labels.
    pub score_positions: Option<Tensor>,
}

/// The decoder's input: one sequence for each of the encoder's, shifted right by the start token.
#[derive(Debug)]
pub struct Decoder {
    /// i64 `[D]`, D the number of the decoder's tokens.
    pub tokens: Tensor,
    pub sequences: Sequences,
    pub noise: Option<Noise>,
    /// Cross-attention to the encoder's tokens.
    pub cross: Cross,
}

/// Noise on the token embeddings (NEFTune).
#[derive(Debug)]
pub struct Noise {
    /// i64 `[T]`: the key of each token's noise, a function of its sequence and the step.
    pub keys: Tensor,
    /// f32 `[T, 1]`: alpha / sqrt(L) for a token of a sequence with L tokens. The bound of the noise is that divided by
    /// the root of the embeddings' width (arXiv 2310.05914, algorithm 1).
    pub scales: Tensor,
}

/// The outputs of a teacher for a micro-batch.
#[derive(Debug)]
pub struct Taught {
    /// The logits of the task's head, f32, in the order of the student's labels.
    pub logits: Vec<Tensor>,
    /// The temperature at which they are compared with the student's.
    pub temperature: f64,
}

/// The loss of a micro-batch's examples among those of the global batch, computed before backward.
#[derive(Debug)]
pub struct Contrast {
    /// f32 `[B]`: the loss of each example.
    pub losses: Tensor,
    /// f32 `[S, width]`: the gradient of the sum of all losses of the global batch, by each sequence's embedding.
    pub gradients: Tensor,
}

/// The targets of a micro-batch.
#[derive(Debug)]
pub enum Labels {
    None,
    /// i64 `[B]`.
    Classes(Tensor),
    /// f32 `[B]`.
    Values(Tensor),
    /// f32 `[B, C]`, 0 or 1.
    Flags(Tensor),
    /// i64 `[B, 2]`: the first and the last token of the answer, relative to the sequence.
    Spans(Tensor),
    /// Classes of tokens.
    Tokens(Targets),
    /// Target tokens without known classes: the classes are placeholders.
    Blanks(Targets),
    /// Classes of tokens, and i64 `[B]` of the examples.
    TokensAndClasses(Targets, Tensor),
}

/// Target tokens, n of them. Only their rows go through a head.
#[derive(Debug)]
pub struct Targets {
    /// i64 `[n]`: rows of `tokens`, or of the decoder's tokens if there is a decoder.
    pub positions: Tensor,
    /// i64 `[n]`.
    pub classes: Tensor,
    /// `[n]`: the index in the batch of each target's example, ascending.
    pub owners: Vec<usize>,
}

/// The columns of a batch under construction.
#[derive(Default)]
struct Columns {
    tokens: Vec<i64>,
    segments: Vec<i64>,
    lengths: Vec<i64>,
    decoder: Vec<i64>,
    decoder_lengths: Vec<i64>,
    positions: Vec<i64>,
    classes: Vec<i64>,
    owners: Vec<usize>,
    widths: Vec<usize>,
}

impl Batch {
    /// Collates these samples of a data set into a batch on a device.
    ///
    /// # Errors
    /// Out of memory; libtorch's.
    pub fn on(device: Device, dataset: &Dataset, samples: &[u32], key: RandomKey) -> Result<Self> {
        let mut batch = Self::collate(dataset, samples, key);
        batch.upload(Vec::new(), device)?.wait()?;
        Ok(batch)
    }

    /// Collates these samples of a data set into a batch on the CPU.
    pub fn collate(dataset: &Dataset, samples: &[u32], key: RandomKey) -> Self {
        let mut columns = Columns::default();
        for (owner, &sample) in samples.iter().enumerate() {
            columns.add(dataset, sample as usize, owner, key);
        }
        let Columns { tokens, segments, lengths, decoder, decoder_lengths, positions, classes, owners, widths } =
            columns;
        let ints = |values: &[i64]| Tensor::from_slice(values);
        let alpha = dataset.objective().neftune_alpha;
        let noise = |ids: &[i64], lengths: &[i64]| (alpha > 0.0).then(|| Noise::new(alpha, ids, lengths, key));
        let noise_of_decoder = noise(&decoder, &decoder_lengths);
        let noise = noise(&tokens, &lengths);
        let sequences = Sequences::new(lengths);
        let decoder = (!decoder_lengths.is_empty()).then(|| {
            let own = Sequences::new(decoder_lengths);
            Decoder {
                tokens: ints(&decoder),
                cross: Cross::new(&own, &sequences),
                sequences: own,
                noise: noise_of_decoder,
            }
        });
        let score_positions = match dataset.label_kind() {
            LabelKind::Span => padded_positions(sequences.lengths()),
            LabelKind::Class => padded_positions(&widths.iter().map(|&n| n as i64).collect::<Vec<_>>()),
            _ => None,
        };
        let objective = dataset.objective();
        let of_examples = || Labels::classes(dataset, samples);
        let each: Option<Vec<f32>> =
            dataset.is_weighted().then(|| samples.iter().map(|&i| dataset.weight(i as usize)).collect());
        let weights = match (dataset.collation(), dataset.label_kind()) {
            (_, LabelKind::TokensAndClass) => vec![classes.len() as f64, samples.len() as f64],
            (Collation::Plain, LabelKind::Class) => vec![objective.weight(&of_examples(), each.as_deref())],
            (Collation::Plain, LabelKind::Tokens) => vec![objective.weight(&classes, None)],
            (Collation::Plain, _) => vec![each.as_ref().map_or(samples.len() as f64, |each| objective::sum(each))],
            _ => vec![classes.len() as f64],
        };
        let targets = || Targets { positions: ints(&positions), classes: ints(&classes), owners };
        let labels = match (dataset.collation(), dataset.label_kind()) {
            (_, LabelKind::TokensAndClass) => Labels::TokensAndClasses(targets(), ints(&of_examples())),
            (Collation::Masked(_), LabelKind::None) => Labels::Blanks(targets()),
            (Collation::Plain, LabelKind::Tokens) => Labels::Tokens(targets()),
            (Collation::Plain, _) => Labels::of_examples(dataset, samples),
            _ => Labels::Tokens(targets()),
        };
        Batch {
            tokens: ints(&tokens),
            ids: tokens,
            segments: ints(&segments),
            sequences,
            decoder,
            labels,
            samples: samples.to_vec(),
            widths,
            weights,
            example_weights: each.as_deref().map(Tensor::from_slice),
            class_weights: objective.class_weights.as_deref().map(Tensor::from_slice),
            label_smoothing: objective.label_smoothing,
            noise,
            taught: None,
            contrast: OnceLock::new(),
            score_positions,
        }
    }

    /// Uploads all tensors, and `others` with them, in one asynchronous copy. The thread that uses the batch must wait
    /// for the arrival first.
    ///
    /// # Errors
    /// Out of memory; libtorch's.
    pub fn upload(&mut self, others: Vec<&mut Tensor>, device: Device) -> Result<Arrival> {
        let mut all = others;
        all.extend([&mut self.tokens, &mut self.segments]);
        all.extend(self.sequences.tensors_mut());
        if let Some(decoder) = &mut self.decoder {
            all.push(&mut decoder.tokens);
            all.extend(decoder.noise.iter_mut().flat_map(Noise::tensors_mut));
            all.extend(decoder.sequences.tensors_mut());
            all.extend(decoder.cross.tensors_mut());
        }
        all.extend(self.labels.tensors_mut());
        all.extend(&mut self.class_weights);
        all.extend(&mut self.example_weights);
        all.extend(self.noise.iter_mut().flat_map(Noise::tensors_mut));
        all.extend(&mut self.score_positions);
        transfer::upload(&mut all, device)
    }

    /// Number of examples, B.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns whether the batch has no examples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns the index in the batch of the example of each target of a loss term.
    pub fn owners(&self, term: usize) -> Vec<usize> {
        match &self.labels {
            Labels::Tokens(targets) | Labels::TokensAndClasses(targets, _) if term == 0 => targets.owners.clone(),
            _ => (0..self.len()).collect(),
        }
    }

    /// Returns the number of targets of each loss term.
    pub fn counts(&self) -> Vec<usize> {
        match &self.labels {
            Labels::Tokens(targets) => vec![targets.owners.len()],
            Labels::TokensAndClasses(targets, _) => vec![targets.owners.len(), self.len()],
            _ => vec![self.len()],
        }
    }
}

impl Columns {
    fn add(&mut self, dataset: &Dataset, sample: usize, owner: usize, key: RandomKey) {
        let Example { ids, type_ids, lengths: sequences, label } = dataset.example(sample, key.epoch);
        let inputs = dataset.collation().inputs(&ids, &sequences, label, key);
        let source = match dataset.collation() {
            Collation::SourceTarget { .. } => sequences[0] as usize,
            _ => inputs.ids.len(),
        };
        let (ids, decoder) = inputs.ids.split_at(source);
        let before = if source < inputs.ids.len() { self.decoder.len() } else { self.tokens.len() } as i64;
        self.tokens.extend(ids.iter().map(|&id| i64::from(id)));
        self.segments.extend(type_ids[..source].iter().map(|&segment| i64::from(segment)));
        if decoder.is_empty() {
            self.lengths.extend(sequences.iter().map(|&n| i64::from(n)));
            self.widths.push(sequences.len());
        } else {
            self.lengths.push(source as i64);
            self.widths.push(1);
            self.decoder.extend(decoder.iter().map(|&id| i64::from(id)));
            self.decoder_lengths.push(decoder.len() as i64);
        }
        self.positions.extend(inputs.targets.iter().map(|&(place, _)| before + i64::from(place)));
        self.classes.extend(inputs.targets.iter().map(|&(_, class)| i64::from(class)));
        self.owners.extend(inputs.targets.iter().map(|_| owner));
    }
}

impl Noise {
    fn new(alpha: f64, ids: &[i64], lengths: &[i64], key: RandomKey) -> Self {
        let (mut keys, mut scales, mut rest) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()), ids);
        for &length in lengths {
            let (sequence, after) = rest.split_at(length as usize);
            rest = after;
            let sequence: Vec<u32> = sequence.iter().map(|&id| id as u32).collect();
            let mut random = key.generator(&sequence);
            keys.extend(sequence.iter().map(|_| random.next_u64().cast_signed()));
            scales.extend(sequence.iter().map(|_| (alpha / (length as f64).sqrt()) as f32));
        }
        let scales = Tensor::from_slice(&scales).unsqueeze(1);
        Noise { keys: Tensor::from_slice(&keys), scales }
    }

    /// Returns keys and scales.
    pub fn tensors(&self) -> [&Tensor; 2] {
        [&self.keys, &self.scales]
    }

    fn tensors_mut(&mut self) -> [&mut Tensor; 2] {
        [&mut self.keys, &mut self.scales]
    }
}

impl Labels {
    fn tensors_mut(&mut self) -> Vec<&mut Tensor> {
        match self {
            Labels::None => Vec::new(),
            Labels::Classes(tensor) | Labels::Values(tensor) | Labels::Flags(tensor) | Labels::Spans(tensor) => {
                vec![tensor]
            }
            Labels::Tokens(targets) | Labels::Blanks(targets) => vec![&mut targets.positions, &mut targets.classes],
            Labels::TokensAndClasses(targets, classes) => vec![&mut targets.positions, &mut targets.classes, classes],
        }
    }

    fn of_examples(dataset: &Dataset, samples: &[u32]) -> Self {
        let n = samples.len() as i64;
        let mut spans = Vec::new();
        let mut values = Vec::new();
        for &sample in samples {
            match dataset.label(sample as usize) {
                Label::Value(value) => values.push(value),
                Label::Flags(flags) => values.extend(flags.into_iter().map(|flag| f32::from(u8::from(flag)))),
                Label::Span { start, end } => spans.extend([i64::from(start), i64::from(end)]),
                _ => {}
            }
        }
        match dataset.label_kind() {
            LabelKind::Class => Labels::Classes(Tensor::from_slice(&Self::classes(dataset, samples))),
            LabelKind::Value => Labels::Values(Tensor::from_slice(&values)),
            LabelKind::Flags(_) => Labels::Flags(Tensor::from_slice(&values).view([n, -1])),
            LabelKind::Span => Labels::Spans(Tensor::from_slice(&spans).view([n, 2])),
            _ => Labels::None,
        }
    }

    fn classes(dataset: &Dataset, samples: &[u32]) -> Vec<i64> {
        let class = |&sample: &u32| match dataset.label(sample as usize) {
            Label::Class(class) | Label::TokensAndClass(_, class) => i64::from(class),
            _ => 0,
        };
        samples.iter().map(class).collect()
    }
}
