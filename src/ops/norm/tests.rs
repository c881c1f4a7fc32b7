use super::*;
use crate::ops::testing::{compare, mask, noise};

fn plain(sum: &Tensor, kind: NormKind, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let mean = |x: &Tensor| x.mean_dim([-1i64].as_slice(), true, Kind::Double);
    let centered = if kind != NormKind::Rms { sum - mean(sum) } else { sum.shallow_clone() };
    let y = &centered * (mean(&centered.square()) + 1e-5).rsqrt() * weight;
    bias.map_or(y.shallow_clone(), |bias| &y + bias)
}

/// All kinds, with and without residual and dropout: a single row, odd widths, more rows than a piece of half types.
#[test]
fn norms_are_their_formulas() {
    let f = Kind::Float;
    for (rows, size) in [(1, 7), (3, 64), (1030, 33)] {
        for kind in [NormKind::Layer, NormKind::LayerWithoutBias, NormKind::Rms] {
            let shifts = kind == NormKind::Layer;
            let mut inputs = vec![noise(&[rows, size], 1, f) + 0.3, noise(&[size], 2, f)];
            inputs.extend(shifts.then(|| noise(&[size], 3, f)));
            let with = |x: &[Tensor]| x.get(2).map(Tensor::shallow_clone);
            let own = |x: &[Tensor]| {
                let bias = with(x);
                vec![norm(&x[0], Norm { kind, weight: &x[1], bias: bias.as_ref(), eps: 1e-5 })]
            };
            let formula = |x: &[Tensor]| vec![plain(&x[0], kind, &x[1], with(x).as_ref())];
            compare(&format!("{kind:?} norm of {rows} x {size}"), &inputs, own, formula);

            for drops in [None, Some((0.4, 77))] {
                let mut inputs = vec![noise(&[rows, size], 4, f), noise(&[rows, size], 5, f), noise(&[size], 6, f)];
                inputs.extend(shifts.then(|| noise(&[size], 7, f)));
                let with = |x: &[Tensor]| x.get(3).map(Tensor::shallow_clone);
                let own = |x: &[Tensor]| {
                    let bias = with(x);
                    let how = Norm { kind, weight: &x[2], bias: bias.as_ref(), eps: 1e-5 };
                    let (sum, y) = residual_norm(x[0].shallow_clone(), &x[1], drops, how);
                    vec![sum, y]
                };
                let formula = |x: &[Tensor]| {
                    let dropped = drops.map_or(x[0].shallow_clone(), |(p, key)| &x[0] * mask(&[rows, size], p, key));
                    let sum = dropped + &x[1];
                    vec![sum.shallow_clone(), plain(&sum, kind, &x[2], with(x).as_ref())]
                };
                compare(&format!("residual {kind:?} norm of {rows} x {size}, {drops:?}"), &inputs, own, formula);
            }
        }
    }
}
