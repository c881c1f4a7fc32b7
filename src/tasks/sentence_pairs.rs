//! Pairs of texts for next-sentence prediction in BERT pretraining.
//!
//! As in arXiv 1810.04805, section 3.1 and appendix A.2, and its `create_pretraining_data.py`: a document is a list of
//! sentences, a text consists of consecutive sentences. In half of the pairs the second text follows the first (class
//! 0), in the others it is from another document (class 1).

use super::corpus::many;
use super::masked_texts::{Marked, MaskingOptions, add_special};
use crate::data::prepare::{Encode, Encoded, Extras};
use crate::data::random::SplitMix64;
use crate::data::{Example, Label};
use crate::error::{Error, Result};
use crate::text::documents::{self, Document, DocumentSource};
use crate::text::files::Files;
use crate::text::parallel::on_all_cores;
use crate::text::tokenizer::Tokenizer;
use serde_json::Value;

/// One in `SHORT` pairs has a random length below the maximum.
const SHORT: u64 = 10;
/// Number of attempts to sample another document.
const TRIES: usize = 10;

/// A plain text file with one sentence per line and blank lines between documents.
#[derive(Debug, Clone)]
pub struct SentencePairs {
    /// The file, split into paragraphs.
    pub source: DocumentSource,
    pub max_length: usize,
    pub masking: MaskingOptions,
    /// Seed for sampling the pairs.
    pub seed: u64,
}

/// The sentences of a document.
type Sentences = Vec<Vec<Marked>>;

/// Two texts, and whether the second is from another document.
#[derive(Debug, Clone, PartialEq)]
struct Pair {
    first: Vec<Marked>,
    second: Vec<Marked>,
    is_random: bool,
}

impl Encode for SentencePairs {
    fn files(&self) -> &Files {
        self.source.files()
    }

    fn settings(&self) -> String {
        let masking = self.masking.settings();
        format!("{:?}", ("pairs", self.max_length, format_args!("{masking}"), self.seed, self.source.settings()))
    }

    /// # Errors
    /// Those of [`documents::read`]; a single document; a tokenizer without a mask token (exit 2).
    fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let refuse = |why: String| Err(Error::input(format!("{}: {why}", self.source.files())));
        let read = documents::read(&self.source)?;
        let (template, special) = (tokenizer.token_template(true)?, tokenizer.special_ids());
        let room = self.max_length.saturating_sub(template.len());
        if room < 2 {
            return refuse(format!(
                "max_length = {} leaves no room for two texts besides {} special tokens; raise max_length",
                self.max_length,
                template.len()
            ));
        }
        let sentences = |document: &Document| -> Result<Sentences> {
            let lines = document.text.lines().map(|line| self.masking.tokens(tokenizer, &special, line));
            Ok(lines.collect::<Result<Sentences>>()?.into_iter().filter(|sentence| !sentence.is_empty()).collect())
        };
        let all = on_all_cores(&read.records, sentences).into_iter().collect::<Result<Vec<_>>>()?;
        let all: Vec<Sentences> = all.into_iter().filter(|document| !document.is_empty()).collect();
        if all.len() < 2 {
            return refuse("next_sentence needs at least two documents, separated by blank lines".into());
        }
        let pairs: Vec<Pair> = (0..all.len()).flat_map(|document| pairs(&all, document, room, self.seed)).collect();
        let random = pairs.iter().filter(|pair| pair.is_random).count();
        let remarks =
            vec![format!("{} in {}, {random} of them random", many(all.len(), "document"), many(pairs.len(), "pair"))];
        let example = |pair: Pair| {
            let (ids, segments, marks) = add_special(&template, &pair.first, &pair.second);
            Example::single(ids, segments, Label::TokensAndClass(marks, u32::from(pair.is_random)))
        };
        Ok(Encoded {
            examples: pairs.into_iter().map(example).collect(),
            collation: self.masking.collation(tokenizer)?,
            hashes: read.hashes,
            labels: None,
            skipped: read.skipped,
            truncated: 0,
            remarks,
            references: Value::Null,
            extras: Extras::default(),
        })
    }
}

