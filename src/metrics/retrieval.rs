//! Metrics of retrieval, as `InformationRetrievalEvaluator` of sentence-transformers defines them.

/// Number of documents of a ranking that count.
pub const DEPTH: usize = 10;

/// The ranking of the documents for a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Places of relevant documents among the first [`DEPTH`], from 0, ascending.
    pub places: Vec<usize>,
    /// Number of relevant documents, at least 1.
    pub relevant: usize,
}

impl Ranked {
    fn found(&self, k: usize) -> usize {
        self.places.iter().filter(|&&place| place < k).count()
    }

    fn recall(&self, k: usize) -> f64 {
        self.found(k) as f64 / self.relevant as f64
    }

    fn reciprocal_rank(&self) -> f64 {
        self.places.first().map_or(0.0, |&place| 1.0 / (place as f64 + 1.0))
    }

    /// The discounted cumulative gain divided by that of a ranking that begins with the relevant documents.
    fn ndcg(&self) -> f64 {
        let gain = |place: usize| 1.0 / (place as f64 + 2.0).log2();
        let best: f64 = (0..self.relevant.min(DEPTH)).map(gain).sum();
        self.places.iter().copied().map(gain).sum::<f64>() / best
    }
}

/// Returns the means over queries: the fraction with a relevant document in first place, the fraction of relevant
/// documents among the first k, the reciprocal rank of the first relevant one, and nDCG. `None` without queries.
pub fn retrieval(queries: &[Ranked]) -> Option<[(&'static str, f64); 6]> {
    let mean = |value: &dyn Fn(&Ranked) -> f64| queries.iter().map(value).sum::<f64>() / queries.len() as f64;
    (!queries.is_empty()).then(|| {
        [
            ("accuracy@1", mean(&|query| query.found(1) as f64)),
            ("recall@1", mean(&|query| query.recall(1))),
            ("recall@5", mean(&|query| query.recall(5))),
            ("recall@10", mean(&|query| query.recall(10))),
            ("mrr@10", mean(&Ranked::reciprocal_rank)),
            ("ndcg@10", mean(&Ranked::ndcg)),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::reference::{close, counts, list, number};
    use serde_json::Value;

    #[test]
    fn metrics_are_those_of_sentence_transformers() {
        for case in list(include_str!("../../tests/reference/metrics/retrieval.json"), "rankings") {
            let query = |(places, relevant): (&Value, usize)| Ranked { places: counts(places), relevant };
            let relevant: Vec<usize> = counts(&case["relevant"]);
            let queries = case["places"].as_array().unwrap().iter().zip(relevant).map(query).collect::<Vec<_>>();
            for (name, value) in retrieval(&queries).unwrap() {
                close(value, number(&case[name]), &case);
            }
        }
        assert_eq!(retrieval(&[]), None);
    }
}
