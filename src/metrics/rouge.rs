//! ROUGE-L, equal to Google's `rouge_score` without stemming.

use super::MatchCounts;

/// Sum of ROUGE-L over texts.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RougeL {
    sum: f64,
    total: f64,
}

impl RougeL {
    /// Adds one text with its references; the best reference counts.
    pub fn add<S: AsRef<str>>(&mut self, text: &str, references: &[S]) {
        self.sum += rouge_l(text, references);
        self.total += 1.0;
    }

    /// Returns the sum of scores and the number of texts, to be summed over ranks.
    pub fn sums(&self) -> [f64; 2] {
        [self.sum, self.total]
    }

    /// Creates them from [`RougeL::sums`].
    pub fn from_sums([sum, total]: [f64; 2]) -> Self {
        RougeL { sum, total }
    }

    /// Mean score, in [0, 1]; 0 without texts.
    pub fn mean(&self) -> f64 {
        if self.total == 0.0 { 0.0 } else { self.sum / self.total }
    }
}

/// F1 of the longest common subsequence of words with the best reference, in [0, 1]; 0 without words or references.
///
/// Lin 2004, "ROUGE: a package for automatic evaluation of summaries", over the whole text as one sequence;
/// `rouge_score`'s `rougeL` with `use_stemmer=False`, its default. It lowercases, and words
/// consist of a-z and 0-9: other letters separate words, so the score is not meaningful for languages that need them.
pub fn rouge_l<S: AsRef<str>>(text: &str, references: &[S]) -> f64 {
    let text = tokens(text);
    references.iter().map(|reference| common(&text, &tokens(reference.as_ref())).f1()).fold(0.0, f64::max)
}

fn common(text: &[String], reference: &[String]) -> MatchCounts {
    let correct = longest_common_subsequence(text, reference);
    MatchCounts { correct, predicted: text.len() as u64, labelled: reference.len() as u64 }
}

fn tokens(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// Returns its length, in O(len(a) * len(b)) time and O(len(b)) memory.
fn longest_common_subsequence(a: &[String], b: &[String]) -> u64 {
    // lengths[j]: for the words of `a` so far and the first j words of `b`.
    let mut lengths = vec![0; b.len() + 1];
    for word in a {
        let mut diagonal = 0;
        for (j, other) in b.iter().enumerate() {
            let above = lengths[j + 1];
            lengths[j + 1] = if word == other { diagonal + 1 } else { above.max(lengths[j]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::reference::{close, list, numbers, text, texts};
    use super::*;

    const FILE: &str = include_str!("../../tests/reference/metrics/rouge.json");

    #[test]
    fn words_match_rouge_score() {
        for case in list(FILE, "tokens") {
            assert_eq!(tokens(text(&case[0])), texts(&case[1]), "{case}");
        }
    }

    #[test]
    fn scores_match_rouge_score() {
        let (mut found, mut sum) = (RougeL::default(), 0.0);
        for case in list(FILE, "texts") {
            let (text, references, expected) =
                (text(&case["found"]), texts(&case["references"]), numbers(&case["scores"]));
            close(rouge_l(text, &references), expected[2], &case);
            if let [only] = references.as_slice() {
                let hits = common(&tokens(text), &tokens(only));
                close(hits.precision(), expected[0], &case);
                close(hits.recall(), expected[1], &case);
            }
            found.add(text, &references);
            sum += expected[2];
        }
        let [_, total] = found.sums();
        close(RougeL::from_sums(found.sums()).mean(), sum / total, &"the mean".into());
        assert_eq!(RougeL::default().mean(), 0.0);
    }
}
