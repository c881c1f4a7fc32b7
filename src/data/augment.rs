//! Augmentation: random changes of the words of an example, on its tokens.
//!
//! The operations are those of EDA (arXiv 1901.11196), in its order: replacement, insertion, swap, deletion; then
//! tokens are masked. A word is a group of tokens; a changed text is the concatenation of its words' tokens, each as tokenized
//! where it comes from, so that no tokenizer is needed when an example is read.

use super::example::{Example, Label, NO_LABEL};
use super::random::SplitMix64;
use crate::text::synonyms::Synonyms;
use crate::text::words::{FIRST_WORD, NO_WORD, WORD_PART};

/// Distinguishes these random numbers from others with the same seed.
const DOMAIN: u64 = 0x6175_676d_656e_7400;
/// Maximum number of words that are drawn to find one that differs.
const TRIES: usize = 16;

/// The probabilities of the operations, in [0, 1].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// That a word is replaced.
    pub replace: f64,
    /// That a word is inserted, for each word.
    pub insert: f64,
    /// That a word is exchanged with another one of its text.
    pub swap: f64,
    /// That a word is deleted.
    pub delete: f64,
    /// That a token is replaced by the mask token.
    pub mask: f64,
}

/// How the examples of a data set change in each epoch.
#[derive(Debug, Clone)]
pub struct Augmentation {
    pub rates: Rates,
    pub seed: u64,
    /// Maximum number of tokens of an example, special tokens included.
    pub max_length: usize,
    /// The mask token; needed with a rate of masking.
    pub mask: u32,
    /// Where the words come from that replace others or are inserted; `None`: the data set.
    pub synonyms: Option<Synonyms>,
    /// Whether a text's first word has the same tokens as elsewhere. Byte-level BPE writes it without the space before
    /// it; it then keeps its place.
    pub alike: bool,
}

/// Draws a word of the data set, a `first` one of a text or another; `None` if it finds none.
pub type Draw<'a> = dyn Fn(&mut SplitMix64, bool) -> Option<&'a [u32]> + 'a;

/// A word's tokens, at least one, with their labels.
#[derive(Debug, Clone)]
struct Word {
    ids: Vec<u32>,
    labels: Vec<i32>,
    /// Whether it is the first word of a text.
    first: bool,
}

/// The words of a text, at least one, or a special token.
enum Part {
    Text { segment: u8, words: Vec<Word> },
    Special { id: u32, segment: u8, label: i32 },
}

impl Augmentation {
    /// Whether the number of tokens of an example changes.
    pub fn changes_lengths(&self) -> bool {
        let Rates { replace, insert, delete, .. } = self.rates;
        replace > 0.0 || insert > 0.0 || delete > 0.0
    }

