//! Sentence embeddings: a vector for each text, compared by cosine similarity (arXiv 1908.10084).
//!
//! An example is a pair of texts with the similarity that they should have, or a text with its match and, if there are
//! any, negatives. Of the latter the loss compares each text with all others of the global batch
//! ([`in_batch_losses`]); the training step computes it before backward (`train::contrast`).

use crate::data::batch::{Batch, Labels};
use crate::data::extent::Extents;
use crate::data::{Dataset, Label};
use crate::error::Result;
use crate::ffi::transfer;
use crate::metrics::{DEPTH, Metrics, Ranked, pearson, retrieval, spearman};
use crate::models::{Backbone, Boundary, Reads};
use crate::nn::pooler::{Picks, Pooler, PoolerConfig};
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::sentence_transformers::{self, Settings};
use crate::tasks::{ExampleRow, ExampleTable, Results, Task, short};
use crate::text::Tokenizer;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use tch::{Kind, Reduction, Tensor};

/// Elements of a matrix of similarities that are computed at a time.
pub const CHUNK: i64 = 1 << 22;

/// How texts become vectors, and how these are trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingHead {
    pub pooling: Picks,
    /// Whether vectors are divided by their length.
    pub normalizes: bool,
    /// Whether training compares each text with all others of the batch, instead of each pair with its score.
    pub contrastive: bool,
    /// The factor of cosine similarities in that loss: the inverse of the temperature.
    pub scale: f64,
}

/// As in sentence-transformers.
impl Default for EmbeddingHead {
    fn default() -> Self {
        EmbeddingHead { pooling: Picks::Mean, normalizes: false, contrastive: true, scale: 20.0 }
    }
}

/// The task. The head has no weights.
#[derive(Debug)]
pub struct Embedding {
    head: EmbeddingHead,
    pooler: Pooler,
    width: i64,
}

impl Embedding {
    pub fn new(head: EmbeddingHead, backbone: &dyn Backbone, b: &mut ParamBuilder) -> Self {
        Self::of_width(head, backbone.head_input().width, b)
    }

    fn of_width(head: EmbeddingHead, width: i64, b: &mut ParamBuilder) -> Self {
        let pooler = PoolerConfig {
            hidden: width,
            picks: head.pooling,
            dense: false,
            activation: None,
            dropout_before: 0.0,
            dropout: 0.0,
            std: 0.0,
        };
        Embedding { head, pooler: Pooler::new(b, pooler), width }
    }

    /// Returns the vectors of all texts of a data set, f32 `[S, width]` with length 1.
    fn vectors(&self, results: &Results) -> Tensor {
        unit(&Tensor::from_slice(results.answers).view([-1, self.width]))
    }

    /// Ranks all other texts of the data set for each text. Texts with the same tokens are one.
    fn rankings(&self, results: &Results) -> Vec<Ranked> {
        let dataset = results.dataset;
        let (mut queries, mut documents) = (Texts::default(), Texts::default());
        let mut relevant: Vec<BTreeSet<usize>> = Vec::new();
        let mut row = 0;
        for example in 0..dataset.len() {
            let (mut rest, mut query) = (dataset.ids(example), 0);
            for (place, length) in dataset.sequences(example).into_iter().enumerate() {
                let (own, others) = rest.split_at(length as usize);
                rest = others;
                match place {
                    0 => query = queries.add(own, row),
                    _ => {
                        let document = documents.add(own, row);
                        relevant.resize_with(queries.rows.len(), BTreeSet::new);
                        if place == 1 {
                            relevant[query].insert(document);
                        }
                    }
                }
                row += 1;
            }
        }
        let vectors = self.vectors(results);
        let [queries, documents] = [&queries, &documents].map(|texts| vectors.index_select(0, &indices(&texts.rows)));
        let best = DEPTH.min(documents.size()[0] as usize) as i64;
        let mut found: Vec<i64> = Vec::new();
        for (start, rows) in chunks(queries.size()[0], documents.size()[0]) {
            let similarities = queries.narrow(0, start, rows).matmul(&documents.tr());
            found.extend(numbers::<i64>(&similarities.topk(best, 1, true, true).1.reshape(-1)));
        }
        let ranking = |(found, relevant): (&[i64], &BTreeSet<usize>)| Ranked {
            places: (0..found.len()).filter(|&place| relevant.contains(&(found[place] as usize))).collect(),
            relevant: relevant.len(),
        };
        found.chunks_exact(best as usize).zip(&relevant).map(ranking).collect()
    }
}

