//! Token classification: a tag for each word, predicted at its first token.

use super::{cross_entropy, scores_cost};
use crate::data::batch::{Batch, Labels, Taught};
use crate::data::example::NO_LABEL;
use crate::data::extent::Extents;
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::metrics::{ClassReport, Confusion, Entities, Metrics, Reading, TagSet};
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::tagged_words::LostWords;
use crate::tasks::taught::divergence;
use crate::tasks::{Classifier, ExampleRow, ExampleTable, Results, Task, argmax, labels, logits_json, softmax};
use crate::text::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::ops::Range;
use tch::Tensor;

/// The tag of words outside entities.
const OUTSIDE: &str = "O";

/// A linear classifier on the features of the words' first tokens, trained with cross entropy.
#[derive(Debug)]
pub struct TokenClassification {
    head: Classifier,
    labels: Vec<String>,
}

impl TokenClassification {
    /// Declares the head in the builder's block; `labels` in order of their ids.
    pub fn new(labels: Vec<String>, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        let head = Classifier::new(labels.len(), backbone, b);
        TokenClassification { head, labels }
    }

    /// Returns the index of the tag `O`, or the number of labels if there is none.
    fn outside(&self) -> usize {
        self.labels.iter().position(|label| label == OUTSIDE).unwrap_or(self.labels.len())
    }

    /// Returns the labelled and the predicted tag of each word of example `i`, indices into [`tags`]; `None` without
    /// labels.
    fn words(&self, results: &Results, i: usize, lost: &LostWords) -> Option<[Vec<usize>; 2]> {
        let Label::Tokens(classes) = results.dataset.label(i) else { return None };
        let lost = lost.get(&i).map(Vec::as_slice).unwrap_or_default();
        let with_token = classes.into_iter().filter(|&class| class != NO_LABEL).map(|class| class as usize);
        let labelled = all_words(with_token, lost, |class| class as usize);
        let rows = results.answer(i).chunks_exact(self.labels.len());
        Some([labelled, all_words(rows.map(argmax), lost, |_| self.outside())])
    }

    /// Counts entities by type, if the tags mark entities, and words by their tags.
    fn counts(&self, results: &Results) -> (Option<(TagSet, Entities)>, Confusion) {
        let lost = lost_words(results);
        let tags = tags(&self.labels);
        let mut entities = TagSet::new(&tags).map(|set| {
            let entities = Entities::new(set.types().len());
            (set, entities)
        });
        let mut words = Confusion::new(tags.len());
        for i in 0..results.dataset.len() {
            let Some([labelled, predicted]) = self.words(results, i, &lost) else { continue };
            labelled.iter().zip(&predicted).for_each(|(&label, &found)| words.add(label, found));
            if let Some((set, entities)) = &mut entities {
                let [labelled, predicted] = [labelled, predicted].map(|tags| set.entities(&tags, Reading::Lenient));
                entities.add(&labelled, &predicted);
            }
        }
        (entities, words)
    }
}

