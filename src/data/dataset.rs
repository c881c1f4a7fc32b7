//! Tokenized examples in columns, in memory or mapped from the token cache.

use super::augment::Augmentation;
use super::collation::Collation;
use super::column::Column;
use super::example::{Example, Inputs, Label, NO_LABEL};
use super::mixture::Mixture;
use super::objective::Objective;
use super::random::RandomKey;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Tokenized examples. All have the same kind of label. A clone shares the columns.
#[derive(Clone)]
pub struct Dataset {
    pub(super) columns: Arc<Columns>,
    pub(super) shape: Shape,
    pub(super) fingerprint: [u8; 32],
    /// Number of examples, if the stored examples are repeated.
    pub(super) repeated: Option<usize>,
    pub(super) objective: Objective,
    /// How examples change in each epoch of training.
    pub(super) augmentation: Option<Arc<Augmentation>>,
    /// Whether the sampler draws all classes equally often.
    pub(super) balanced: bool,
    /// How the sampler mixes the sources, if they have weights.
    pub(super) mixture: Option<Arc<Mixture>>,
}

pub(super) struct Columns {
    /// `[N + 1]`: offset of each example's first token.
    pub offsets: Column<u64>,
    /// `[tokens]`
    pub ids: Column<u32>,
    /// `[tokens]`
    pub type_ids: Column<u8>,
    /// `[N + 1]`: offset of each example's first sequence in `lengths`; empty when all examples have one sequence.
    pub sequences: Column<u64>,
    /// Number of tokens of each sequence.
    pub lengths: Column<u32>,
    /// The labels: a fixed number of values per example, or per token, by the kind of label.
    pub labels: Column<u32>,
    /// `[tokens]`: which tokens begin a word ([`crate::text::words`]); empty if it is not known.
    pub words: Column<u8>,
    /// `[N]`: the bits of each example's weight; empty if all have the same.
    pub weights: Column<u32>,
}

/// The interpretation of the columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub labels: LabelKind,
    pub collation: Collation,
    /// Number of examples of each source; empty if there is one.
    #[serde(default)]
    pub sources: Vec<usize>,
}

/// The kind of a data set's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LabelKind {
    None,
    Class,
    Value,
    /// This many flags per example.
    Flags(usize),
    Span,
    Tokens,
    TokensAndClass,
}

impl LabelKind {
    fn of(label: &Label) -> Self {
        match label {
            Label::None => LabelKind::None,
            Label::Class(_) => LabelKind::Class,
            Label::Value(_) => LabelKind::Value,
            Label::Flags(flags) => LabelKind::Flags(flags.len()),
            Label::Span { .. } => LabelKind::Span,
            Label::Tokens(_) => LabelKind::Tokens,
            Label::TokensAndClass(..) => LabelKind::TokensAndClass,
        }
    }

    /// Returns the number of values per example and per token.
    fn width(self) -> (usize, usize) {
        match self {
            LabelKind::None => (0, 0),
            LabelKind::Class | LabelKind::Value => (1, 0),
            LabelKind::Flags(n) => (n, 0),
            LabelKind::Span => (2, 0),
            LabelKind::Tokens => (0, 1),
            LabelKind::TokensAndClass => (1, 1),
        }
    }
}

impl Dataset {
    /// Collects examples into columns. `collation` defines how they become batches; `fingerprint` is the hash of the
    /// content and of every setting that affects it.
    ///
    /// # Panics
    /// If an example's segments or lengths disagree with its ids, or if the examples have different kinds of labels.
    pub fn new(examples: impl IntoIterator<Item = Example>, collation: Collation, fingerprint: [u8; 32]) -> Self {
        let (mut offsets, mut ids, mut type_ids) = (vec![0], Vec::new(), Vec::new());
        let (mut sequences, mut lengths, mut labels) = (vec![0], Vec::new(), Vec::new());
        let mut kind = None;
        for example in examples {
            let n = example.ids.len();
            assert_eq!(n, example.type_ids.len(), "one segment for each token");
            assert_eq!(n, example.lengths.iter().map(|&n| n as usize).sum::<usize>(), "sequences of all tokens");
            let found = LabelKind::of(&example.label);
            assert_eq!(found, *kind.get_or_insert(found), "one kind of label for all examples");
            ids.extend_from_slice(&example.ids);
            type_ids.extend_from_slice(&example.type_ids);
            offsets.push(ids.len() as u64);
            lengths.extend_from_slice(&example.lengths);
            sequences.push(lengths.len() as u64);
            match example.label {
                Label::None => {}
                Label::Class(class) => labels.push(class),
                Label::Value(value) => labels.push(value.to_bits()),
                Label::Flags(flags) => labels.extend(flags.into_iter().map(u32::from)),
                Label::Span { start, end } => labels.extend([start, end]),
                Label::Tokens(tokens) => labels.extend(of_tokens(tokens, n)),
                Label::TokensAndClass(tokens, class) => labels.extend(of_tokens(tokens, n).chain([class])),
            }
        }
        if sequences.windows(2).all(|pair| pair[1] - pair[0] == 1) {
            (sequences, lengths) = (Vec::new(), Vec::new());
        }
        let columns = Columns {
            offsets: offsets.into(),
            ids: ids.into(),
            type_ids: type_ids.into(),
            sequences: sequences.into(),
            lengths: lengths.into(),
            labels: labels.into(),
            words: Vec::new().into(),
            weights: Vec::new().into(),
        };
        let labels = kind.unwrap_or(LabelKind::None);
        Dataset::of(columns, Shape { labels, collation, sources: Vec::new() }, fingerprint)
    }

