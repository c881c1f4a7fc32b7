use super::*;
use crate::ops::testing::{compare, mask, noise};
use tch::Kind;

/// Every activation, with and without bias and dropout, of a single row and of more rows than a piece.
#[test]
fn gated_layers_are_their_formula() {
    use Activation::{Gelu, GeluTanh, Relu, Silu, Tanh};
    let f = Kind::Float;
    for (rows, inner, out) in [(1, 3, 2), (300, 17, 5)] {
        for activation in [Gelu, GeluTanh, Relu, Silu, Tanh] {
            for (bias, drops) in [(false, None), (true, Some((0.25, 5)))] {
                let mut inputs = vec![noise(&[rows, 2 * inner], 1, f) * 1.5, noise(&[out, inner], 2, f)];
                inputs.extend(bias.then(|| noise(&[out], 3, f)));
                let own = |x: &[Tensor]| vec![gated_linear(&x[0], activation, drops, &x[1], x.get(2))];
                let formula = |x: &[Tensor]| {
                    let y = activation.forward(&x[0].narrow(1, 0, inner)) * x[0].narrow(1, inner, inner);
                    let y = drops.map_or(y.shallow_clone(), |(p, key)| &y * mask(&[rows, inner], p, key));
                    vec![y.linear(&x[1], x.get(2))]
                };
                compare(&format!("{activation:?}, {rows} rows, dropout {drops:?}"), &inputs, own, formula);
            }
        }
    }
}
