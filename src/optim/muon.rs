//! Muon (Keller Jordan, kellerjordan.github.io/posts/muon): momentum, orthogonalized by a Newton-Schulz iteration, as
//! `torch.optim.Muon` of torch 2.11, which iterates in bf16.

use crate::error::Result;
use crate::optim::gradient::{Part, narrow, overlap};
use crate::optim::held::Held;
use crate::optim::pieces::{Piece, UnitUpdate};
use tch::{Kind, Tensor};

/// The state's name: the exponential moving average of gradients.
pub const MOMENTUM: &str = "momentum_buffer";
/// Coefficients of the quintic iteration, and the least norm, as in the original.
const COEFFICIENTS: (f64, f64, f64) = (3.4445, -4.7750, 2.0315);
const LEAST_NORM: f64 = 1e-7;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonConfig {
    pub momentum: f64,
    pub nesterov: bool,
    /// Number of Newton-Schulz iterations.
    pub ns_steps: u64,
    pub adjust: AdjustLr,
}

/// The factor of the learning rate for a matrix of A rows and B columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdjustLr {
    /// sqrt(max(1, A / B)).
    Original,
    /// 0.2 sqrt(max(A, B)), so that updates are as large as AdamW's (arXiv 2502.16982).
    MatchRmsAdamW,
}

impl AdjustLr {
    fn factor(self, [rows, columns]: [i64; 2]) -> f64 {
        match self {
            AdjustLr::Original => (rows as f64 / columns as f64).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamW => 0.2 * (rows.max(columns) as f64).sqrt(),
        }
    }
}

/// Updates the hidden matrices of a unit and their `momentum`. `gather` returns the elements of all ranks, given those of this one. A rank
/// orthogonalizes the matrices of which it owns a part; since all ranks see the same bf16 values, results do not depend
/// on the number of ranks.
pub fn update(
    config: &MuonConfig,
    unit: UnitUpdate,
    momentum: &Held,
    parts: &[Part],
    gather: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let UnitUpdate { pieces, owned, weights, grads, grad_scale } = unit;
    let own = Tensor::f_zeros([owned.end - owned.start], (Kind::BFloat16, weights.device()))?;
    let hidden = || pieces.iter().filter(|piece| piece.hidden);
    let each = |piece: &Piece| parts.iter().map(|part| (part, overlap(&part.range, &piece.range))).collect::<Vec<_>>();
    for (part, range) in hidden().flat_map(each) {
        let range = overlap(&range, owned);
        let Some(mut average) = momentum.part(&range).filter(|_| !range.is_empty()) else { continue };
        let at = |buffer: &Tensor| narrow(buffer, &range, owned.start);
        let grad = part.gradient(&at(weights), &at(grads), grad_scale)?;
        _ = average.f_lerp_(&grad, 1.0 - config.momentum)?;
        let step = if config.nesterov { grad.f_lerp(&average, config.momentum)? } else { average };
        at(&own).f_copy_(&step)?;
    }
    let whole = gather(&own)?;
    for piece in hidden() {
        let (Some(shape), mine) = (piece.matrix, overlap(&piece.range, owned)) else { continue };
        if mine.is_empty() {
            continue;
        }
        let step = orthogonalized(&narrow(&whole, &piece.range, 0).f_view(shape)?, config.ns_steps)?;
        let step = step.f_contiguous()?.f_view([-1])?;
        for (part, range) in each(piece) {
            let range = overlap(&range, &mine);
            if range.is_empty() {
                continue;
            }
            let mut weights = narrow(weights, &range, owned.start);
            let step = narrow(&step, &range, piece.range.start).f_to_kind(Kind::Float)?;
            _ = weights.f_mul_scalar_(1.0 - part.learning_rate * part.weight_decay)?;
            _ = weights.f_sub_(&(step * (part.learning_rate * config.adjust.factor(shape))))?;
        }
    }
    Ok(())
}

/// Returns an approximation of U V' for a matrix U S V' in bf16, by `steps` iterations.
fn orthogonalized(matrix: &Tensor, steps: u64) -> Result<Tensor> {
    let (a, b, c) = COEFFICIENTS;
    let tall = matrix.size()[0] > matrix.size()[1];
    let x = if tall { matrix.tr() } else { matrix.shallow_clone() };
    // One batch, because tch's addmm has no factors.
    let mut x = x.f_div(&x.f_norm()?.f_clamp_min(LEAST_NORM)?)?.f_unsqueeze(0)?;
    for _ in 0..steps {
        let gram = x.f_bmm(&x.transpose(1, 2))?;
        let update = gram.f_baddbmm(&gram, &gram, b, c)?;
        x = x.f_baddbmm(&update, &x, a, 1.0)?;
    }
    let x = x.f_squeeze_dim(0)?;
    Ok(if tall { x.tr() } else { x })
}