    pub(super) fn of(columns: Columns, shape: Shape, fingerprint: [u8; 32]) -> Self {
        let (columns, objective) = (Arc::new(columns), Objective::default());
        let (repeated, augmentation, balanced, mixture) = (None, None, false, None);
        Dataset { columns, shape, fingerprint, repeated, objective, augmentation, balanced, mixture }
    }

    /// Repeats the stored examples up to this number: assumed data takes no memory.
    pub fn repeated(self, examples: usize) -> Self {
        Dataset { repeated: (!self.is_empty()).then_some(examples), ..self }
    }

    /// Sets how the losses of this data set are computed.
    pub fn with_objective(self, objective: Objective) -> Self {
        Dataset { objective, ..self }
    }

    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.repeated.unwrap_or(self.stored())
    }

    fn stored(&self) -> usize {
        self.columns.offsets.len() - 1
    }

    /// Returns the index of example `i` in the columns.
    pub(super) fn place(&self, i: usize) -> usize {
        if self.repeated.is_some() { i % self.stored() } else { i }
    }

    /// Returns whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of example `i`.
    pub fn length(&self, i: usize) -> usize {
        self.range(i).len()
    }

    /// Number of tokens of every example.
    pub fn lengths(&self) -> Vec<u32> {
        let stored = self.columns.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32);
        stored.cycle().take(self.len()).collect()
    }

    pub fn total_tokens(&self) -> u64 {
        match self.repeated {
            None => self.columns.ids.len() as u64,
            Some(_) => self.lengths().into_iter().map(u64::from).sum(),
        }
    }

    /// The token ids of example `i`, `[length(i)]`.
    pub fn ids(&self, i: usize) -> &[u32] {
        &self.columns.ids[self.range(i)]
    }

    /// The segment ids of example `i`'s tokens, `[length(i)]`.
    pub fn type_ids(&self, i: usize) -> &[u8] {
        &self.columns.type_ids[self.range(i)]
    }

    /// Number of tokens of each sequence of example `i`; they add up to `length(i)`.
    pub fn sequences(&self, i: usize) -> Vec<u32> {
        let place = self.place(i);
        match self.columns.sequences.get(place..place + 2) {
            Some(&[start, end]) => self.columns.lengths[start as usize..end as usize].to_vec(),
            _ => vec![self.length(i) as u32],
        }
    }

    /// Number of tokens of the longest sequence.
    pub fn longest_sequence(&self) -> usize {
        let Columns { offsets, lengths, .. } = &*self.columns;
        let of_examples = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max();
        let of_several = lengths.iter().map(|&length| length as usize).max();
        of_several.or(of_examples).unwrap_or(0)
    }

    pub fn label_kind(&self) -> LabelKind {
        self.shape.labels
    }

    pub fn label(&self, i: usize) -> Label {
        let (example, token) = self.shape.labels.width();
        let (i, tokens) = (self.place(i), self.range(i));
        let numbers = &self.columns.labels[example * i + token * tokens.start..example * (i + 1) + token * tokens.end];
        let of_tokens = || numbers[..tokens.len()].iter().map(|&class| class.cast_signed()).collect();
        match self.shape.labels {
            LabelKind::None => Label::None,
            LabelKind::Class => Label::Class(numbers[0]),
            LabelKind::Value => Label::Value(f32::from_bits(numbers[0])),
            LabelKind::Flags(_) => Label::Flags(numbers.iter().map(|&flag| flag != 0).collect()),
            LabelKind::Span => Label::Span { start: numbers[0], end: numbers[1] },
            LabelKind::Tokens => Label::Tokens(of_tokens()),
            LabelKind::TokensAndClass => Label::TokensAndClass(of_tokens(), numbers[tokens.len()]),
        }
    }

    /// Returns the number of targets of each of `classes` classes: examples, or labelled tokens.
    pub fn class_counts(&self, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        let mut count = |class: u32| counts.get_mut(class as usize).into_iter().for_each(|count| *count += 1);
        for i in 0..self.len() {
            match self.label(i) {
                Label::Class(class) => count(class),
                Label::Tokens(tokens) => {
                    let labelled = tokens.into_iter().filter(|&class| class != NO_LABEL);
                    labelled.for_each(|class| count(class.cast_unsigned()));
                }
                _ => {}
            }
        }
        counts
    }

    /// Returns the inputs and targets of example `i`: a function of the example and `key` alone, the same on every
    /// rank.
    pub fn inputs(&self, i: usize, key: RandomKey) -> Inputs {
        if self.augmentation.is_some() {
            let example = self.example(i, key.epoch);
            return self.collation().inputs(&example.ids, &example.lengths, example.label, key);
        }
        self.collation().inputs(self.ids(i), &self.sequences(i), self.label(i), key)
    }

    /// The collation, which defines how examples become batches.
    pub fn collation(&self) -> &Collation {
        &self.shape.collation
    }

    /// The hash of data file, tokenizer and settings (the token cache's key): equal hashes mean equal data sets.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub(super) fn range(&self, i: usize) -> Range<usize> {
        let i = self.place(i);
        self.columns.offsets[i] as usize..self.columns.offsets[i + 1] as usize
    }
}

