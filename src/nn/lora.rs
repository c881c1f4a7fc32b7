//! Low-rank adapters of linear layers: LoRA (arXiv 2106.09685) and DoRA (arXiv 2402.09353).
//!
//! LoRA computes `x (W + s B A)^T` with a frozen W `[out, in]`, A `[r, in]` and B `[out, r]`. DoRA divides each row of
//! `W + s B A` by its norm and multiplies it by a trained magnitude. A fused weight (queries, keys, values) has an
//! adapter for each of its parts: A is one matrix of all parts, and the products with B are one matmul with a
//! block-diagonal matrix, so that an adapter of any number of parts is two matmuls.

use crate::nn::param_builder::{Adapter, ParamSpec, Piece};
use crate::nn::{Ctx, Init, ParamId};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::{dropout, linear as op};
use tch::{Kind, Tensor};

/// The settings of an adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraShape {
    pub r: i64,
    /// The factor of B A.
    pub scale: f64,
    pub dropout: f64,
    /// Whether there is a magnitude for each row (DoRA).
    pub dora: bool,
    /// Whether the adapter starts at its initial values, and not from a file.
    pub new: bool,
}

/// Declares the adapter of the linear layer whose weight is `specs[weight]`: `lora_A.weight`, `lora_B.weight`, and with
/// DoRA `lora_magnitude_vector`, in the weight's block, next to its name. `pieces` are the parts of its rows.
///
/// # Panics
/// If the parameter is not a linear layer's weight, or no piece is adapted.
pub fn declare(specs: &mut Vec<ParamSpec>, weight: usize, pieces: &[Piece], how: LoraShape) {
    let base = specs[weight].clone();
    let slot = base.linear.as_ref().expect("the weight of a linear layer");
    let stem = base.name.strip_suffix("weight").unwrap_or(&base.name);
    let inputs = base.shape[1];
    let adapted = pieces.iter().filter(|piece| piece.adapted);
    let (parts, rows) = adapted.fold((0, 0), |(parts, rows), piece| (parts + 1, rows + piece.rows));
    assert!(parts > 0, "{}: an adapter of nothing", base.name);
    let mut add = |name: &str, shape: Vec<i64>, init: Init| {
        specs.push(ParamSpec {
            name: format!("{stem}{name}"),
            decay: shape.len() > 1,
            shape,
            init,
            row_sparse: false,
            newly_initialized: how.new,
            trainable: true,
            linear: None,
            adapter: true,
            ..base.clone()
        });
        ParamId(specs.len() - 1)
    };
    // PEFT's kaiming_uniform_(a=sqrt(5)).
    let bound = 1.0 / (inputs as f64).sqrt();
    let a = add("lora_A.weight", vec![parts * how.r, inputs], Init::Uniform { bound });
    let b = add("lora_B.weight", vec![rows, how.r], Init::Zeros);
    let magnitude = how.dora.then(|| add(MAGNITUDE, vec![rows], Init::RowNorms));
    let LoraShape { r, scale, dropout, .. } = how;
    slot.set(Some(Adapter { pieces: pieces.to_vec(), a, b, magnitude, r, scale, dropout }));
}

/// The end of the name of DoRA's magnitudes.
pub const MAGNITUDE: &str = "lora_magnitude_vector";

/// Returns `x (W + s B A)^T + b`, or with DoRA's magnitudes, of `x` `[T, in]`: `[T, out]`.
///
/// # Panics
/// As [`op::linear`].
pub fn linear(ctx: &mut Ctx, adapter: &Adapter, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let a = ctx.param(adapter.a);
    let b = product_matrix(adapter, ctx.param(adapter.b));
    let base = op::linear(x, weight, bias.filter(|_| adapter.magnitude.is_none()));
    let low = op::linear(&ctx.dropout(x.shallow_clone(), adapter.dropout), a, None);
    let y = plus_product(base, &low, &b);
    let Some(magnitude) = adapter.magnitude else { return y };
    let y = y * row_factors(adapter, ctx.param(magnitude), &row_norms(weight, a, &b)).to_kind(x.kind());
    match bias {
        Some(bias) => y + bias,
        None => y,
    }
}

/// Returns `s B` `[out, parts * r]` from B of the adapted parts: block-diagonal, without a column for other parts.
fn product_matrix(adapter: &Adapter, b: &Tensor) -> Tensor {
    let scaled = if adapter.scale == 1.0 { b.shallow_clone() } else { b * adapter.scale };
    if let [_] = adapter.pieces.as_slice() {
        return scaled;
    }
    let heights: Vec<i64> = adapter.pieces.iter().filter(|piece| piece.adapted).map(|piece| piece.rows).collect();
    let mut blocks = scaled.split_with_sizes(heights, 0).into_iter();
    let each = adapter.pieces.iter().map(|piece| match piece.adapted {
        true => blocks.next().expect("B has the rows of every adapted part"),
        false => b.new_zeros([piece.rows, 0], (b.kind(), b.device())),
    });
    Tensor::block_diag(&each.collect::<Vec<_>>())
}

/// Returns `y + low b^T`; `y` is not used again.
fn plus_product(mut y: Tensor, low: &Tensor, b: &Tensor) -> Tensor {
    if op::upcasts(low) { y + op::linear(low, b, None) } else { y.addmm_(low, &b.tr()) }
}