impl Task for TokenClassification {
    fn kind(&self) -> &'static str {
        "token-classification"
    }

    /// Returns `[n, C]` for the n labelled tokens.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let Labels::Tokens(targets) = &batch.labels else { panic!("token classification needs token labels") };
        vec![self.head.of_tokens(backbone, hidden, Some(&targets.positions), ctx)]
    }

    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        let Labels::Tokens(targets) = &batch.labels else { panic!("token classification needs token labels") };
        vec![cross_entropy(&logits[0], &targets.classes, batch)]
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        let head = backbone.head_cost(Reads::Features, x, how).then(self.head.cost(how, x.targets));
        scores_cost(head, x.targets, self.labels.len())
    }

    fn taught_losses(&self, logits: &Boundary, taught: &Taught, _: &Batch) -> Tensor {
        divergence([&logits[0], &taught.logits[0]], taught.temperature)
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        let Label::Tokens(classes) = dataset.label(i) else { return 0 };
        self.labels.len() * classes.iter().filter(|&&class| class != NO_LABEL).count()
    }

    /// Computes precision, recall and F1 of entities (seqeval's default mode, micro average) if the tags mark entities,
    /// and the accuracy over words. A word without a token is predicted as `O`.
    fn metrics(&self, results: &Results) -> Metrics {
        let (entities, words) = self.counts(results);
        let hits = entities.as_ref().map(|(_, entities)| entities.micro());
        let of_entities =
            hits.map(|hits| [("precision", hits.precision()), ("recall", hits.recall()), ("f1", hits.f1())]);
        of_entities.into_iter().flatten().chain([("accuracy", words.accuracy())]).collect()
    }

    /// Of the types of entities, if the tags mark entities, else of the tags; and the confusion matrix of the tags.
    fn report(&self, results: &Results) -> Option<ClassReport> {
        let (entities, words) = self.counts(results);
        let report = ClassReport::of_confusion("words", tags(&self.labels), words);
        Some(match entities {
            None => report,
            Some((set, entities)) => {
                let classes = set.types().iter().cloned().zip(entities.types().iter().copied()).collect();
                ClassReport { unit: "entities", classes, ..report }
            }
        })
    }

    fn worst(&self, results: &Results, texts: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        let lost = lost_words(results);
        let tags = tags(&self.labels);
        let row = |(example, answer): (usize, &[f32])| {
            let [labelled, predicted] = self.words(results, example, &lost)?;
            let wrong = labelled.iter().zip(&predicted).filter(|(label, found)| label != found).count();
            let Label::Tokens(classes) = results.dataset.label(example) else { return None };
            let classes = classes.into_iter().filter(|&class| class != NO_LABEL);
            let losses = answer.chunks_exact(self.labels.len()).zip(classes);
            let losses = losses.map(|(logits, class)| -softmax(logits)[class as usize].max(f64::MIN_POSITIVE).ln());
            let loss = losses.sum::<f64>() / (answer.len() / self.labels.len()).max(1) as f64;
            let numbers = vec![wrong as f64, labelled.len() as f64, loss];
            (wrong > 0).then(|| ExampleRow { example, numbers, ..ExampleRow::default() })
        };
        let rows = results.iter().enumerate().filter_map(row).collect();
        let mut table = ExampleTable::worst(&["wrong words", "words", "loss"], rows, |row| row.numbers[2], most);
        let set = TagSet::new(&tags);
        for row in &mut table.rows {
            let Some([labelled, predicted]) = self.words(results, row.example, &lost) else { continue };
            let lost = lost.get(&row.example).map(Vec::as_slice).unwrap_or_default();
            let words = texts.map(|tokenizer| word_texts(results.dataset, row.example, lost, tokenizer)).transpose()?;
            // Entities, or the tags of the words that are wrong.
            let named = |own: &[usize], other: &[usize]| -> String {
                let parts: Vec<(&str, Range<usize>)> = match &set {
                    Some(set) => {
                        let entities = set.entities(own, Reading::Lenient).into_iter();
                        entities.map(|span| (set.types()[span.kind].as_str(), span.start..span.end)).collect()
                    }
                    None => {
                        let wrong = (0..own.len()).filter(|&word| own[word] != other[word]);
                        wrong.map(|word| (tags[own[word]].as_str(), word..word + 1)).collect()
                    }
                };
                let named = parts.into_iter().map(|(name, place)| match &words {
                    Some(words) => format!("{name}: {}", words[place].join(" ")),
                    None => name.to_owned(),
                });
                named.collect::<Vec<_>>().join("; ")
            };
            (row.label, row.predicted) = (named(&labelled, &predicted), named(&predicted, &labelled));
        }
        Ok(Some(table))
    }

    /// Returns a tag for each word, in order. A word without a token gets the tag `O`, or null if there is no such tag,
    /// and null logits.
    fn predictions(&self, results: &Results, scores: bool) -> Vec<Map<String, Value>> {
        let lost = lost_words(results);
        let line = |(i, answer): (usize, &[f32])| {
            let lost = lost.get(&i).map(Vec::as_slice).unwrap_or_default();
            let rows = || answer.chunks_exact(self.labels.len());
            let tags = all_words(rows().map(argmax), lost, |_| self.outside());
            let tags: Value = tags.into_iter().map(|tag| json!(self.labels.get(tag))).collect();
            let logits =
                scores.then(|| ("logits".into(), json!(all_words(rows().map(logits_json), lost, |_| Value::Null))));
            [("tags".into(), tags)].into_iter().chain(logits).collect()
        };
        results.iter().enumerate().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        labels::entries(&self.labels)
    }
}

