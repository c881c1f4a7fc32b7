//! Layer norm and RMS norm, with the dropout and the residual addition before them.

use super::cost::{ComputeMode, Cost};
use super::{done, dropout};
use crate::ffi;
use tch::{Kind, Tensor};

/// The kind of normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// arXiv 1607.06450: mean and variance.
    Layer,
    /// The same without a shift.
    LayerWithoutBias,
    /// arXiv 1910.07467: the root of the mean square.
    Rms,
}

/// Parameters of a normalization over the last dimension.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    pub kind: NormKind,
    /// `[size]`.
    pub weight: &'a Tensor,
    /// `[size]`, of [`NormKind::Layer`] only.
    pub bias: Option<&'a Tensor>,
    pub eps: f64,
}

/// Normalizes `x`, `[.., size]`. Half types are computed in fp32; RMS norm rounds them before scaling, as in Llama.
pub fn norm(x: &Tensor, how: Norm) -> Tensor {
    if ffi::kernels::available(x) {
        let rows = x.reshape([-1, how.weight.size()[0]]);
        let y = ffi::ops::norm(&rows, (how.weight, how.bias), how.kind != NormKind::Rms, how.eps);
        return done(y, "norm", x).view_as(x);
    }
    match how.kind {
        NormKind::Layer | NormKind::LayerWithoutBias => {
            x.layer_norm(how.weight.size(), Some(how.weight), how.bias, how.eps, false)
        }
        NormKind::Rms => {
            let wide = x.to_kind(Kind::Float);
            let mean = wide.square().mean_dim([-1i64].as_slice(), true, Kind::Float);
            (&wide * (mean + how.eps).rsqrt()).to_kind(x.kind()) * how.weight
        }
    }
}

/// Returns `sum = residual + dropout(x)` and `norm(sum)`, all `[T, size]`; the dropout is (p, key).
pub fn residual_norm(x: Tensor, residual: &Tensor, drops: Option<(f64, u64)>, how: Norm) -> (Tensor, Tensor) {
    if ffi::kernels::available(&x) {
        let (weights, layer) = ((how.weight, how.bias), how.kind != NormKind::Rms);
        let [y, sum] = done(ffi::ops::residual_norm(&x, residual, drops, weights, layer, how.eps), "residual norm", &x);
        return (sum, y);
    }
    let sum = drops.map_or(x.shallow_clone(), |(p, key)| dropout::dropout(x, p, key)) + residual;
    let y = norm(&sum, how);
    (sum, y)
}

/// Returns the cost of [`norm`] for this many rows; the input, if it is counted here, and two numbers per row are kept.
pub fn cost(how: &ComputeMode, kind: NormKind, rows: f64, size: f64, keeps: bool) -> Cost {
    let (e, numbers) = (how.element(), rows * size);
    if how.cpu {
        let input = if keeps { e * numbers } else { 0.0 };
        let wide = how.wide(rows.min(PIECE) * size);
        return Cost::op(8.0 * rows + input, e * numbers, e * numbers, [2.0 * wide, 3.0 * wide]);
    }
    match kind {
        NormKind::Layer | NormKind::LayerWithoutBias => {
            let kept = 8.0 * rows + if keeps { e * numbers } else { 0.0 };
            Cost::op(kept, e * numbers, e * numbers, [0.0; 2])
        }
        NormKind::Rms => {
            let input = if keeps || e < 4.0 { 4.0 * numbers } else { 0.0 };
            let wide = 4.0 * numbers;
            Cost::op(8.0 * rows + input + e * numbers, e * numbers, e * numbers, [wide, 2.0 * wide])
        }
    }
}

/// Rows of half types that are converted to fp32 at a time.
const PIECE: f64 = 512.0;

/// Returns the cost of [`residual_norm`]; the sum is kept.
pub fn residual_cost(how: &ComputeMode, kind: NormKind, rows: f64, size: f64, p: f64) -> Cost {
    let numbers = rows * size;
    if how.cpu {
        // Without dropout both inputs have the same gradient.
        let sum = how.element() * numbers;
        let op = cost(how, kind, rows, size, true);
        let dropped = if p > 0.0 && how.train { sum } else { 0.0 };
        return Cost { backward: op.backward + dropped, alone: op.alone + sum, ..op };
    }
    dropout::cost(how, numbers, p).then(cost(how, kind, rows, size, true))
}

#[cfg(test)]
mod tests;