/// Returns token labels as column values.
fn of_tokens(labels: Vec<i32>, tokens: usize) -> impl Iterator<Item = u32> {
    assert_eq!(tokens, labels.len(), "one label for each token");
    labels.into_iter().map(i32::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_give_the_examples_back() {
        let lengths = [3, 1, 0, 4];
        let labels: [fn(u32, usize) -> Label; 7] = [
            |_, _| Label::None,
            |i, _| Label::Class(i),
            |i, _| Label::Value(i as f32 / 3.0),
            |i, _| Label::Flags(vec![i % 2 == 0, i > 1, true]),
            |i, n| Label::Span { start: i, end: n as u32 },
            |i, n| Label::Tokens((0..n as i32).map(|t| t - i as i32).collect()),
            |i, n| Label::TokensAndClass(vec![i as i32 - 2; n], i),
        ];
        for (label, split) in labels.into_iter().zip([false, true].into_iter().cycle()) {
            let example = |i: u32| {
                let n = lengths[i as usize];
                let lengths = if split && n > 1 { vec![1, n as u32 - 1] } else { vec![n as u32] };
                Example { ids: vec![i + 100; n], type_ids: vec![i as u8; n], lengths, label: label(i, n) }
            };
            let examples: Vec<Example> = (0..4).map(example).collect();
            let data = Dataset::new(examples.clone(), Collation::Plain, [7; 32]);
            assert_eq!((data.len(), data.total_tokens(), data.lengths()), (4, 8, vec![3, 1, 0, 4]));
            for (i, example) in examples.iter().enumerate() {
                assert_eq!((data.ids(i), data.type_ids(i)), (&example.ids[..], &example.type_ids[..]));
                assert_eq!((data.label(i), data.sequences(i)), (example.label.clone(), example.lengths.clone()));
                assert_eq!(data.length(i), lengths[i]);
            }
        }
    }

    #[test]
    fn classes_are_counted() {
        let example = |label: Label| Example::single(vec![1, 2, 3], vec![0; 3], label);
        let of = |labels: Vec<Label>| {
            Dataset::new(labels.into_iter().map(example), Collation::Plain, [0; 32]).class_counts(3)
        };
        assert_eq!(of(vec![Label::Class(1), Label::Class(0), Label::Class(1)]), [1, 2, 0]);
        assert_eq!(of(vec![Label::Tokens(vec![NO_LABEL, 2, 1]), Label::Tokens(vec![2, 2, 2])]), [0, 1, 4]);
    }

    #[test]
    fn repeated_examples_are_the_same_ones() {
        let example = |i: u32| Example {
            ids: vec![i; 3 + i as usize],
            type_ids: vec![0; 3 + i as usize],
            lengths: vec![1, 2 + i],
            label: Label::Tokens(vec![i as i32; 3 + i as usize]),
        };
        let data = Dataset::new((0..2).map(example), Collation::Plain, [0; 32]).repeated(5);
        assert_eq!((data.len(), data.total_tokens(), data.lengths()), (5, 17, vec![3, 4, 3, 4, 3]));
        for i in 0..5 {
            let same = example(i as u32 % 2);
            assert_eq!((data.ids(i), data.type_ids(i)), (&same.ids[..], &same.type_ids[..]));
            assert_eq!((data.label(i), data.sequences(i)), (same.label, same.lengths));
        }
    }

    #[test]
    #[should_panic(expected = "one kind of label")]
    fn labels_of_two_kinds_are_a_bug() {
        let example = |label| Example::single(vec![1], vec![0], label);
        Dataset::new([example(Label::None), example(Label::Class(1))], Collation::Plain, [0; 32]);
    }
}