/// Returns the pairs of at most `room` tokens that start in a document; a function of seed and documents only.
fn pairs(all: &[Sentences], document: usize, room: usize, seed: u64) -> Vec<Pair> {
    let mut random = SplitMix64::keyed(&[seed, document as u64]);
    let own = &all[document];
    let mut pairs = Vec::new();
    let mut start = 0;
    while start < own.len() {
        let wanted = if random.below(SHORT) == 0 { 2 + random.below(room as u64 - 1) as usize } else { room };
        // The number of sentences that fill a pair, and the end of the first text.
        let mut lengths = own[start..].iter().scan(0, |sum, sentence| {
            *sum += sentence.len();
            Some(*sum)
        });
        let taken = lengths.position(|sum| sum >= wanted).map_or(own.len() - start, |last| last + 1);
        let split = if taken < 2 { 1 } else { 1 + random.below(taken as u64 - 1) as usize };
        let first = own[start..start + split].concat();
        let is_random = taken == 1 || random.below(2) == 0;
        let second = if is_random {
            // The unused sentences start the next pair.
            start += split;
            elsewhere(all, document, wanted.saturating_sub(first.len()), &mut random)
        } else {
            start += taken;
            own[start - taken + split..start].concat()
        };
        pairs.push(cut(Pair { first, second, is_random }, room, &mut random));
    }
    pairs
}

/// Returns consecutive sentences of another document from a random one on, at least `wanted` tokens if possible.
fn elsewhere(all: &[Sentences], document: usize, wanted: usize, random: &mut SplitMix64) -> Vec<Marked> {
    let mut other = || random.below(all.len() as u64) as usize;
    // The fallback is almost never used; with two documents it is the other one.
    let found = (0..TRIES).map(|_| other()).find(|&other| other != document);
    let found = found.unwrap_or((document + 1) % all.len());
    let sentences = &all[found];
    let mut text = Vec::new();
    for sentence in &sentences[random.below(sentences.len() as u64) as usize..] {
        text.extend_from_slice(sentence);
        if text.len() >= wanted {
            break;
        }
    }
    text
}

/// Removes tokens from the longer text, from its start or end at random, until both fit.
fn cut(mut pair: Pair, room: usize, random: &mut SplitMix64) -> Pair {
    let [mut first, mut second] = [0..pair.first.len(), 0..pair.second.len()];
    while first.len() + second.len() > room {
        let longer = if first.len() > second.len() { &mut first } else { &mut second };
        if random.below(2) == 0 {
            longer.start += 1;
        } else {
            longer.end -= 1;
        }
    }
    pair.first = pair.first[first].to_vec();
    pair.second = pair.second[second].to_vec();
    pair
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::masking::WORD_START;

    /// Documents whose token ids encode document and position: those of sentence s in document d start at `1000 d + 20
    /// s`.
    fn documents() -> Vec<Sentences> {
        let sentence = |d: u32, s: u32| (0..3 + (d + s) % 4).map(|t| (1000 * d + 20 * s + t, WORD_START)).collect();
        (0..200).map(|d| (0..1 + d % 12).map(|s| sentence(d, s)).collect()).collect()
    }

    #[test]
    fn in_half_of_the_pairs_the_second_text_follows_the_first() {
        let (all, room) = (documents(), 24);
        let pairs: Vec<(usize, Pair)> = (0..all.len())
            .flat_map(|d| super::pairs(&all, d, room, 7).into_iter().map(move |pair| (d, pair)))
            .collect();
        let random = pairs.iter().filter(|(_, pair)| pair.is_random).count();
        let of = |token: &Marked| (token.0 / 1000) as usize;
        for (document, pair) in &pairs {
            assert!(!pair.first.is_empty() && !pair.second.is_empty() && pair.first.len() + pair.second.len() <= room);
            assert!(pair.first.iter().all(|token| of(token) == *document));
            let other = of(&pair.second[0]);
            assert!(pair.second.iter().all(|token| of(token) == other));
            assert_eq!(other != *document, pair.is_random);
            assert!(pair.is_random || pair.second[0].0 > pair.first[pair.first.len() - 1].0, "in their order");
        }
        // A single remaining sentence is paired with a random one.
        let share = random as f64 / pairs.len() as f64;
        assert!((0.5..0.7).contains(&share), "{share}");
        let again: Vec<Pair> = (0..all.len()).flat_map(|d| super::pairs(&all, d, room, 7)).collect();
        assert!(pairs.iter().map(|(_, pair)| pair).eq(&again));
        let other: Vec<Pair> = (0..all.len()).flat_map(|d| super::pairs(&all, d, room, 8)).collect();
        assert!(again != other);
    }
}
