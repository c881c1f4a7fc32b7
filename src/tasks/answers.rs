//! Extractive QA post-processing: selects one answer per question from the scores of its windows, by the rules of
//! `postprocess_qa_predictions` in Hugging Face's question-answering example; and computes the metrics.

use crate::metrics::{Metrics, Squad, SquadRules, match_answer};
use crate::tasks::{ExampleRow, ExampleTable, Results, short};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The position that represents "no answer in this window": the first token, `[CLS]` in most families.
pub const NO_ANSWER: usize = 0;

/// Whether some questions of the data set are labelled as unanswerable.
pub fn has_unanswerable(references: &Value) -> bool {
    references["unanswerable"] == true
}

/// The settings of answer selection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// Number of best start and end positions per window, and of best answers per question, to consider.
    pub n_best_size: usize,
    /// Maximum length of an answer in tokens.
    pub max_answer_length: usize,
    /// "No answer" is predicted if its score exceeds that of the best answer by more than this.
    pub null_score_diff_threshold: f64,
    /// Whether "no answer" may be predicted. `None`: if the model was trained with, or the data contains, unanswerable
    /// questions.
    pub version_2_with_negative: Option<bool>,
}

/// The data that [`super::questions`] stores for metrics and predictions.
#[derive(Debug, Serialize, Deserialize)]
pub struct References<'a> {
    pub rules: Rules,
    pub unanswerable: bool,
    #[serde(borrow)]
    pub contexts: Vec<Context<'a>>,
    /// In file order.
    #[serde(borrow)]
    pub questions: Vec<Question<'a>>,
}

/// The context of some questions.
#[derive(Debug, Serialize, Deserialize)]
pub struct Context<'a> {
    pub text: &'a str,
    /// Start and end byte of each of its N tokens, `[N * 2]`.
    pub offsets: Vec<u32>,
}

/// A question; its windows are consecutive examples of the data set.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question<'a> {
    pub id: &'a str,
    /// Index of its context.
    pub context: usize,
    /// The reference answers, if known.
    #[serde(borrow)]
    pub golds: Vec<&'a str>,
    /// For each window: position of the first context token in the window, its index in the context, and the number of
    /// context tokens.
    pub windows: Vec<[usize; 3]>,
}

#[derive(Debug)]
struct Predicted<'a> {
    /// The answer; empty for "no answer".
    text: &'a str,
    /// Its byte range in the context; `None` for "no answer".
    bytes: Option<Range<usize>>,
    probability: f64,
    /// Candidates with their probabilities, best first.
    n_best: Vec<(Candidate, f64)>,
    /// Score of "no answer" minus the score of the best answer, if "no answer" may be predicted.
    null_score_diff: Option<f32>,
}

#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    start_logit: f32,
    end_logit: f32,
    /// Byte range in the context; `None` for "no answer".
    bytes: Option<Range<usize>>,
}

impl Candidate {
    fn score(&self) -> f32 {
        self.start_logit + self.end_logit
    }

    fn text<'a>(&self, context: &'a str) -> &'a str {
        self.bytes.clone().and_then(|bytes| context.get(bytes)).unwrap_or_default()
    }
}

impl<'a> References<'a> {
    /// Deserializes the references; panics if [`super::questions`] has not stored them.
    fn of(results: &Results<'a>) -> Self {
        Self::deserialize(results.references)
            .unwrap_or_else(|e| panic!("question answering needs the references of the questions: {e}"))
    }

    /// Whether "no answer" may be predicted; `learnt`: whether the model was trained with unanswerable questions.
    fn with_none(&self, learnt: bool) -> bool {
        self.rules.version_2_with_negative.unwrap_or(learnt || self.unanswerable)
    }