/// Returns the norm of each row of `W + b a`, f32 `[out]`, a constant for autograd as in DoRA's section 4.3. The product
/// `b a` is not materialized: `|w + b a|^2 = |w|^2 + 2 b (w a^T) + b (a a^T) b^T` for each row.
fn row_norms(weight: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    tch::no_grad(|| {
        let single = |x: &Tensor| x.to_kind(Kind::Float);
        let (wide_a, wide_b) = (single(a), single(b));
        let own = weight.linalg_norm(2.0, [1i64].as_slice(), false, Kind::Float).square();
        let crossed = single(&op::linear(weight, a, None)) * 2.0 + wide_b.matmul(&wide_a.matmul(&wide_a.tr()));
        let change = (crossed * wide_b).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        (own + change).clamp_min(0.0).sqrt()
    })
}

/// Returns the factor of each row, f32 `[out]`: its magnitude divided by its norm, 1 where nothing is adapted.
fn row_factors(adapter: &Adapter, magnitude: &Tensor, norms: &Tensor) -> Tensor {
    let (mut at, mut row, mut parts) = (0, 0, Vec::new());
    for piece in &adapter.pieces {
        let norms = norms.narrow(0, row, piece.rows);
        if piece.adapted {
            parts.push(magnitude.narrow(0, at, piece.rows) / norms);
            at += piece.rows;
        } else {
            parts.push(norms.ones_like());
        }
        row += piece.rows;
    }
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) }
}

/// Returns `W + s B A`, or with DoRA's magnitudes, f32 of the shape of `weight`; `a`, `b` and `magnitude` are the adapter's.
pub fn merged(adapter: &Adapter, weight: &Tensor, a: &Tensor, b: &Tensor, magnitude: Option<&Tensor>) -> Tensor {
    tch::no_grad(|| {
        let single = |x: &Tensor| x.to_kind(Kind::Float);
        let sum = single(weight) + product_matrix(adapter, &single(b)).matmul(&single(a));
        let Some(magnitude) = magnitude else { return sum };
        let norms = sum.linalg_norm(2.0, [1i64].as_slice(), false, Kind::Float);
        sum * row_factors(adapter, &single(magnitude), &norms).unsqueeze(1)
    })
}

/// Returns the cost of a frozen linear layer of this shape for this many rows, with or without an adapter. Only an
/// adapter keeps the input, since a frozen weight has no gradient.
pub fn cost(how: &ComputeMode, adapter: Option<&Adapter>, rows: f64, shape: [i64; 2], keeps: bool) -> Cost {
    let [outputs, inputs] = shape;
    let e = how.element();
    let frozen = op::cost(how, rows, shape, false);
    let frozen = Cost { backward: frozen.backward - e * inputs as f64 * outputs as f64, ..frozen };
    let Some(adapter) = adapter else { return frozen };
    let width = adapter.r * adapter.pieces.iter().filter(|piece| piece.adapted).count() as i64;
    let drops = dropout::cost(how, rows * inputs as f64, adapter.dropout);
    let low = op::cost(how, rows, [width, inputs], keeps || adapter.dropout > 0.0);
    let product = op::cost(how, rows, [outputs, width], true);
    // `s B`, unless it is B itself.
    let is_own = adapter.scale == 1.0 && adapter.pieces.len() == 1;
    let matrix = Cost::keep(if is_own { 0.0 } else { e * (outputs * width) as f64 });
    let y = e * rows * outputs as f64;
    let scaled = match adapter.magnitude {
        // The result before its rows are scaled is kept for the magnitudes' gradient.
        Some(_) => Cost::op(y, y, y, [0.0; 2]),
        None => Cost::default(),
    };
    [frozen, drops, low.beside(y), matrix, product, scaled].into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{ParamBuilder, Params};
    use tch::Device;

    fn random(shape: &[i64], seed: i64) -> Tensor {
        tch::manual_seed(seed);
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// The layer of a fused weight whose second part has no adapter equals one matmul with the merged weight; a row's
    /// norm is that of the materialized sum.
    #[test]
    fn a_layer_is_its_merged_weight() {
        for dora in [false, true] {
            let mut builder = ParamBuilder::new();
            let (id, _) = builder.linear("fused.weight", &[9, 5], Init::Zeros);
            let mut specs = builder.finish();
            let pieces = [(4, true), (2, false), (3, true)].map(|(rows, adapted)| Piece { rows, adapted });
            let how = LoraShape { r: 2, scale: 0.5, dropout: 0.0, dora, new: true };
            declare(&mut specs, id.index(), &pieces, how);
            let slot = specs[0].linear.clone().unwrap();
            let adapter = slot.adapter().unwrap();
            let params = Params::new(specs, 1, Kind::Float, Device::Cpu, false).unwrap();
            tch::no_grad(|| {
                for id in params.ids() {
                    let view = params.view(id);
                    view.shallow_clone().copy_(&random(&view.size(), id.index() as i64));
                }
            });
            let [a, b] = [adapter.a, adapter.b].map(|id| params.view(id));
            let (weight, bias, x) = (params.view(id), random(&[9], 7), random(&[6, 5], 8));
            let magnitude = adapter.magnitude.map(|id| params.view(id));
            let merged = merged(adapter, weight, a, b, magnitude);
            let y = linear(&mut Ctx::eval(&params), adapter, &x, weight, Some(&bias));
            let difference = (&y - x.linear(&merged, Some(&bias))).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "dora {dora}: {difference:e}");
            assert!(merged.narrow(0, 4, 2).equal(&weight.narrow(0, 4, 2).detach()), "a part without an adapter");
            let grown = weight + product_matrix(adapter, b).matmul(a);
            let norms = row_norms(weight, a, &product_matrix(adapter, b));
            let difference = (norms - grown.square().sum_dim_intlist(1, false, Kind::Float).sqrt()).abs().max();
            assert!(difference.double_value(&[]) < 1e-5, "dora {dora}: norms");
        }
    }
}
