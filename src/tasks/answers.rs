//! From the scores of windows to one answer a question, by the rules of `postprocess_qa_predictions` in Hugging Face's
//! question-answering example; and how well the answers match.

use crate::metrics::{Metrics, Squad, SquadRules};
use crate::tasks::{Results, short};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// The token that stands for "no answer here": the first, which most families have for the whole text.
pub const NO_ANSWER: usize = 0;

/// Whether what a reader of questions left says that some are known to have no answer.
pub fn has_unanswerable(references: &Value) -> bool {
    references["unanswerable"] == true
}

/// How answers are chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// How many first and last tokens of a window, and answers of a question, are looked at: the best.
    pub n_best_size: usize,
    /// In tokens.
    pub max_answer_length: usize,
    /// "No answer" is the answer where its score is higher than the best one's by more than this.
    pub null_score_diff_threshold: f64,
    /// Whether "no answer" may be the answer; otherwise where the model has learnt so, or the data asks for it.
    pub version_2_with_negative: Option<bool>,
}

/// What the reader of questions leaves for metrics and predictions.
#[derive(Debug, Serialize, Deserialize)]
pub struct References<'a> {
    pub rules: Rules,
    /// Whether some of the questions are known to have no answer.
    pub unanswerable: bool,
    #[serde(borrow)]
    pub contexts: Vec<Context<'a>>,
    /// In the file's order.
    #[serde(borrow)]
    pub questions: Vec<Question<'a>>,
}

/// A text that questions are about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Context<'a> {
    pub text: &'a str,
    /// The bytes of each of its N tokens, start and end, `[N * 2]`.
    pub offsets: Vec<u32>,
}

/// A question, whose windows are the next examples of the data set.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question<'a> {
    pub id: &'a str,
    /// The index of its context.
    pub context: usize,
    /// The right answers, as far as they are known.
    #[serde(borrow)]
    pub golds: Vec<&'a str>,
    /// Of each window: the place in it of its first token of the context, which of the context's tokens that is, and how
    /// many there are.
    pub windows: Vec<[usize; 3]>,
}

/// The texts of a question's answers.
#[derive(Debug)]
struct Found<'a> {
    /// Empty: none.
    text: &'a str,
    probability: f64,
    /// The best first.
    n_best: Vec<(Candidate, f64)>,
    /// By how much the score of "no answer" is above the best answer's, where it may be the answer.
    null_score_diff: Option<f32>,
}