/// Distinct texts, and the row of the first vector of each.
#[derive(Default)]
struct Texts<'a> {
    places: HashMap<&'a [u32], usize>,
    rows: Vec<i64>,
}

impl<'a> Texts<'a> {
    /// Returns the number of a text whose vector is in `row`.
    fn add(&mut self, ids: &'a [u32], row: i64) -> usize {
        *self.places.entry(ids).or_insert_with(|| {
            self.rows.push(row);
            self.rows.len() - 1
        })
    }
}

impl Task for Embedding {
    fn kind(&self) -> &'static str {
        "embedding"
    }

    /// Returns f32 `[S, width]`.
    fn logits(&self, backbone: &dyn Backbone, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        let features = backbone.features(hidden, ctx);
        let pooled = self.pooler.forward(ctx, &features, &batch.sequences).to_kind(Kind::Float);
        vec![if self.head.normalizes { unit(&pooled) } else { pooled }]
    }

    fn cost(&self, backbone: &dyn Backbone, x: &Extents, how: &ComputeMode) -> Cost {
        let wide = if how.element() < 4.0 { 4.0 * x.own.tokens * self.width as f64 } else { 0.0 };
        let vectors = 4.0 * x.own.sequences * self.width as f64;
        backbone
            .head_cost(Reads::Features, x, how)
            .then(Cost::keep(wide))
            .then(Cost::op(vectors, vectors, vectors, [0.0; 2]))
    }

    fn contrast(&self) -> Option<f64> {
        self.head.contrastive.then_some(self.head.scale)
    }

    /// Returns the squared differences of cosine similarities and scores, or what was computed before.
    fn losses(&self, logits: &Boundary, batch: &Batch) -> Vec<Tensor> {
        match (batch.contrast.get(), &batch.labels) {
            (Some(contrast), _) => {
                // The value is the loss, and the gradient that which was computed.
                let product = (&logits[0] * &contrast.gradients).sum(Kind::Float);
                vec![&contrast.losses + (&product - product.detach()) / batch.len() as f64]
            }
            (None, Labels::Values(scores)) => {
                vec![(cosines(&unit(&logits[0])) - scores).square()]
            }
            _ => panic!("embeddings need scores, or the loss against the global batch"),
        }
    }

    fn answer_size(&self, dataset: &Dataset, i: usize) -> usize {
        dataset.sequences(i).len() * self.width as usize
    }

    /// Returns the loss with the whole data set as one batch, if it has no scores.
    fn loss(&self, results: &Results) -> Option<f64> {
        let dataset = results.dataset;
        if results.answers.is_empty() || matches!(dataset.label(0), Label::Value(_)) {
            return None;
        }
        let widths: Vec<usize> = (0..dataset.len()).map(|i| dataset.sequences(i).len()).collect();
        let Rows { texts, others, matches } = Rows::of(&widths, 0);
        let vectors = self.vectors(results);
        let [texts, others] = [texts, others].map(|rows| vectors.index_select(0, &indices(&rows)));
        let matches = indices(&matches);
        let sums = chunks(texts.size()[0], others.size()[0]).map(|(start, rows)| {
            let [texts, matches] = [&texts, &matches].map(|all| all.narrow(0, start, rows));
            let losses = in_batch_losses(&texts, &others, &matches, self.head.scale);
            numbers::<f32>(&losses).into_iter().map(f64::from).sum::<f64>()
        });
        Some(sums.sum::<f64>() / widths.len() as f64)
    }

    /// Returns the correlations of cosine similarities with scores; without scores the metrics of retrieval.
    fn metrics(&self, results: &Results) -> Metrics {
        let scores: Vec<f64> = (0..results.dataset.len())
            .filter_map(|i| match results.dataset.label(i) {
                Label::Value(score) => Some(f64::from(score)),
                _ => None,
            })
            .collect();
        if scores.is_empty() {
            return retrieval(&self.rankings(results)).into_iter().flatten().collect();
        }
        let cosines: Vec<f64> = numbers::<f32>(&cosines(&self.vectors(results))).into_iter().map(f64::from).collect();
        // The correlation with a constant is undefined and is omitted.
        let all = [("pearson", pearson(&cosines, &scores)), ("spearmanr", spearman(&cosines, &scores))];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Returns pairs with scores; without scores `None`.
    fn worst(&self, results: &Results, _: Option<&Tokenizer>, most: usize) -> Result<Option<ExampleTable>> {
        if results.answers.is_empty() || !matches!(results.dataset.label(0), Label::Value(_)) {
            return Ok(None);
        }
        let row = |(example, cosine): (usize, f32)| {
            let Label::Value(score) = results.dataset.label(example) else { return None };
            let [score, cosine] = [score, cosine].map(f64::from);
            let numbers = vec![score, cosine, (cosine - score).powi(2)];
            Some(ExampleRow { example, numbers, ..ExampleRow::default() })
        };
        let cosines = numbers::<f32>(&cosines(&self.vectors(results)));
        let rows = cosines.into_iter().enumerate().filter_map(row).collect();
        Ok(Some(ExampleTable::worst(&["score", "cosine", "loss"], rows, |row| row.numbers[2], most)))
    }

    fn predictions(&self, results: &Results, _: bool) -> Vec<Map<String, Value>> {
        let line = |vector: &[f32]| {
            let own = &vector[..self.width as usize];
            Map::from_iter([("embedding".to_owned(), own.iter().copied().map(short).collect())])
        };
        results.iter().map(line).collect()
    }

    fn config_entries(&self) -> Map<String, Value> {
        Map::new()
    }

    fn folder_files(&self, max_length: usize) -> Vec<(&'static str, Value)> {
        let EmbeddingHead { pooling, normalizes, .. } = self.head;
        sentence_transformers::files(&Settings { pooling, normalizes, max_length: Some(max_length) }, self.width)
    }
}

