//! Dynamic masking for masked language models (arXiv 1810.04805, section 3.1; resampled in each epoch as in
//! 1907.11692).

use super::example::{Inputs, Label, NO_LABEL};
use super::random::RandomKey;
use serde::{Deserialize, Serialize};

/// The mark of a word's first token. Examples to be masked have a mark for each token as its label; special tokens have
/// [`NO_LABEL`] and are never masked.
pub const WORD_START: i32 = 0;
/// The mark of a word's other tokens.
pub const WORD_PART: i32 = 1;

/// Of the selected tokens, the fraction replaced by the mask token and the fraction replaced by a random token; the
/// rest stays.
const TO_MASK: f64 = 0.8;
const TO_RANDOM: f64 = 0.1;

/// Settings of masking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Masking {
    /// The probability that a token, or a word, is a target.
    pub probability: f64,
    /// Whether the tokens of a word are masked together (whole-word masking).
    pub whole_words: bool,
    /// The id of the mask token.
    pub mask: u32,
    /// Random tokens have ids below this one.
    pub vocab_size: u32,
}

impl Masking {
    /// Returns an upper bound of the expected number of targets among `tokens`; special tokens are never masked.
    pub fn expected(&self, tokens: usize) -> f64 {
        self.probability * tokens as f64
    }

    /// Masks the sequences of an example, which have these `lengths`. The masks of a sequence depend on `key` and on
    /// its tokens alone, so that a document has the same ones wherever it is packed.
    pub fn mask(&self, ids: &[u32], lengths: &[u32], label: Label, key: RandomKey) -> Inputs {
        let mut masked = ids.to_vec();
        let (Label::Tokens(marks) | Label::TokensAndClass(marks, _)) = label else {
            // An example without marks stays as it is; its own mask tokens are the targets.
            let masks = (0..).zip(ids).filter(|(_, id)| **id == self.mask);
            return Inputs { targets: masks.map(|(position, &id)| (position, id)).collect(), ids: masked };
        };
        let mut targets = Vec::new();
        let mut start = 0;
        for &n in lengths {
            let end = start + n as usize;
            let mut random = key.generator(&ids[start..end]);
            let mut uniform = || random.next_u64() as f64 / 2f64.powi(64);
            let mut selected = false;
            for position in start..end {
                let mark = marks[position];
                if mark == NO_LABEL {
                    selected = false;
                    continue;
                }
                if mark == WORD_START || !self.whole_words {
                    selected = uniform() < self.probability;
                }
                if !selected {
                    continue;
                }
                targets.push((position as u32, ids[position]));
                let (kind, token) = (uniform(), uniform());
                if kind < TO_MASK {
                    masked[position] = self.mask;
                } else if kind < TO_MASK + TO_RANDOM {
                    masked[position] = (token * f64::from(self.vocab_size)) as u32;
                }
            }
            start = end;
        }
        Inputs { ids: masked, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::super::collation::Collation;
    use super::super::dataset::Dataset;
    use super::super::example::Example;
    use super::super::random::RandomKey;
    use super::*;

    const LENGTH: usize = 20_000;

    fn masked(whole_words: bool, key: RandomKey) -> (Vec<u32>, Inputs) {
        let masking = Masking { probability: 0.15, whole_words, mask: 4, vocab_size: 1000 };
        // Words of two tokens between special ones.
        let marks = (0..LENGTH).map(|t| match t {
            0 => NO_LABEL,
            t if t + 1 == LENGTH => NO_LABEL,
            t if t % 2 == 1 => WORD_START,
            _ => WORD_PART,
        });
        let ids: Vec<u32> = (0..LENGTH as u32).map(|t| 1000 + t).collect();
        let example = Example::single(ids.clone(), vec![0; LENGTH], Label::Tokens(marks.collect()));
        let dataset = Dataset::new([example], Collation::Masked(masking), [0; 32]);
        (ids, dataset.inputs(0, key))
    }

    #[test]
    fn the_fractions_are_those_of_the_paper() {
        for whole_words in [false, true] {
            let (ids, inputs) = masked(whole_words, RandomKey { seed: 1, step: 2, epoch: 0 });
            let n = inputs.targets.len() as f64;
            let near = |fraction: f64, expected: f64| (fraction - expected).abs() < 0.02;
            assert!(near(n / LENGTH as f64, 0.15), "{n}");
            let of = |test: &dyn Fn(u32, u32) -> bool| {
                inputs.targets.iter().filter(|(position, id)| test(inputs.ids[*position as usize], *id)).count() as f64
                    / n
            };
            assert!(near(of(&|shown, _| shown == 4), 0.8) && near(of(&|shown, id| shown == id), 0.1));
            assert!(near(of(&|shown, _| shown < 1000 && shown != 4), 0.1));
            assert!(
                inputs.targets.iter().all(|&(position, id)| ids[position as usize] == id),
                "the targets are the originals"
            );
            let positions: Vec<u32> = inputs.targets.iter().map(|t| t.0).collect();
            assert!(!positions.contains(&0) && !positions.contains(&(LENGTH as u32 - 1)), "special tokens stay");
            let others = (0..LENGTH).filter(|t| !positions.contains(&(*t as u32)));
            assert!(others.into_iter().all(|t| inputs.ids[t] == ids[t]));
            let together =
                positions.chunks(2).all(|word| word.len() == 2 && word[0] % 2 == 1 && word[1] == word[0] + 1);
            assert_eq!(together, whole_words);
        }
    }

    #[test]
    fn masks_of_unmarked_texts_are_targets() {
        let masking = Masking { probability: 1.0, whole_words: false, mask: 4, vocab_size: 1000 };
        let example = Example::single(vec![2, 4, 5, 4], vec![0; 4], Label::None);
        let dataset = Dataset::new([example], Collation::Masked(masking), [0; 32]);
        let inputs = dataset.inputs(0, RandomKey::default());
        assert_eq!(inputs, Inputs { ids: vec![2, 4, 5, 4], targets: vec![(1, 4), (3, 4)] });
    }

    #[test]
    fn masks_are_a_function_of_seed_and_step() {
        let at = |seed, step| masked(false, RandomKey { seed, step, epoch: 0 }).1;
        assert_eq!(at(1, 1), at(1, 1));
        assert!(at(1, 1) != at(1, 2) && at(1, 1) != at(2, 1));
    }

    #[test]
    fn a_packed_sequence_is_masked_as_alone() {
        let masking = Masking { probability: 0.5, whole_words: false, mask: 4, vocab_size: 1000 };
        let of = |sequences: &[std::ops::Range<u32>]| {
            let ids: Vec<u32> = sequences.iter().cloned().flatten().collect();
            let lengths: Vec<u32> = sequences.iter().map(|ids| ids.len() as u32).collect();
            masking.mask(
                &ids,
                &lengths,
                Label::Tokens(vec![WORD_START; ids.len()]),
                RandomKey { seed: 3, step: 1, epoch: 0 },
            )
        };
        let (a, b, c) = (10..40, 40..42, 50..90);
        let alone = [&a, &b, &c].map(|sequence| of(std::slice::from_ref(sequence)));
        let packed = of(&[c, b, a]);
        assert_eq!(packed.ids, [&alone[2].ids[..], &alone[1].ids, &alone[0].ids].concat());
        let classes = |inputs: &Inputs| inputs.targets.iter().map(|target| target.1).collect::<Vec<_>>();
        assert_eq!(classes(&packed), [2, 1, 0].map(|i: usize| classes(&alone[i])).concat());
        assert!(alone[0].targets.len() > 5 && alone[0].targets.len() < 25, "{:?}", alone[0].targets);
    }
}
