//! Corpus BLEU, equal to sacrebleu's default.

use super::words::words;
use std::collections::HashMap;

/// Maximum n-gram length.
const ORDER: usize = 4;

/// Sufficient statistics of corpus BLEU: n-gram matches and lengths, summed over all segments.
///
/// Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation", with the words of
/// `mteval-v13a`, case kept, and smoothing by halving (Chen and Cherry 2014, method 3): sacrebleu's signature
/// `case:mixed|eff:no|tok:13a|smooth:exp`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bleu {
    /// Matching n-grams, n from 1, clipped to the maximum count in any reference.
    correct: [u64; ORDER],
    /// n-grams, n from 1.
    total: [u64; ORDER],
    /// Number of words.
    length: u64,
    /// Number of words of the references, taking for each segment the reference closest in length.
    reference_length: u64,
}

impl Bleu {
    /// Adds one segment with its references.
    ///
    /// # Panics
    /// If there is no reference.
    pub fn add<S: AsRef<str>>(&mut self, segment: &str, references: &[S]) {
        let segment = tokens(segment);
        let references: Vec<Vec<String>> = references.iter().map(|text| tokens(text.as_ref())).collect();
        // Of two equally close references, the shorter one.
        let nearest = references.iter().map(Vec::len).min_by_key(|&n| (n.abs_diff(segment.len()), n));
        self.length += segment.len() as u64;
        self.reference_length += nearest.expect("a segment has a reference") as u64;
        for n in 1..=ORDER {
            let found = ngrams(&segment, n);
            let wanted: Vec<_> = references.iter().map(|reference| ngrams(reference, n)).collect();
            for (ngram, &count) in &found {
                let most = wanted.iter().filter_map(|counts| counts.get(ngram)).max().copied().unwrap_or(0);
                self.correct[n - 1] += count.min(most);
                self.total[n - 1] += count;
            }
        }
    }

    /// Returns the counts to be summed over ranks: matching n-grams and n-grams for n = 1 to 4, words, reference words.
    pub fn counts(&self) -> [u64; 10] {
        let ([c1, c2, c3, c4], [t1, t2, t3, t4]) = (self.correct, self.total);
        [c1, c2, c3, c4, t1, t2, t3, t4, self.length, self.reference_length]
    }

    /// Creates the statistics from [`Bleu::counts`].
    pub fn from_counts([c1, c2, c3, c4, t1, t2, t3, t4, length, reference_length]: [u64; 10]) -> Self {
        Bleu { correct: [c1, c2, c3, c4], total: [t1, t2, t3, t4], length, reference_length }
    }

    /// Smoothed n-gram precisions for n = 1 to 4, in percent: the k-th order without a match counts as 1 / 2^k matches.
    /// 0 for an order without n-grams.
    pub fn precisions(&self) -> [f64; ORDER] {
        let mut matches = 1.0;
        std::array::from_fn(|n| match (self.correct[n], self.total[n]) {
            // Without a matching word there is no smoothing, and the score is 0.
            _ if self.correct[0] == 0 => 0.0,
            (_, 0) => 0.0,
            (0, total) => {
                matches /= 2.0;
                100.0 * matches / total as f64
            }
            (correct, total) => 100.0 * correct as f64 / total as f64,
        })
    }

    /// Brevity penalty, in [0, 1].
    pub fn brevity_penalty(&self) -> f64 {
        let (length, wanted) = (self.length as f64, self.reference_length as f64);
        match self.length {
            _ if self.length >= self.reference_length => 1.0,
            0 => 0.0,
            _ => (1.0 - wanted / length).exp(),
        }
    }

    /// BLEU score, in [0, 100] up to rounding: geometric mean of the precisions times the brevity penalty.
    pub fn score(&self) -> f64 {
        // ln(0) is minus infinity, whose exponential is 0.
        let mean = self.precisions().iter().map(|p| p.ln()).sum::<f64>() / ORDER as f64;
        self.brevity_penalty() * mean.exp()
    }
}

fn ngrams(tokens: &[String], n: usize) -> HashMap<&[String], u64> {
    let mut counts = HashMap::new();
    tokens.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
    counts
}

/// Tokenizes a text by the rules of `mteval-v13a`: ASCII punctuation is separated, except the apostrophe; periods and
/// commas unless between digits; hyphens after a digit. Case is kept.
fn tokens(text: &str) -> Vec<String> {
    let mut text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, mark) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, mark);
    }
    let mut spaced = String::from(" ");
    for c in text.chars() {
        match c {
            '!'..='&' | '('..='+' | '/' | ':'..='@' | '['..='`' | '{'..='~' => spaced.extend([' ', c, ' ']),
            _ => spaced.push(c),
        }
    }
    spaced.push(' ');
    let (digit, point) = (|c: char| c.is_ascii_digit(), |c| matches!(c, '.' | ','));
    let text = space_pairs(&spaced, |a, b| !digit(a) && point(b), ["", " ", " "]);
    let text = space_pairs(&text, |a, b| point(a) && !digit(b), [" ", " ", ""]);
    let text = space_pairs(&text, |a, b| digit(a) && b == '-', ["", " ", " "]);
    words(&text).map(str::to_owned).collect()
}

/// Inserts `before`, `between` and `after` around the characters of each pair that satisfies `is_pair`; pairs do not
/// overlap.
fn space_pairs(text: &str, is_pair: impl Fn(char, char) -> bool, [before, between, after]: [&str; 3]) -> String {
    let mut spaced = String::with_capacity(text.len() * 2);
    let mut rest = text.chars();
    while let Some(a) = rest.next() {
        match rest.clone().next() {
            Some(b) if is_pair(a, b) => {
                rest.next();
                spaced += before;
                spaced.push(a);
                spaced += between;
                spaced.push(b);
                spaced += after;
            }
            _ => spaced.push(a),
        }
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::super::reference::{close, counts, list, number, numbers, text, texts};
    use super::*;

    const FILE: &str = include_str!("../../tests/reference/metrics/bleu.json");

    #[test]
    fn tokens_match_sacrebleu() {
        for case in list(FILE, "tokens") {
            assert_eq!(tokens(text(&case[0])), texts(&case[1]), "{case}");
        }
    }

    #[test]
    fn scores_match_sacrebleu() {
        for case in list(FILE, "corpora") {
            let references = case["references"].as_array().unwrap();
            let mut halves = [Bleu::default(); 2];
            for (number, (found, references)) in texts(&case["found"]).into_iter().zip(references).enumerate() {
                halves[number % 2].add(found, &texts(references));
            }
            let [left, right] = halves.map(|half| half.counts());
            let bleu = Bleu::from_counts(std::array::from_fn(|i| left[i] + right[i]));
            assert_eq!(
                (bleu.correct.to_vec(), bleu.total.to_vec()),
                (counts(&case["counts"]), counts(&case["totals"]))
            );
            assert_eq!(vec![bleu.length, bleu.reference_length], counts::<u64>(&case["lengths"]), "{case}");
            close(bleu.score(), number(&case["score"]), &case);
            close(bleu.brevity_penalty(), number(&case["bp"]), &case);
            bleu.precisions().iter().zip(numbers(&case["precisions"])).for_each(|(&f, e)| close(f, e, &case));
        }
    }

    #[test]
    fn an_empty_corpus_scores_0() {
        assert_eq!(Bleu::default().score(), 0.0);
    }
}