    fn answers(&self, results: &Results, with_none: bool) -> Vec<Predicted<'a>> {
        let mut example = 0;
        let answer = |question: &Question| {
            let windows = question.windows.iter().zip(example..).map(|(window, i)| (window, results.answer(i)));
            example += question.windows.len();
            self.answer(&self.contexts[question.context], windows, with_none)
        };
        self.questions.iter().map(answer).collect()
    }

    /// Selects the answer from a question's windows, each with the start and end logits of its tokens, `[n * 2]`.
    ///
    /// The rules are those of the Hugging Face example with two exceptions for degenerate answers: the best answer must
    /// have a non-empty text, and without any candidate the answer is the empty string instead of the word "empty".
    fn answer<'b>(
        &self,
        context: &Context<'a>,
        windows: impl Iterator<Item = (&'b [usize; 3], &'b [f32])>,
        with_none: bool,
    ) -> Predicted<'a> {
        let (mut n_best, mut none) = (Vec::new(), None::<Candidate>);
        for (window, scores) in windows {
            let scores = scores.as_chunks::<2>().0;
            let [start_logit, end_logit] = scores[NO_ANSWER];
            let here = Candidate { start_logit, end_logit, bytes: None };
            // All windows must agree on "no answer", so the lowest score counts.
            none = none.filter(|none| none.score() <= here.score()).or(Some(here));
            self.spans(context, window, scores, &mut n_best);
        }
        let none = none.filter(|_| with_none);
        n_best.extend(none.clone());
        n_best.sort_by(|a, b| b.score().total_cmp(&a.score()));
        n_best.truncate(self.rules.n_best_size);
        if n_best.iter().all(|candidate| candidate.bytes.is_some()) {
            n_best.extend(none);
        }

        let none = n_best.iter().position(|candidate| candidate.bytes.is_none());
        let best = n_best.iter().position(|candidate| !candidate.text(context.text).is_empty());
        let null_score_diff = none.zip(best).map(|(none, best)| {
            let Candidate { start_logit, end_logit, .. } = n_best[best];
            n_best[none].score() - start_logit - end_logit
        });
        let chosen = match null_score_diff {
            Some(diff) if f64::from(diff) > self.rules.null_score_diff_threshold => none,
            _ => best.or(none),
        };
        let probabilities = softmax(&n_best);
        Predicted {
            text: chosen.map_or("", |chosen| n_best[chosen].text(context.text)),
            bytes: chosen.and_then(|chosen| n_best[chosen].bytes.clone()),
            probability: chosen.map_or(0.0, |chosen| probabilities[chosen]),
            n_best: n_best.into_iter().zip(probabilities).collect(),
            null_score_diff,
        }
    }

    /// Adds the candidate spans of a window: all combinations of its best start and end positions.
    fn spans(&self, context: &Context, window: &[usize; 3], scores: &[[f32; 2]], into: &mut Vec<Candidate>) {
        let [start, first, tokens] = *window;
        let bytes = &context.offsets.as_chunks::<2>().0[first..first + tokens];
        let Rules { n_best_size, max_answer_length, .. } = self.rules;
        // Tokens outside the context also count among the n best, as in the example.
        let [firsts, lasts] = [0, 1].map(|end| largest(scores.iter().map(|score| score[end]), n_best_size));
        let inside = |token: usize| token.checked_sub(start).filter(|&token| token < tokens);
        for (&i, a) in firsts.iter().filter_map(|i| Some((i, inside(*i)?))) {
            for (&j, b) in lasts.iter().filter_map(|j| Some((j, inside(*j)?))) {
                if b.checked_sub(a).is_some_and(|more| more < max_answer_length) {
                    let bytes = Some(bytes[a][0] as usize..bytes[b][1] as usize);
                    into.push(Candidate { start_logit: scores[i][0], end_logit: scores[j][1], bytes });
                }
            }
        }
    }
}

/// Returns the indices of the `n` largest values in descending order; equal values are ordered by index.
fn largest(values: impl Iterator<Item = f32>, n: usize) -> Vec<usize> {
    let mut indexed: Vec<(usize, f32)> = values.enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n < indexed.len() {
        indexed.select_nth_unstable_by(n, order);
        indexed.truncate(n);
    }
    indexed.sort_unstable_by(order);
    indexed.into_iter().map(|(index, _)| index).collect()
}

fn softmax(candidates: &[Candidate]) -> Vec<f64> {
    let scores = || candidates.iter().map(|candidate| f64::from(candidate.score()));
    let highest = scores().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores().map(|score| (score - highest).exp()).sum();
    scores().map(|score| (score - highest).exp() / sum).collect()
}

fn rules(with_none: bool) -> SquadRules {
    if with_none { SquadRules::V2 } else { SquadRules::V1 }
}

/// Returns the position of each question's first window in the data set.
pub fn first_windows(results: &Results) -> Vec<usize> {
    let mut next = 0;
    let first = |question: &Question| {
        let first = next;
        next += question.windows.len();
        first
    };
    References::of(results).questions.iter().map(first).collect()
}

