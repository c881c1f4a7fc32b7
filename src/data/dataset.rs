//! Tokenised examples in columns, in memory or mapped from the token cache.

use super::column::Column;
use super::example::{Example, Label};

/// Tokenised examples. All of them have the same kind of label.
pub struct Dataset {
    pub(super) offsets: Column<u64>,
    pub(super) ids: Column<u32>,
    pub(super) type_ids: Column<u8>,
    pub(super) labels: Labels,
    pub(super) fingerprint: [u8; 32],
}

/// The labels' column: class indices, the bits of f32 numbers, or nothing.
pub(super) enum Labels {
    None,
    Class(Column<u32>),
    Value(Column<u32>),
}

impl Dataset {
    /// Gathers examples into columns. `fingerprint` stands for the content and every setting that shaped it.
    ///
    /// # Panics
    /// If an example's segments differ in number from its ids, or the kinds of labels are mixed: bugs of the caller.
    pub fn new(examples: impl IntoIterator<Item = Example>, fingerprint: [u8; 32]) -> Self {
        let (mut offsets, mut ids, mut type_ids) = (vec![0], Vec::new(), Vec::new());
        let (mut classes, mut values) = (Vec::new(), Vec::new());
        for example in examples {
            assert_eq!(example.ids.len(), example.type_ids.len(), "one segment for each token");
            ids.extend_from_slice(&example.ids);
            type_ids.extend_from_slice(&example.type_ids);
            offsets.push(ids.len() as u64);
            match example.label {
                Label::None => {}
                Label::Class(class) => classes.push(class),
                Label::Value(value) => values.push(value.to_bits()),
            }
        }
        let n = offsets.len() - 1;
        let labels = match (classes.len(), values.len()) {
            (0, 0) => Labels::None,
            (c, 0) if c == n => Labels::Class(classes.into()),
            (0, v) if v == n => Labels::Value(values.into()),
            (c, v) => panic!("{c} class labels and {v} values among {n} examples"),
        };
        Dataset { offsets: offsets.into(), ids: ids.into(), type_ids: type_ids.into(), labels, fingerprint }
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of example `i`.
    pub fn length(&self, i: usize) -> usize {
        (self.offsets[i + 1] - self.offsets[i]) as usize
    }

    /// The tokens of every example.
    pub fn lengths(&self) -> Vec<u32> {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect()
    }

    /// The tokens of all examples together.
    pub fn total_tokens(&self) -> u64 {
        self.ids.len() as u64
    }

    /// The token ids of example `i`, `[length(i)]`.
    pub fn ids(&self, i: usize) -> &[u32] {
        &self.ids[self.range(i)]
    }

    /// The segments of example `i`'s tokens, `[length(i)]`.
    pub fn type_ids(&self, i: usize) -> &[u8] {
        &self.type_ids[self.range(i)]
    }

    /// The label of example `i`.
    pub fn label(&self, i: usize) -> Label {
        match &self.labels {
            Labels::None => Label::None,
            Labels::Class(classes) => Label::Class(classes[i]),
            Labels::Value(bits) => Label::Value(f32::from_bits(bits[i])),
        }
    }

    /// What stands for the content: the data file, the tokenizer, and the settings (the token cache's key). Equal
    /// fingerprints mean equal data sets.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_give_the_examples_back() {
        let lengths = [3, 1, 0, 4];
        for label in [|_| Label::None, |i| Label::Class(i), |i| Label::Value(i as f32 / 3.0)] as [fn(u32) -> Label; 3] {
            let examples: Vec<Example> = (0..4)
                .map(|i| {
                    let n = lengths[i as usize];
                    Example { ids: vec![i + 100; n], type_ids: vec![i as u8; n], label: label(i) }
                })
                .collect();
            let data = Dataset::new(examples.clone(), [7; 32]);
            assert_eq!((data.len(), data.total_tokens(), data.lengths()), (4, 8, vec![3, 1, 0, 4]));
            for (i, example) in examples.iter().enumerate() {
                assert_eq!((data.ids(i), data.type_ids(i)), (&example.ids[..], &example.type_ids[..]));
                assert_eq!((data.label(i), data.length(i)), (example.label, lengths[i]));
            }
        }
    }

    #[test]
    #[should_panic(expected = "1 class labels and 0 values among 2 examples")]
    fn labels_of_two_kinds_are_a_bug() {
        let example = |label| Example { ids: vec![1], type_ids: vec![0], label };
        Dataset::new([example(Label::None), example(Label::Class(1))], [0; 32]);
    }
}