/// A possible answer.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    start_logit: f32,
    end_logit: f32,
    /// The bytes of the context; `None` for "no answer".
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
    /// Takes up what the reader has left.
    ///
    /// # Panics
    /// If it is not a reader of questions, for metrics or predictions, that left it: a bug of the caller.
    fn of(results: &Results<'a>) -> Self {
        Self::deserialize(results.references)
            .unwrap_or_else(|e| panic!("question answering needs what its reader knows of the questions: {e}"))
    }

    /// Whether "no answer" may be an answer, of a model that has learnt such questions or not.
    fn with_none(&self, learnt: bool) -> bool {
        self.rules.version_2_with_negative.unwrap_or(learnt || self.unanswerable)
    }

    /// The answer to each question, in order.
    fn answers(&self, results: &Results, with_none: bool) -> Vec<Found<'a>> {
        let mut example = 0;
        let answer = |question: &Question| {
            let windows = question.windows.iter().zip(example..).map(|(place, i)| (place, results.answer(i)));
            example += question.windows.len();
            self.answer(&self.contexts[question.context], windows, with_none)
        };
        self.questions.iter().map(answer).collect()
    }

    /// Chooses from a question's windows, each with its scores `[n * 2]`: of every token to be the first of the answer
    /// and to be the last.
    ///
    /// The rules are those of the example with two exceptions, both where it would give an answer that is none: the best
    /// answer is one with a text, and where there is none at all, the answer is empty and not the word "empty".
    fn answer<'b>(
        &self,
        context: &Context<'a>,
        windows: impl Iterator<Item = (&'b [usize; 3], &'b [f32])>,
        with_none: bool,
    ) -> Found<'a> {
        let (mut n_best, mut none) = (Vec::new(), None::<Candidate>);
        for (place, scores) in windows {
            let scores = scores.as_chunks::<2>().0;
            let [start_logit, end_logit] = scores[NO_ANSWER];
            let here = Candidate { start_logit, end_logit, bytes: None };
            // All windows must agree that there is no answer: the one that believes it least decides.
            none = none.filter(|none| none.score() <= here.score()).or(Some(here));
            self.spans(context, place, scores, &mut n_best);
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
        Found {
            text: chosen.map_or("", |chosen| n_best[chosen].text(context.text)),
            probability: chosen.map_or(0.0, |chosen| probabilities[chosen]),
            n_best: n_best.into_iter().zip(probabilities).collect(),
            null_score_diff,
        }
    }

    /// The parts of the context from a likely first token to a likely last one of a window.
    fn spans(&self, context: &Context, place: &[usize; 3], scores: &[[f32; 2]], into: &mut Vec<Candidate>) {
        let [start, first, tokens] = *place;
        let bytes = &context.offsets.as_chunks::<2>().0[first..first + tokens];
        let Rules { n_best_size, max_answer_length, .. } = self.rules;
        // Other tokens take their places among the best, too.
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

/// Where the `n` largest values stand, the largest first, the first of equals before the others.
fn largest(values: impl Iterator<Item = f32>, n: usize) -> Vec<usize> {
    let mut places: Vec<(usize, f32)> = values.enumerate().collect();
    let order = |a: &(usize, f32), b: &(usize, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n < places.len() {
        places.select_nth_unstable_by(n, order);
        places.truncate(n);
    }
    places.sort_unstable_by(order);
    places.into_iter().map(|(place, _)| place).collect()
}

/// The probability of each candidate among them all.
fn softmax(candidates: &[Candidate]) -> Vec<f64> {
    let scores = || candidates.iter().map(|candidate| f64::from(candidate.score()));
    let highest = scores().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores().map(|score| (score - highest).exp()).sum();
    scores().map(|score| (score - highest).exp() / sum).collect()
}

/// Exact match and F1 over questions in percent, of those with an answer and those without too where there are both
/// kinds; `learnt`: whether the model knows questions without an answer.
pub fn metrics(results: &Results, learnt: bool) -> Metrics {
    let references = References::of(results);
    let with_none = references.with_none(learnt);
    let rules = if with_none { SquadRules::V2 } else { SquadRules::V1 };
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

/// One line a question: its id, the answer (empty: none) and the answer's probability among the best ones; with `scores`
/// those too.
pub fn predictions(results: &Results, learnt: bool, scores: bool) -> Vec<Map<String, Value>> {
    let references = References::of(results);
    let answers = references.answers(results, references.with_none(learnt));
    let line = |(question, found): (&Question, Found)| {
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
mod tests {
    use super::*;
    use crate::data::{Collation, Dataset};

    /// Chosen from made-up scores by the rules of the example of transformers (`tests/reference/answers.py`).
    const CASES: &str = include_str!("../../tests/reference/answers.json");

    /// Calls `check` with each case, its references (one question, as a reader leaves them) and its scores.
    fn on_all(check: impl Fn(&Value, &Results)) {
        let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
        assert!(cases.len() > 20);
        for case in &cases {
            let windows = case["windows"].as_array().unwrap();
            let places: Vec<&Value> = windows.iter().map(|window| &window["place"]).collect();
            let references = json!({
                "rules": case["rules"],
                "unanswerable": false,
                "contexts": [{"text": case["text"], "offsets": case["offsets"]}],
                "questions": [{"id": "q", "context": 0, "golds": [case["answer"]], "windows": places}],
            });
            let (mut answers, mut offsets) = (Vec::new(), vec![0]);
            for window in windows {
                let scores: Vec<[f32; 2]> = Vec::deserialize(&window["scores"]).unwrap();
                answers.extend_from_slice(scores.as_flattened());
                offsets.push(answers.len());
            }
            let dataset = Dataset::new([], Collation::Plain, [0; 32]);
            let (references, answers, offsets) = (&references, &answers[..], &offsets[..]);
            check(case, &Results { dataset: &dataset, references, answers, offsets, losses: &[] });
        }
    }

    fn close(a: &Value, b: &Value) -> bool {
        a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn answers_are_those_of_the_example() {
        on_all(|case, results| {
            // What the model has learnt does not matter where the rules say.
            for learnt in [false, true] {
                let line = predictions(results, learnt, true).remove(0);
                assert_eq!((&line["id"], &line["answer"]), (&json!("q"), &case["answer"]), "{case}");
                let (n_best, wanted) = (line["n_best"].as_array().unwrap(), case["n_best"].as_array().unwrap());
                assert_eq!(n_best.len(), wanted.len(), "{case}");
                for (found, wanted) in n_best.iter().zip(wanted) {
                    assert_eq!(found["answer"], wanted[0], "{case}");
                    let keys = ["start_logit", "end_logit", "score"];
                    assert!(keys.iter().zip(1..).all(|(key, i)| close(&found[key], &wanted[i])), "{found}: {case}");
                }
                let chosen = n_best.iter().find(|found| found["answer"] == line["answer"]);
                assert_eq!(chosen.map_or(&json!(0.0), |chosen| &chosen["score"]), &line["score"], "{case}");
                let diff = line.get("null_score_diff").unwrap_or(&Value::Null);
                assert!(diff == &case["null_score_diff"] || close(diff, &case["null_score_diff"]), "{diff}: {case}");
            }
        });
    }

    #[test]
    fn metrics_are_of_questions() {
        on_all(|case, results| {
            let found: Map<String, Value> =
                metrics(results, false).into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            let names: Vec<&String> = found.keys().collect();
            if case["rules"]["version_2_with_negative"] == true {
                assert_eq!(names, ["exact_match", "f1", "HasAns_exact", "HasAns_f1"]);
            } else {
                assert_eq!(names, ["exact_match", "f1"]);
            }
            assert_eq!(found["exact_match"], 100.0, "{case}");
        });
    }

    #[test]
    fn the_largest_come_first() {
        let values = [1.0, 3.0, 2.0, 3.0, 0.0];
        assert_eq!(largest(values.into_iter(), 3), [1, 3, 2]);
        assert_eq!(largest(values.into_iter(), 9), [1, 3, 2, 0, 4]);
    }
}
