//! Processing of logits and sampling, as transformers' logits processors and warpers do it, in their order. Scores are
//! f32 `[n, vocab]`.

use super::settings::Sampling;
use crate::ffi::transfer;
use tch::{Kind, Tensor};

const NEVER: f64 = f64::NEG_INFINITY;

/// Applies the repetition penalty to tokens of a row's history: positive scores are divided by `penalty`, others
/// multiplied. A history has at least one token.
pub fn penalize(scores: &Tensor, histories: &[Vec<u32>], penalty: f64) -> Tensor {
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

/// Masks some tokens in some rows.
pub fn forbid(scores: &Tensor, rows: &[i64], tokens: &[u32]) -> Tensor {
    if rows.is_empty() || tokens.is_empty() {
        return scores.shallow_clone();
    }
    let tokens: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
    let [rows, tokens] = [rows, &tokens].map(|ids| transfer::to_device(Tensor::from_slice(ids), scores.device()));
    let never = scores.new_full([1], NEVER, (scores.kind(), scores.device()));
    scores.index_put(&[Some(rows.unsqueeze(1)), Some(tokens)], &never, false)
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

    fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        Vec::try_from(t).unwrap()
    }

    #[test]
    fn a_repeated_token_is_penalized_once() {
        let scores = Tensor::from_slice(&[2.0f32, -2.0, 3.0, 4.0, -1.0, 0.5]).view([2, 3]);
        let changed = penalize(&scores, &[vec![0, 1, 0, 0], vec![2]], 2.0);
        assert_eq!(rows(&changed), [[1.0, -4.0, 3.0], [4.0, -1.0, 0.25]]);
        let forbidden = forbid(&scores, &[1], &[0, 2]);
        assert_eq!(rows(&forbidden), [[2.0, -2.0, 3.0], [f32::NEG_INFINITY, -1.0, f32::NEG_INFINITY]]);
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