/// The rows of the sequences of examples in a loss against all others.
#[derive(Debug, PartialEq)]
pub struct Rows {
    /// The rows of the texts, of all sequences.
    pub texts: Vec<i64>,
    /// The rows of matches and negatives, of all sequences.
    pub others: Vec<i64>,
    /// For each text the position of its match among those others.
    pub matches: Vec<i64>,
}

impl Rows {
    /// Returns the rows of examples with these numbers of sequences; there are `before` other matches and negatives
    /// before theirs.
    pub fn of(widths: &[usize], before: i64) -> Self {
        let mut rows = Rows { texts: Vec::new(), others: Vec::new(), matches: Vec::new() };
        let mut row = 0;
        for &width in widths {
            rows.texts.push(row);
            rows.matches.push(before + rows.others.len() as i64);
            rows.others.extend(row + 1..row + width as i64);
            row += width as i64;
        }
        rows
    }
}

/// Divides each row by its length, as `torch.nn.functional.normalize`: `[n, width]`.
pub fn unit(x: &Tensor) -> Tensor {
    x / x.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true).clamp_min(1e-12)
}

/// Returns the cosine similarities of pairs, `[n]`, from their vectors of length 1, `[2n, width]`.
fn cosines(vectors: &Tensor) -> Tensor {
    let pairs = vectors.view([-1, 2, vectors.size()[1]]);
    (pairs.select(1, 0) * pairs.select(1, 1)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
}

/// Returns the loss of each text, `[n]`: the cross entropy of its similarities to all matches and negatives, multiplied
/// by `scale` (InfoNCE, arXiv 1807.03748; with other texts' matches as negatives arXiv 1705.00652). `texts` are
/// `[n, width]` and `others` `[m, width]`, of length 1; `matches` i64 `[n]` says which of the others is whose match.
pub fn in_batch_losses(texts: &Tensor, others: &Tensor, matches: &Tensor, scale: f64) -> Tensor {
    let similarities = texts.matmul(&others.tr()) * scale;
    similarities.cross_entropy_loss(matches, None::<&Tensor>, Reduction::None, -100, 0.0)
}

/// Divides the rows of a matrix into ranges (start, number of rows) that are computed at a time.
pub fn chunks(rows: i64, columns: i64) -> impl Iterator<Item = (i64, i64)> {
    let most = (CHUNK / columns.max(1)).max(1);
    (0..rows).step_by(most as usize).map(move |start| (start, most.min(rows - start)))
}

fn indices(rows: &[i64]) -> Tensor {
    Tensor::from_slice(rows)
}

/// Returns the numbers of a tensor of the host.
fn numbers<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Vec<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    transfer::values(tensor).expect("a tensor in host memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collation, Example};

    /// The texts of an example, each a token id with its vector, and its label.
    type Vectors<'a> = (&'a [(u32, [f32; 2])], Label);

    /// Metrics, loss and worst examples of a task of width 2.
    fn evaluated(examples: &[Vectors]) -> (Metrics, Option<f64>, Option<ExampleTable>) {
        let head = EmbeddingHead { scale: 2.0, ..EmbeddingHead::default() };
        let task = Embedding::of_width(head, 2, &mut ParamBuilder::new());
        let example = |(texts, label): &Vectors| Example {
            ids: texts.iter().map(|(id, _)| *id).collect(),
            type_ids: vec![0; texts.len()],
            lengths: vec![1; texts.len()],
            label: label.clone(),
        };
        let dataset = Dataset::new(examples.iter().map(example), Collation::Plain, [0; 32]);
        let answers: Vec<f32> =
            examples.iter().flat_map(|(texts, _)| texts.iter().flat_map(|(_, vector)| *vector)).collect();
        let offsets: Vec<usize> = (0..=examples.len()).map(|i| i * 4).collect();
        let references = Value::Null;
        let results =
            Results { dataset: &dataset, references: &references, answers: &answers, offsets: &offsets, losses: &[] };
        (task.metrics(&results), task.loss(&results), task.worst(&results, None, 9).unwrap())
    }

    fn value(metrics: &Metrics, name: &str) -> f64 {
        metrics.iter().find(|(own, _)| *own == name).unwrap_or_else(|| panic!("no {name}: {metrics:?}")).1
    }

    #[test]
    fn equal_texts_are_one_query_and_one_document() {
        const EAST: [f32; 2] = [2.0, 0.0];
        const NORTH: [f32; 2] = [0.0, 3.0];
        const BETWEEN: [f32; 2] = [1.0, 0.5];
        // The query 1 has the documents 7 and 8, of which 7 is first and 8 last; 2 has 7, and a negative before it.
        let (metrics, loss, worst) = evaluated(&[
            (&[(1, EAST), (7, EAST)], Label::None),
            (&[(1, EAST), (8, NORTH)], Label::None),
            (&[(2, EAST), (7, EAST), (9, BETWEEN)], Label::None),
        ]);
        assert_eq!(worst, None);
        assert_eq!((value(&metrics, "accuracy@1"), value(&metrics, "recall@1")), (1.0, 0.75));
        assert_eq!((value(&metrics, "recall@5"), value(&metrics, "mrr@10")), (1.0, 1.0));
        // Places 0 and 2 of 0 and 1 for the first query.
        let ndcg = (1.0 + 1.0 / 2.0) / (1.0 + 1.0 / 3.0_f64.log2());
        assert!((value(&metrics, "ndcg@10") - f64::midpoint(ndcg, 1.0)).abs() < 1e-12, "{metrics:?}");
        // The loss has all four others for each text: cosines 1, 0, 1 and 2 / sqrt(5).
        let sum: f64 = [1.0, 0.0, 1.0, 2.0 / 5.0_f64.sqrt()].map(|cosine: f64| (2.0 * cosine).exp()).iter().sum();
        let expected = sum.ln() - (2.0 + 0.0 + 2.0) / 3.0;
        assert!((loss.unwrap() - expected).abs() < 1e-6, "{loss:?} and {expected}");
    }

    #[test]
    fn scores_are_compared_with_cosine_similarities() {
        let pair = |x: [f32; 2], score: f32| ([(1, [2.0, 0.0]), (2, x)], Label::Value(score));
        let pairs = [pair([3.0, 0.0], 1.0), pair([0.0, 1.0], 0.2), pair([-1.0, 0.0], -0.6)];
        let examples: Vec<Vectors> = pairs.iter().map(|(texts, label)| (&texts[..], label.clone())).collect();
        let (metrics, loss, worst) = evaluated(&examples);
        // The cosines 1, 0, -1 are a linear function of the scores.
        for name in ["pearson", "spearmanr"] {
            assert!((value(&metrics, name) - 1.0).abs() < 1e-6, "{name}: {metrics:?}");
        }
        assert_eq!((metrics.len(), loss), (2, None));
        let rows = worst.unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.example).collect::<Vec<_>>(), [2, 1, 0]);
        let near = rows[1].numbers.iter().zip([0.2, 0.0, 0.04]).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near, "{rows:?}");
    }

    #[test]
    fn rows_of_examples_with_negatives() {
        let rows = Rows::of(&[2, 4, 2], 10);
        assert_eq!(rows, Rows { texts: vec![0, 2, 6], others: vec![1, 3, 4, 5, 7], matches: vec![10, 11, 14] });
    }
}