/// Returns the questions without an exact match, those with the lowest F1 (in percent) first, of these the most
/// confident answers; with the answers if `texts`. The examples are the questions by number.
pub fn worst(results: &Results, learnt: bool, texts: bool, most: usize) -> ExampleTable {
    let references = References::of(results);
    let with_none = references.with_none(learnt);
    let row = |(example, (question, found)): (usize, (&Question, Predicted))| {
        let scores = match_answer(found.text, &question.golds, rules(with_none));
        let numbers = vec![100.0 * scores.f1, found.probability];
        let [label, predicted] = match texts {
            true => [question.golds.join(" | "), found.text.to_owned()],
            false => Default::default(),
        };
        (!scores.exact).then(|| ExampleRow { example, label, predicted, numbers, ..ExampleRow::default() })
    };
    let answers = references.answers(results, with_none);
    let mut rows: Vec<ExampleRow> = references.questions.iter().zip(answers).enumerate().filter_map(row).collect();
    rows.sort_by(|a, b| b.numbers[1].total_cmp(&a.numbers[1]));
    ExampleTable::worst(&["f1", "score"], rows, |row| -row.numbers[0], most)
}

/// Computes exact match and F1 in percent; if "no answer" may be predicted, also for answerable and unanswerable
/// questions separately. `learnt`: whether the model was trained with unanswerable questions.
pub fn metrics(results: &Results, learnt: bool) -> Metrics {
    let references = References::of(results);
    let with_none = references.with_none(learnt);
    let rules = rules(with_none);
    let mut squad = Squad::default();
    for (question, found) in references.questions.iter().zip(references.answers(results, with_none)) {
        squad.add(found.text, &question.golds, rules);
    }
    let all = squad.all();
    let mut metrics = vec![("exact_match", all.exact_match()), ("f1", all.mean_f1())];
    let parts = [(["HasAns_exact", "HasAns_f1"], squad.answerable), (["NoAns_exact", "NoAns_f1"], squad.unanswerable)];
    for ([exact, f1], sums) in parts.into_iter().filter(|(_, sums)| with_none && sums.total > 0.0) {
        metrics.extend([(exact, sums.exact_match()), (f1, sums.mean_f1())]);
    }
    metrics
}

/// An answer and where it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Empty for "no answer".
    pub answer: String,
    /// Its probability among the n best.
    pub score: f64,
    /// Range in the context, in characters; empty for "no answer".
    pub place: Range<usize>,
}

/// Returns the answer to each question and its place, those of [`predictions`].
pub fn located(results: &Results, learnt: bool) -> Vec<Located> {
    let references = References::of(results);
    let answers = references.answers(results, references.with_none(learnt));
    let located = |(question, found): (&Question, Predicted)| {
        let context = references.contexts[question.context].text;
        let characters = |end: usize| context.get(..end).map_or(0, |before| before.chars().count());
        let place = found.bytes.map_or(0..0, |bytes| characters(bytes.start)..characters(bytes.end));
        Located { answer: found.text.to_owned(), score: found.probability, place }
    };
    references.questions.iter().zip(answers).map(located).collect()
}

/// Returns one line per question: id, answer (empty for "no answer") and its probability among the n best; with
/// `scores` also the n best answers.
pub fn predictions(results: &Results, learnt: bool, scores: bool) -> Vec<Map<String, Value>> {
    let references = References::of(results);
    let answers = references.answers(results, references.with_none(learnt));
    let line = |(question, found): (&Question, Predicted)| {
        let mut line = Map::new();
        line.insert("id".into(), json!(question.id));
        line.insert("answer".into(), json!(found.text));
        line.insert("score".into(), json!(found.probability));
        if scores {
            let context = references.contexts[question.context].text;
            let one = |(candidate, probability): &(Candidate, f64)| {
                json!({
                    "answer": candidate.text(context),
                    "score": probability,
                    "start_logit": short(candidate.start_logit),
                    "end_logit": short(candidate.end_logit),
                })
            };
            line.insert("n_best".into(), found.n_best.iter().map(one).collect());
            let diff = found.null_score_diff.map(|diff| ("null_score_diff".to_owned(), json!(short(diff))));
            line.extend(diff);
        }
        line
    };
    references.questions.iter().zip(answers).map(line).collect()
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