/// Returns the tag of each word of a sentence, an index into [`tags`], and its probability, from the sentence's values of
/// [`Task::answers`] and its `lost` words, as in [`LostWords`]. A word without a token is outside, with probability 0.
pub fn tags_of(labels: &[String], answer: &[f32], lost: &[(usize, u32)]) -> Vec<(usize, f64)> {
    let outside = tags(labels).iter().position(|tag| tag == OUTSIDE).unwrap_or(labels.len());
    let word = |row: &[f32]| {
        let best = argmax(row);
        (best, softmax(row)[best])
    };
    all_words(answer.chunks_exact(labels.len()).map(word), lost, |_| (outside, 0.0))
}

/// Returns the labels, and `O` at the end if it is none of them, for words without a token.
pub fn tags(labels: &[String]) -> Vec<String> {
    let missing = (!labels.iter().any(|label| label == OUTSIDE)).then(|| OUTSIDE.to_owned());
    labels.iter().cloned().chain(missing).collect()
}

/// Returns the words without a token, stored on encoding.
fn lost_words(results: &Results) -> LostWords {
    LostWords::deserialize(results.references).unwrap_or_default()
}

/// Merges the values of words with a token and default values for the `lost` words, in sentence order.
fn all_words<T>(values: impl Iterator<Item = T>, lost: &[(usize, u32)], default: impl Fn(u32) -> T) -> Vec<T> {
    let mut words: Vec<T> = values.collect();
    for &(word, class) in lost {
        words.insert(word.min(words.len()), default(class));
    }
    words
}

