//! Processing of logits and sampling, as transformers' logits processors and warpers do it, in their order. Scores are
//! f32 `[n, vocab]`.

use super::settings::{Sampling, Settings};
use crate::ffi::transfer;
use tch::{Kind, Tensor};

const NEVER: f64 = f64::NEG_INFINITY;

/// A text whose next token is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The tokens before the first new one, and the new ones; not empty.
    pub tokens: [&'a [u32]; 2],
    /// Minimum and maximum number of new tokens.
    pub min_new: usize,
    pub max_new: usize,
}

/// Applies what is common to all searches to the scores of each row: the repetition penalty, no repeated n-grams, no EOS
/// before the minimum length, and forced tokens.
pub fn process(scores: &Tensor, rows: &[Row], settings: &Settings) -> Tensor {
    let mut scores = scores.shallow_clone();
    if settings.repetition_penalty != 1.0 {
        let histories: Vec<Vec<u32>> = rows.iter().map(|row| row.tokens.concat()).collect();
        scores = penalize(&scores, &histories, settings.repetition_penalty);
    }
    if settings.no_repeat_ngram_size > 0 {
        let repeated = |row: &Row| repetitions(&row.tokens.concat(), settings.no_repeat_ngram_size);
        let pairs = (0..).zip(rows).flat_map(|(i, row)| repeated(row).into_iter().map(move |id| (i, i64::from(id))));
        let (rows, tokens): (Vec<i64>, Vec<i64>) = pairs.unzip();
        scores = put(&scores, &rows, &tokens, NEVER);
    }
    let with = |is: fn(&Row, usize) -> bool, tokens: &[u32]| -> (Vec<i64>, Vec<i64>) {
        let rows = (0..).zip(rows).filter(|(_, row)| is(row, row.tokens[1].len())).map(|(i, _)| i);
        rows.flat_map(|i| tokens.iter().map(move |&id| (i, i64::from(id)))).unzip()
    };
    let (rows, tokens) = with(|row, new| new < row.min_new, &settings.eos);
    scores = put(&scores, &rows, &tokens, NEVER);
    for (rows, tokens) in [
        with(|_, new| new == 0, settings.forced_bos.as_slice()),
        with(|row, new| new + 1 == row.max_new, settings.forced_eos.as_slice()),
    ] {
        scores = put(&masked(&scores, &rows), &rows, &tokens, 0.0);
    }
    scores
}

/// Applies the repetition penalty to tokens of a row's history: positive scores are divided by `penalty`, others
/// multiplied. A history has at least one token.
fn penalize(scores: &Tensor, histories: &[Vec<u32>], penalty: f64) -> Tensor {
    let longest = histories.iter().map(Vec::len).max().unwrap_or(0);
    // A repeated token is penalized once: the values are computed before they are written.
    let row = |ids: &Vec<u32>| -> Vec<i64> { ids.iter().cycle().take(longest).map(|&id| i64::from(id)).collect() };
    let ids: Vec<i64> = histories.iter().flat_map(row).collect();
    let ids = Tensor::from_slice(&ids).view([histories.len() as i64, longest as i64]);
    let ids = transfer::to_device(ids, scores.device());
    let found = scores.gather(1, &ids, false);
    let changed = (&found * penalty).where_self(&found.lt(0.0), &(&found / penalty));
    scores.scatter(1, &ids, &changed)
}

/// Returns the tokens that would complete an n-gram of this size that occurs already.
fn repetitions(history: &[u32], size: usize) -> Vec<u32> {
    let Some(start) = (history.len() + 1).checked_sub(size) else { return Vec::new() };
    let ngrams = history.windows(size).filter(|ngram| ngram[..size - 1] == history[start..]);
    ngrams.map(|ngram| ngram[size - 1]).collect()
}

/// Sets the scores of these tokens, each in the row with the same index.
fn put(scores: &Tensor, rows: &[i64], tokens: &[i64], score: f64) -> Tensor {
    if rows.is_empty() {
        return scores.shallow_clone();
    }
    let [rows, tokens] = [rows, tokens].map(|ids| transfer::to_device(Tensor::from_slice(ids), scores.device()));
    let score = scores.new_full([1], score, (scores.kind(), scores.device()));
    scores.index_put(&[Some(rows), Some(tokens)], &score, false)
}

/// Masks all tokens of these rows.
fn masked(scores: &Tensor, rows: &[i64]) -> Tensor {
    if rows.is_empty() {
        return scores.shallow_clone();
    }
    scores.index_fill(0, &transfer::to_device(Tensor::from_slice(rows), scores.device()), NEVER)
}

