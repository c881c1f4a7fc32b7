//! Dynamic masking for masked language models (arXiv 1810.04805, section 3.1; drawn anew in each epoch as in 1907.11692).

use super::collation::{Draw, Inputs};
use super::dataset::Dataset;
use super::example::{Label, NO_LABEL};
use super::random::SplitMix64;
use serde::{Deserialize, Serialize};

/// The mark of a word's first token. Examples to be masked carry a mark for each token as its label; special tokens have
/// [`NO_LABEL`] and are never hidden.
pub const WORD_START: i32 = 0;
/// The mark of a word's other tokens.
pub const WORD_PART: i32 = 1;

/// Of the tokens chosen, the share that becomes the mask token, and the share that becomes any token; the rest stays.
const TO_MASK: f64 = 0.8;
const TO_RANDOM: f64 = 0.1;

/// Which tokens are hidden, and behind what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Masking {
    /// The probability that a token, or a word, is to be told.
    pub probability: f64,
    /// Whether a word's tokens are chosen together.
    pub whole_words: bool,
    /// The id of the mask token.
    pub mask: u32,
    /// Random tokens are drawn below this id.
    pub vocab_size: u32,
}

impl Masking {
    /// Tokens that are to be told of so many, on average; a little fewer, since special ones are not hidden.
    pub fn expected(&self, tokens: usize) -> f64 {
        self.probability * tokens as f64
    }

    /// Hides tokens of example `i`.
    pub fn hide(&self, dataset: &Dataset, i: usize, draw: Draw) -> Inputs {
        let mut ids = dataset.ids(i).to_vec();
        let (Label::Tokens(marks) | Label::TokensAndClass(marks, _)) = dataset.label(i) else {
            // Nothing is hidden; what is behind the masks that are there is wanted.
            let masks = (0..).zip(&ids).filter(|(_, id)| **id == self.mask);
            return Inputs { targets: masks.map(|(place, &id)| (place, id)).collect(), ids };
        };
        let mut targets = Vec::new();
        let mut random = SplitMix64::keyed(&[draw.seed, draw.step, i as u64]);
        let mut uniform = || random.next_u64() as f64 / 2f64.powi(64);
        let mut chosen = false;
        for (place, mark) in marks.into_iter().enumerate() {
            if mark == NO_LABEL {
                chosen = false;
                continue;
            }
            if mark == WORD_START || !self.whole_words {
                chosen = uniform() < self.probability;
            }
            if !chosen {
                continue;
            }
            targets.push((place as u32, ids[place]));
            let (fate, any) = (uniform(), uniform());
            if fate < TO_MASK {
                ids[place] = self.mask;
            } else if fate < TO_MASK + TO_RANDOM {
                ids[place] = (any * f64::from(self.vocab_size)) as u32;
            }
        }
        Inputs { ids, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::super::collation::Collation;
    use super::super::example::Example;
    use super::*;

    const LENGTH: usize = 20_000;

    fn hidden(whole_words: bool, draw: Draw) -> (Vec<u32>, Inputs) {
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
        (ids, dataset.collation().inputs(&dataset, 0, draw))
    }

    #[test]
    fn the_shares_are_those_of_the_paper() {
        for whole_words in [false, true] {
            let (ids, inputs) = hidden(whole_words, Draw { seed: 1, step: 2 });
            let n = inputs.targets.len() as f64;
            let near = |share: f64, expected: f64| (share - expected).abs() < 0.02;
            assert!(near(n / LENGTH as f64, 0.15), "{n}");
            let of = |test: &dyn Fn(u32, u32) -> bool| {
                inputs.targets.iter().filter(|(place, id)| test(inputs.ids[*place as usize], *id)).count() as f64 / n
            };
            assert!(near(of(&|shown, _| shown == 4), 0.8) && near(of(&|shown, id| shown == id), 0.1));
            assert!(near(of(&|shown, _| shown < 1000 && shown != 4), 0.1));
            assert!(
                inputs.targets.iter().all(|&(place, id)| ids[place as usize] == id),
                "the targets are the originals"
            );
            let places: Vec<u32> = inputs.targets.iter().map(|t| t.0).collect();
            assert!(!places.contains(&0) && !places.contains(&(LENGTH as u32 - 1)), "special tokens stay");
            let others = (0..LENGTH).filter(|t| !places.contains(&(*t as u32)));
            assert!(others.into_iter().all(|t| inputs.ids[t] == ids[t]));
            let together = places.chunks(2).all(|word| word.len() == 2 && word[0] % 2 == 1 && word[1] == word[0] + 1);
            assert_eq!(together, whole_words);
        }
    }

    #[test]
    fn masks_of_unmarked_texts_are_wanted() {
        let masking = Masking { probability: 1.0, whole_words: false, mask: 4, vocab_size: 1000 };
        let example = Example::single(vec![2, 4, 5, 4], vec![0; 4], Label::None);
        let dataset = Dataset::new([example], Collation::Masked(masking), [0; 32]);
        let inputs = dataset.collation().inputs(&dataset, 0, Draw::default());
        assert_eq!(inputs, Inputs { ids: vec![2, 4, 5, 4], targets: vec![(1, 4), (3, 4)] });
    }

    #[test]
    fn a_draw_belongs_to_its_step() {
        let at = |seed, step| hidden(false, Draw { seed, step }).1;
        assert_eq!(at(1, 1), at(1, 1));
        assert!(at(1, 1) != at(1, 2) && at(1, 1) != at(2, 1));
    }
}