/// Returns the text of each word of an example; empty for a `lost` one.
fn word_texts(dataset: &Dataset, example: usize, lost: &[(usize, u32)], tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let Label::Tokens(classes) = dataset.label(example) else { return Ok(Vec::new()) };
    let firsts = (0..classes.len()).filter(|&token| classes[token] != NO_LABEL);
    let bounds: Vec<usize> = firsts.chain([classes.len()]).collect();
    let ids = dataset.ids(example);
    let text = |pair: &[usize]| tokenizer.decode(&ids[pair[0]..pair[1]]).map(|text| text.trim().to_owned());
    let words = bounds.windows(2).map(text).collect::<Result<Vec<_>>>()?;
    Ok(all_words(words.into_iter(), lost, |_| String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};
    use crate::tasks::fixtures;

    /// Evaluates two sentences of three and two words. One word of the first has no token; all other words except the
    /// very last are predicted correctly.
    fn score(tags: [&str; 3], tokens: [&[i32]; 2], lost: (usize, u32)) -> (Metrics, Vec<Value>) {
        let task = TokenClassification { head: fixtures::head(3), labels: tags.map(String::from).to_vec() };
        let example = |classes: &&[i32]| {
            let labels = [&[NO_LABEL], *classes, &[NO_LABEL]].concat();
            Example::single(vec![0; labels.len()], vec![0; labels.len()], Label::Tokens(labels))
        };
        let dataset = Dataset::new(tokens.iter().map(example), Collation::Plain, [0; 32]);
        let mut classes = tokens.concat();
        *classes.last_mut().unwrap() = 0;
        let row = |class: &i32| [0, 1, 2].map(|c| if c == *class { 1.5 } else { -1.0 });
        let answers: Vec<f32> = classes.iter().flat_map(row).collect();
        let offsets = [0, 3 * tokens[0].len(), answers.len()];
        let references = json!(LostWords::from([(0, vec![lost])]));
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        assert_eq!(task.answer_size(&dataset, 0), 3 * tokens[0].len());
        let lines = task.predictions(&results, true).into_iter().map(Value::Object).collect();
        (task.metrics(&results), lines)
    }

    #[test]
    fn an_entity_without_a_token_is_missed() {
        // The first sentence is B-x O (B-x); the second is B-x I-x, predicted as B-x B-x.
        let (metrics, lines) = score(["B-x", "I-x", "O"], [&[0, 2], &[0, 1]], (2, 0));
        // Predicted: words 1 | 1, 2; labelled: words 1, 3 | 1-2; only the first is correct.
        let expected = [("precision", 1.0 / 3.0), ("recall", 1.0 / 3.0), ("f1", 1.0 / 3.0), ("accuracy", 3.0 / 5.0)];
        assert_eq!(metrics, expected);
        assert_eq!(lines[0]["tags"], json!(["B-x", "O", "O"]));
        assert_eq!(lines[0]["logits"], json!([[1.5, -1.0, -1.0], [-1.0, -1.0, 1.5], null]));
        assert_eq!(lines[1]["tags"], json!(["B-x", "B-x"]));
    }

    #[test]
    fn the_worst_sentences_are_listed_with_their_entities() {
        let folder = fixtures::folder();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        // The sentence "a bc d" in 4 tokens, and "e f" without mistakes; a fourth word of the first has no token.
        let first = [NO_LABEL, 0, 1, NO_LABEL, 2, NO_LABEL];
        let examples = [
            Example::single(vec![2, 8, 9, 3], vec![0; 4], Label::Tokens(vec![NO_LABEL, 2, 2, NO_LABEL])),
            Example::single(vec![2, 5, 6, 7, 8, 3], vec![0; 6], Label::Tokens(first.to_vec())),
        ];
        let dataset = Dataset::new(examples, Collation::Plain, [0; 32]);
        let answers = [2, 2, 0, 2, 2].map(|class| [0, 1, 2].map(|c| if c == class { 1.0 } else { 0.0 })).concat();
        let references = json!(LostWords::from([(1, vec![(3, 0)])]));
        let offsets = [0, 6, 15];
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        let worst = |labels: [&str; 3], texts: Option<&Tokenizer>| {
            let task = TokenClassification { head: fixtures::head(3), labels: labels.map(String::from).to_vec() };
            let rows = task.worst(&results, texts, 9).unwrap().unwrap().rows;
            assert_eq!((rows.len(), rows[0].example, &rows[0].numbers[..2]), (1, 1, &[2.0, 4.0][..]), "{rows:?}");
            // -log of softmax([1, 0, 0]), twice of the label and once of another class.
            assert!((rows[0].numbers[2] - 2.654_334_142_7 / 3.0).abs() < 1e-6, "{rows:?}");
            (rows[0].label.clone(), rows[0].predicted.clone())
        };
        let entities = ["B-x", "I-x", "O"];
        assert_eq!(worst(entities, Some(&tokenizer)), ("x: a b c; x: ".into(), "x: a".into()));
        assert_eq!(worst(entities, None), ("x; x".into(), "x".into()));
        assert_eq!(worst(["DT", "NN", "O"], Some(&tokenizer)), ("NN: b c; DT: ".into(), "O: b c; O: ".into()));
    }

    #[test]
    fn tags_without_entities_have_only_an_accuracy() {
        let (metrics, lines) = score(["DT", "NN", "VB"], [&[0, 2], &[0, 1]], (1, 0));
        assert_eq!(metrics, [("accuracy", 3.0 / 5.0)]);
        assert_eq!(
            lines[0],
            json!({"tags": ["DT", null, "VB"], "logits": [[1.5, -1.0, -1.0], null, [-1.0, -1.0, 1.5]]})
        );
    }
}
