use super::*;
use crate::ops::testing::{compare, noise};
use tch::Kind;

/// Queries and keys are rotated, values are not; more rows than a piece of half types.
#[test]
fn rotations_are_their_formula() {
    for (rows, heads, rotated, half) in [(1, 3, 2, 2), (600, 6, 4, 5)] {
        let angles = noise(&[rows, half], 9, Kind::Double) * 3.0;
        let x = noise(&[rows, heads * 2 * half], 1, Kind::Float);
        let own = |x: &[Tensor]| {
            let angles = Angles { cos: angles.cos().to_kind(x[0].kind()), sin: angles.sin().to_kind(x[0].kind()) };
            vec![angles.rotate(&x[0] * 1.0, rotated)]
        };
        let formula = |x: &[Tensor]| {
            let all = x[0].view([rows, heads, 2 * half]);
            let turned = all.narrow(1, 0, rotated);
            let (a, b) = (turned.narrow(2, 0, half), turned.narrow(2, half, half));
            let (cos, sin) = (angles.cos().unsqueeze(1), angles.sin().unsqueeze(1));
            let turned = Tensor::cat(&[&a * &cos - &b * &sin, &b * &cos + &a * &sin], 2);
            let rest = all.narrow(1, rotated, heads - rotated);
            vec![Tensor::cat(&[turned, rest], 1).view([rows, heads * 2 * half])]
        };
        compare(&format!("{rows} rows of {heads} heads"), &[x], own, formula);
    }
}

/// A gradient that others see is not rotated in place.
#[test]
fn a_shared_gradient_keeps_its_values() {
    let angles =
        Angles { cos: Tensor::from_slice(&[0.6f32]).view([1, 1]), sin: Tensor::from_slice(&[0.8f32]).view([1, 1]) };
    let x = Tensor::from_slice(&[1.0f32, 2.0]).view([1, 2]).set_requires_grad(true);
    let g = Tensor::from_slice(&[3.0f32, 4.0]).view([1, 2]);
    crate::ffi::backward(&[&angles.rotate(&x * 1.0, 1)], &[&g]).unwrap();
    assert_eq!(Vec::<f32>::try_from(g.view(-1)).unwrap(), [3.0, 4.0]);
    assert!(x.grad().allclose(&Tensor::from_slice(&[5.0f32, 0.0]).view([1, 2]), 1e-6, 1e-6, false));
}
