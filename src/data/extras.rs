//! What examples have beside tokens and labels: words, weights and sources; and how they change in each epoch.

use super::augment::Augmentation;
use super::dataset::Dataset;
use super::example::Example;
use super::mixture::Mixture;
use super::random::SplitMix64;
use crate::text::words::{FIRST_WORD, NO_WORD, WORD, WORD_PART};
use std::borrow::Cow;
use std::sync::Arc;

/// Maximum number of tokens that are looked at to find a word.
const TRIES: usize = 1000;

impl Dataset {
    /// Adds which tokens of each example begin a word: a mark for each token ([`crate::text::words`]).
    ///
    /// # Panics
    /// If there is not one mark for each token, or the data set has a clone.
    pub fn with_words(mut self, words: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let words = words.into_iter().flatten().collect::<Vec<u8>>();
        let columns = Arc::get_mut(&mut self.columns).expect("a data set without clones");
        assert_eq!(words.len(), columns.ids.len(), "one mark for each token");
        columns.words = words.into();
        self
    }

    /// Adds the weight of each example in the loss.
    ///
    /// # Panics
    /// If there is not one weight for each example, or the data set has a clone.
    pub fn with_weights(mut self, weights: impl IntoIterator<Item = f32>) -> Self {
        let weights = weights.into_iter().map(f32::to_bits).collect::<Vec<u32>>();
        let columns = Arc::get_mut(&mut self.columns).expect("a data set without clones");
        assert_eq!(weights.len() + 1, columns.offsets.len(), "one weight for each example");
        columns.weights = weights.into();
        self
    }

    /// Adds which examples come from which source: the number of each, one source after another.
    ///
    /// # Panics
    /// If they do not add up to the number of examples.
    pub fn with_sources(mut self, sources: Vec<usize>) -> Self {
        assert_eq!(sources.iter().sum::<usize>(), self.len(), "examples of all sources");
        self.shape.sources = sources;
        self
    }

    /// Number of examples of each source; empty if there is one.
    pub fn sources(&self) -> &[usize] {
        &self.shape.sources
    }

    /// Makes the sampler mix the sources by these weights.
    ///
    /// # Panics
    /// As [`Mixture::new`].
    pub fn mixed(self, weights: &[f64]) -> Self {
        let mixture = Some(Arc::new(Mixture::new(self.sources(), weights)));
        Dataset { mixture, ..self }
    }

    /// How the sampler mixes the sources, if they have weights.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.mixture.as_deref()
    }

    /// Sets how examples change in each epoch; `fingerprint` replaces that of the data.
    pub fn with_augmentation(self, augmentation: Augmentation, fingerprint: [u8; 32]) -> Self {
        Dataset { augmentation: Some(Arc::new(augmentation)), fingerprint, ..self }
    }

    /// Makes the sampler draw all classes equally often.
    pub fn class_balanced(self) -> Self {
        Dataset { balanced: true, ..self }
    }

    pub fn augmentation(&self) -> Option<&Augmentation> {
        self.augmentation.as_deref()
    }

    /// Whether the sampler draws all classes equally often.
    pub fn is_class_balanced(&self) -> bool {
        self.balanced
    }

    /// Whether examples have weights.
    pub fn is_weighted(&self) -> bool {
        !self.columns.weights.is_empty()
    }

    /// The weight of example `i` in the loss; 1 if examples have no weights.
    pub fn weight(&self, i: usize) -> f32 {
        self.columns.weights.get(self.place(i)).map_or(1.0, |&bits| f32::from_bits(bits))
    }

    /// The marks of example `i`'s words, `[length(i)]`; empty if words are not known.
    pub fn words(&self, i: usize) -> &[u8] {
        self.columns.words.get(self.range(i)).unwrap_or_default()
    }

    /// Whether the data set knows words, and has one.
    pub fn has_words(&self) -> bool {
        self.columns.words.iter().any(|&mark| mark != NO_WORD)
    }

    /// Returns example `i` as an epoch of training reads it: a function of the augmentation's seed, the epoch (from 0)
    /// and `i` alone.
    pub fn example(&self, i: usize, epoch: u64) -> Example {
        let (ids, type_ids) = (self.ids(i).to_vec(), self.type_ids(i).to_vec());
        let stored = Example { ids, type_ids, lengths: self.sequences(i), label: self.label(i) };
        let Some(augmentation) = &self.augmentation else { return stored };
        let draw = |random: &mut SplitMix64, first: bool| self.draw_word(augmentation, random, first);
        augmentation.apply(stored, self.words(i), [epoch, i as u64], &draw)
    }

    /// Whether the lengths of examples differ between epochs.
    pub fn changes_lengths(&self) -> bool {
        self.augmentation.as_ref().is_some_and(|augmentation| augmentation.changes_lengths())
    }

    /// Number of tokens of example `i` in an epoch.
    pub fn length_in(&self, i: usize, epoch: u64) -> usize {
        if self.changes_lengths() { self.example(i, epoch).ids.len() } else { self.length(i) }
    }

    /// The token ids of example `i` in an epoch.
    pub fn ids_in(&self, i: usize, epoch: u64) -> Cow<'_, [u32]> {
        match &self.augmentation {
            None => Cow::Borrowed(self.ids(i)),
            Some(_) => Cow::Owned(self.example(i, epoch).ids),
        }
    }

    /// Number of tokens of each sequence of example `i` in an epoch.
    pub fn sequences_in(&self, i: usize, epoch: u64) -> Vec<u32> {
        if self.changes_lengths() { self.example(i, epoch).lengths } else { self.sequences(i) }
    }

    /// Draws a word of the data set, each occurrence with the same probability; a `first` one among the first words of
    /// examples, if a text's first word has other tokens than elsewhere.
    fn draw_word(&self, augmentation: &Augmentation, random: &mut SplitMix64, first: bool) -> Option<&[u32]> {
        let (marks, offsets) = (&self.columns.words, &self.columns.offsets);
        let first = first && !augmentation.alike;
        let begins = |at: &usize| match marks.get(*at) {
            Some(&FIRST_WORD) => first || augmentation.alike,
            Some(&WORD) => !first,
            _ => false,
        };
        let mut candidate = || match first {
            true => {
                let i = random.below(offsets.len() as u64 - 1) as usize;
                (offsets[i] as usize..offsets[i + 1] as usize).find(begins)
            }
            false => Some(random.below(marks.len() as u64) as usize).filter(begins),
        };
        let start = (0..TRIES).find_map(|_| candidate())?;
        let parts = marks[start + 1..].iter().take_while(|&&mark| mark == WORD_PART).count();
        Some(&self.columns.ids[start..=start + parts])
    }
}