    /// Returns the example with its changes; `words` are the marks of its tokens, and `place` are the epoch and the
    /// index of the example, on which its random numbers depend.
    ///
    /// Special tokens stay, each text keeps at least one word, and an example never gets longer than the maximum: a
    /// change that would make it is left out. A label of a token goes with its word.
    pub fn apply<'a>(&self, example: Example, words: &[u8], place: [u64; 2], draw: &Draw<'a>) -> Example {
        let mut random = SplitMix64::keyed(&[DOMAIN, self.seed, place[0], place[1]]);
        let mut room = self.max_length.saturating_sub(example.ids.len());
        let mut parts = parts(&example, words);
        for part in &mut parts {
            let Part::Text { words, .. } = part else { continue };
            self.replace(words, &mut room, &mut random, draw);
            self.insert(words, &mut room, &mut random, draw);
            self.swap(words, &mut random);
            self.delete(words, &mut room, &mut random);
            for id in words.iter_mut().flat_map(|word| &mut word.ids) {
                if self.rates.mask > 0.0 && random.chance(self.rates.mask) {
                    *id = self.mask;
                }
            }
        }
        join(parts, example.label)
    }

    fn replace<'a>(&self, words: &mut [Word], room: &mut usize, random: &mut SplitMix64, draw: &Draw<'a>) {
        if self.rates.replace == 0.0 {
            return;
        }
        for word in words {
            if !random.chance(self.rates.replace) {
                continue;
            }
            let Some(ids) = self.other(word, word.first, random, draw) else { continue };
            if ids.len() > word.ids.len() + *room {
                continue;
            }
            *room = *room + word.ids.len() - ids.len();
            // A tag is the label of its word's first token.
            word.labels.resize(1, NO_LABEL);
            word.labels.resize(ids.len(), NO_LABEL);
            word.ids = ids;
        }
    }

    fn insert<'a>(&self, words: &mut Vec<Word>, room: &mut usize, random: &mut SplitMix64, draw: &Draw<'a>) {
        if self.rates.insert == 0.0 {
            return;
        }
        let mut found = Vec::new();
        for word in words.iter() {
            if random.chance(self.rates.insert)
                && let Some(ids) = self.other(word, false, random, draw)
                && ids.len() <= *room
            {
                *room -= ids.len();
                found.push(ids);
            }
        }
        for ids in found {
            let from = self.fixed(words);
            let at = from + random.below((words.len() + 1 - from) as u64) as usize;
            words.insert(at, Word { labels: vec![NO_LABEL; ids.len()], ids, first: false });
        }
    }

    fn swap(&self, words: &mut [Word], random: &mut SplitMix64) {
        let from = self.fixed(words);
        if self.rates.swap == 0.0 || words.len() < from + 2 {
            return;
        }
        for i in from..words.len() {
            if random.chance(self.rates.swap) {
                let other = from + random.below((words.len() - from - 1) as u64) as usize;
                words.swap(i, if other < i { other } else { other + 1 });
            }
        }
    }

    fn delete(&self, words: &mut Vec<Word>, room: &mut usize, random: &mut SplitMix64) {
        if self.rates.delete == 0.0 {
            return;
        }
        let mut kept: Vec<bool> = words.iter().map(|_| !random.chance(self.rates.delete)).collect();
        if !kept.contains(&true) {
            kept[random.below(words.len() as u64) as usize] = true;
        }
        let mut kept = kept.into_iter();
        words.retain(|word| {
            let keeps = kept.next().unwrap_or(true);
            *room += if keeps { 0 } else { word.ids.len() };
            keeps
        });
    }

    /// Returns the number of words at the beginning of a text that keep their place.
    fn fixed(&self, words: &[Word]) -> usize {
        usize::from(!self.alike && words.first().is_some_and(|word| word.first))
    }

    /// Returns the tokens of a word to replace this one or to be inserted because of it.
    fn other<'a>(&self, word: &Word, first: bool, random: &mut SplitMix64, draw: &Draw<'a>) -> Option<Vec<u32>> {
        if let Some(synonyms) = &self.synonyms {
            let found = synonyms.of(&word.ids);
            let chosen = found.get(random.below(found.len() as u64) as usize)?;
            return Some(chosen[usize::from(first)].clone());
        }
        let mut drawn = None;
        for _ in 0..TRIES {
            drawn = draw(random, first);
            if drawn.is_none_or(|ids| ids != word.ids) {
                break;
            }
        }
        drawn.map(<[u32]>::to_vec)
    }
}

fn parts(example: &Example, marks: &[u8]) -> Vec<Part> {
    let label = |position: usize| match &example.label {
        Label::Tokens(labels) => labels[position],
        _ => NO_LABEL,
    };
    let mut parts: Vec<Part> = Vec::new();
    for (position, (&id, &segment)) in example.ids.iter().zip(&example.type_ids).enumerate() {
        let (mark, label) = (marks.get(position).copied().unwrap_or(NO_WORD), label(position));
        let word = || Word { ids: vec![id], labels: vec![label], first: mark == FIRST_WORD };
        match parts.last_mut() {
            _ if mark == NO_WORD => parts.push(Part::Special { id, segment, label }),
            Some(Part::Text { words, .. }) if mark != FIRST_WORD => match words.last_mut() {
                Some(last) if mark == WORD_PART => {
                    last.ids.push(id);
                    last.labels.push(label);
                }
                _ => words.push(word()),
            },
            _ => parts.push(Part::Text { segment, words: vec![word()] }),
        }
    }
    parts
}

fn join(parts: Vec<Part>, label: Label) -> Example {
    let (mut ids, mut type_ids, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Special { id, segment, label } => {
                ids.push(id);
                type_ids.push(segment);
                labels.push(label);
            }
            Part::Text { segment, words } => {
                for word in words {
                    type_ids.resize(type_ids.len() + word.ids.len(), segment);
                    ids.extend(word.ids);
                    labels.extend(word.labels);
                }
            }
        }
    }
    let label = if matches!(label, Label::Tokens(_)) { Label::Tokens(labels) } else { label };
    Example::single(ids, type_ids, label)
}

#[cfg(test)]
#[path = "augment_tests.rs"]
mod tests;
