//! Exact match and F1 of extractive QA, equal to SQuAD's official scripts 1.1 and 2.0.

use super::MatchCounts;
use super::words::words;
use std::collections::HashMap;

/// The version of the script. The rules differ for texts that are empty or contain only articles and punctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SquadRules {
    /// 1.1: every question has an answer. The F1 of an empty text is 0, even with an empty reference.
    V1,
    /// 2.0: the correct answer to an unanswerable question is the empty text. Reference answers with only articles and
    /// punctuation are ignored.
    V2,
}

/// The scores of an answer with its best reference answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerMatch {
    /// Whether it equals a reference answer after normalization.
    pub exact: bool,
    /// Maximum F1 of common words, in [0, 1].
    pub f1: f64,
}

/// Compares an answer (empty for "no answer") with the reference answers (none for an unanswerable question).
pub fn match_answer<S: AsRef<str>>(answer: &str, golds: &[S], rules: SquadRules) -> AnswerMatch {
    let answer = normalise(answer);
    let mut golds: Vec<String> = golds.iter().map(|gold| normalise(gold.as_ref())).collect();
    if rules == SquadRules::V2 {
        golds.retain(|gold| !gold.is_empty());
    }
    if golds.is_empty() {
        golds.push(String::new());
    }
    let f1 = golds.iter().map(|gold| match (answer.as_str(), gold.as_str(), rules) {
        ("", "", SquadRules::V2) => 1.0,
        (answer, gold, _) => in_common(answer, gold).f1(),
    });
    AnswerMatch { exact: golds.contains(&answer), f1: f1.fold(0.0, f64::max) }
}

/// The scripts' `normalize_answer`: lowercases, removes ASCII punctuation and articles, and collapses whitespace.
fn normalise(text: &str) -> String {
    let mut text = text.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation());
    // A word consists of letters and digits, so that "the–end" contains an article. (Unlike here, the scripts do not
    // count combining vowels of other scripts as letters, but those do not follow an English article.)
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let of_word = char::is_alphanumeric;
        let end = rest.find(|c| of_word(c) != of_word(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        kept.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    words(&kept).collect::<Vec<_>>().join(" ")
}

/// Counts the common words of two normalized texts (multiset intersection).
fn in_common(answer: &str, gold: &str) -> MatchCounts {
    let mut left: HashMap<&str, u64> = HashMap::new();
    words(gold).for_each(|word| *left.entry(word).or_default() += 1);
    let mut counts = MatchCounts { labelled: left.values().sum(), ..MatchCounts::default() };
    for word in words(answer) {
        counts.predicted += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            counts.correct += 1;
        }
    }
    counts
}

/// Sums of the scores over questions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AnswerSums {
    pub total: f64,
    pub exact: f64,
    pub f1: f64,
}

impl AnswerSums {
    /// Exact matches in percent, as in the scripts; 0 without questions.
    pub fn exact_match(&self) -> f64 {
        if self.total == 0.0 { 0.0 } else { 100.0 * self.exact / self.total }
    }

    /// Mean F1 in percent, as in the scripts; 0 without questions.
    pub fn mean_f1(&self) -> f64 {
        if self.total == 0.0 { 0.0 } else { 100.0 * self.f1 / self.total }
    }

    fn plus(self, other: AnswerSums) -> AnswerSums {
        AnswerSums { total: self.total + other.total, exact: self.exact + other.exact, f1: self.f1 + other.f1 }
    }
}

/// The scores of a data set.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Squad {
    /// Answerable questions: `HasAns` of the 2.0 script.
    pub answerable: AnswerSums,
    /// Unanswerable questions: `NoAns`.
    pub unanswerable: AnswerSums,
}

impl Squad {
    pub fn add<S: AsRef<str>>(&mut self, answer: &str, golds: &[S], rules: SquadRules) {
        let found = match_answer(answer, golds, rules);
        let sums = if golds.is_empty() { &mut self.unanswerable } else { &mut self.answerable };
        *sums = sums.plus(AnswerSums { total: 1.0, exact: f64::from(u8::from(found.exact)), f1: found.f1 });
    }

    /// Returns the sums over all questions.
    pub fn all(&self) -> AnswerSums {
        self.answerable.plus(self.unanswerable)
    }

    /// Returns total, exact and F1 of the answerable questions, then of the others, to be summed over ranks.
    pub fn sums(&self) -> [f64; 6] {
        let (with, without) = (&self.answerable, &self.unanswerable);
        [with.total, with.exact, with.f1, without.total, without.exact, without.f1]
    }

    /// Creates them from [`Squad::sums`].
    pub fn from_sums([total, exact, f1, total_without, exact_without, f1_without]: [f64; 6]) -> Self {
        Squad {
            answerable: AnswerSums { total, exact, f1 },
            unanswerable: AnswerSums { total: total_without, exact: exact_without, f1: f1_without },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::{close, list, number, numbers, text, texts};
    use super::*;

    const FILE: &str = include_str!("../../tests/reference/metrics/squad.json");

    #[test]
    fn normalization_matches_the_scripts() {
        for pair in list(FILE, "normalised") {
            assert_eq!(normalise(text(&pair[0])), text(&pair[1]), "{pair}");
        }
    }

    #[test]
    fn scores_match_the_scripts() {
        let (mut of_v1, mut of_v2) = (Squad::default(), Squad::default());
        for case in list(FILE, "answers") {
            let (answer, golds) = (text(&case["found"]), texts(&case["golds"]));
            for (name, rules, sums) in [("v1", SquadRules::V1, &mut of_v1), ("v2", SquadRules::V2, &mut of_v2)] {
                // The 1.1 script has no unanswerable questions.
                if case[name].is_null() {
                    continue;
                }
                let (found, expected) = (match_answer(answer, &golds, rules), numbers(&case[name]));
                assert_eq!(found.exact, expected[0] == 1.0, "{name}: {case}");
                close(found.f1, expected[1], &case);
                sums.add(answer, &golds, rules);
            }
        }
        let totals = list(FILE, "totals");
        for (prefix, sums) in
            [("", of_v2.all()), ("HasAns_", of_v2.answerable), ("NoAns_", Squad::from_sums(of_v2.sums()).unanswerable)]
        {
            let expected = |name| number(&totals[1][format!("{prefix}{name}")]);
            close(sums.exact_match(), expected("exact"), &totals[1]);
            close(sums.mean_f1(), expected("f1"), &totals[1]);
            assert_eq!(sums.total, expected("total"));
        }
        close(of_v1.all().exact_match(), number(&totals[0]["exact_match"]), &totals[0]);
        close(of_v1.all().mean_f1(), number(&totals[0]["f1"]), &totals[0]);
    }

    #[test]
    fn no_questions_give_zeros() {
        let none = Squad::default().all();
        assert_eq!((none.exact_match(), none.mean_f1()), (0.0, 0.0));
    }
}