/// Applies temperature, top-k and top-p.
pub fn warp(scores: &Tensor, sampling: &Sampling) -> Tensor {
    let Sampling { temperature, top_k, top_p } = *sampling;
    let vocab = scores.size()[1];
    let mut scores = scores.shallow_clone();
    if temperature != 1.0 {
        scores /= temperature;
    }
    if top_k > 0 {
        let kth = last(&scores.topk((top_k as i64).min(vocab), -1, true, true).0);
        scores = scores.masked_fill(&scores.lt_tensor(&kth), NEVER);
    }
    if top_p < 1.0 {
        let (sorted, order) = scores.sort(-1, false);
        let unlikely = sorted.softmax(-1, Kind::Float).cumsum(-1, Kind::Float).le(1.0 - top_p);
        // The most probable token always stays.
        _ = last(&unlikely).fill_(0);
        scores = scores.masked_fill(&unlikely.scatter(1, &order, &unlikely), NEVER);
    }
    scores
}

/// Samples a token per row by the inverse cumulative distribution: the first token at which the sum of probabilities,
/// in the order of token ids, exceeds the row's number in [0, 1). i64 `[n]`.
pub fn sample(scores: &Tensor, uniforms: &[f64]) -> Tensor {
    let sums = scores.softmax(-1, Kind::Double).cumsum(-1, Kind::Double);
    let uniforms = transfer::to_device(Tensor::from_slice(uniforms).unsqueeze(1), scores.device());
    let reached = uniforms * last(&sums);
    sums.le_tensor(&reached).sum_dim_intlist(-1, false, Kind::Int64)
}

/// The last column, `[n, 1]`.
fn last(x: &Tensor) -> Tensor {
    x.slice(1, -1, None, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};

    fn settings(file: &Value) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), file.to_string()).unwrap();
        Settings::read(dir.path(), &Map::new()).unwrap()
    }

    fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        Vec::try_from(t).unwrap()
    }

    #[test]
    fn a_repeated_token_is_penalized_once() {
        let scores = Tensor::from_slice(&[2.0f32, -2.0, 3.0, 4.0, -1.0, 0.5]).view([2, 3]);
        let changed = penalize(&scores, &[vec![0, 1, 0, 0], vec![2]], 2.0);
        assert_eq!(rows(&changed), [[1.0, -4.0, 3.0], [4.0, -1.0, 0.25]]);
    }

    #[test]
    fn an_ngram_is_not_repeated() {
        let history = [5, 6, 7, 5, 6, 8, 5, 6];
        assert_eq!((repetitions(&history, 3), repetitions(&history, 2)), (vec![7, 8], vec![7, 8]));
        assert_eq!((repetitions(&history, 4), repetitions(&history[..5], 3)), (vec![], vec![7]));
        assert_eq!((repetitions(&[5, 6], 1), repetitions(&[5], 3)), (vec![5, 6], vec![]));
    }

    #[test]
    fn tokens_are_forbidden_and_forced() {
        let file = json!({"eos_token_id": [0, 2], "forced_bos_token_id": 1, "forced_eos_token_id": 2});
        let settings = settings(&file);
        let row = |new| Row { tokens: [&[1], new], min_new: 2, max_new: 3 };
        let all: [&[u32]; 4] = [&[], &[1], &[1, 1], &[1, 1, 1]];
        let scores = Tensor::ones([4, 3], (Kind::Float, tch::Device::Cpu));
        let never = f32::NEG_INFINITY;
        let wanted = [[never, 0.0, never], [never, 1.0, never], [never, never, 0.0], [1.0, 1.0, 1.0]];
        assert_eq!(rows(&process(&scores, &all.map(row), &settings)), wanted);
    }

    #[test]
    fn the_likeliest_stay() {
        let kept = |sampling: Sampling| -> Vec<i64> {
            // Probabilities 0.1, 0.4, 0.3, 0.2.
            let scores = Tensor::from_slice(&[0.1f32, 0.4, 0.3, 0.2]).log().view([1, 4]);
            let warped = warp(&scores, &sampling);
            Vec::try_from(warped.isfinite().nonzero().select(1, 1)).unwrap()
        };
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
        assert_eq!(kept(all), [0, 1, 2, 3]);
        assert_eq!(kept(Sampling { top_k: 2, ..all }), [1, 2]);
        assert_eq!(kept(Sampling { top_p: 0.75, ..all }), [1, 2, 3]);
        assert_eq!(kept(Sampling { top_p: 0.0, ..all }), [1]);
        // At temperature 1/2, probabilities are squared: 0.53 and 0.3 of them add up to 0.83.
        assert_eq!(kept(Sampling { temperature: 0.5, top_p: 0.75, ..all }), [1, 2]);
    }

    #[test]
    fn a_draw_inverts_the_distribution() {
        let scores = Tensor::from_slice(&[0.25f32, 0.0, 0.5, 0.25]).log().view([1, 4]).repeat([6, 1]);
        let sampled = sample(&scores, &[0.0, 0.2, 0.26, 0.74, 0.76, 1.0 - f64::EPSILON]);
        assert_eq!(Vec::<i64>::try_from(sampled).unwrap(), [0, 0, 2, 2, 3, 3]);
    }
}
