//! Losses against a teacher's outputs: knowledge distillation (arXiv 1503.02531).

use crate::data::ragged::pad;
use tch::{Kind, Reduction, Tensor};

/// Fills rows of unequal lengths: the probability is 0, and its logarithm finite, since 0 times infinity is NaN.
const NOTHING: f64 = -1e20;

/// Returns `T^2 KL(softmax(teacher / T) || softmax(student / T))` of each row, f32 `[n]`, from logits `[n, C]`; T is
/// the temperature. The gradient of a cross entropy at temperature T has the factor 1 / T^2, hence T^2.
pub(super) fn divergence([student, teacher]: [&Tensor; 2], temperature: f64) -> Tensor {
    let log_probabilities = |logits: &Tensor| (logits / temperature).log_softmax(-1, Kind::Float);
    let (student, teacher) = (log_probabilities(student), log_probabilities(teacher));
    let each = teacher.exp() * (&teacher - student);
    each.sum_dim_intlist([-1i64].as_slice(), false, Kind::Float) * (temperature * temperature)
}

/// The same over rows of these lengths, from logits `[sum of lengths]`; `positions` as for [`pad`].
pub(super) fn ragged_divergence(
    logits: [&Tensor; 2],
    lengths: &[i64],
    positions: Option<&Tensor>,
    temperature: f64,
) -> Tensor {
    let [student, teacher] = logits.map(|logits| pad(logits, lengths, positions, NOTHING));
    divergence([&student, &teacher], temperature)
}

/// Returns `T^2` times the binary cross entropy of `sigmoid(student / T)` with probabilities `sigmoid(teacher / T)`,
/// the mean over C of each row, f32 `[n]`, from logits `[n, C]`.
pub(super) fn binary([student, teacher]: [&Tensor; 2], temperature: f64) -> Tensor {
    let probabilities = (teacher / temperature).sigmoid();
    let student = student / temperature;
    let each = student.binary_cross_entropy_with_logits::<Tensor>(&probabilities, None, None, Reduction::None);
    each.mean_dim(1, false, Kind::Float) * (temperature * temperature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ragged::padded_positions;
    use crate::ffi;
    use tch::Device;

    /// Logits `[n, C]` that are not small.
    fn logits(shift: f64) -> Tensor {
        ((Tensor::arange(15, (Kind::Double, Device::Cpu)) * 1.7 + shift).sin() * 6.0).view([5, 3])
    }

    /// Compares losses and their gradient with those of the formula in fp64.
    fn check(what: &str, ours: impl Fn(&Tensor, &Tensor) -> Tensor, formula: impl Fn(&Tensor, &Tensor) -> Tensor) {
        let (student, teacher) = (logits(0.0), logits(1.3));
        let computed = |kind: Kind, loss: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
            let student = student.to_kind(kind).set_requires_grad(true);
            let losses = loss(&student, &teacher.to_kind(kind));
            ffi::backward(&[&losses], &[&losses.full_like(0.2)]).unwrap();
            (losses.detach().to_kind(Kind::Double), student.grad().to_kind(Kind::Double))
        };
        let (found, expected) = (computed(Kind::Float, &ours), computed(Kind::Double, &formula));
        for (name, found, expected) in [("loss", found.0, expected.0), ("gradient", found.1, expected.1)] {
            assert_eq!(found.size(), expected.size(), "{what}: {name}");
            let error = (&found - &expected).abs().max().double_value(&[]);
            let scale = expected.abs().max().double_value(&[]);
            assert!(scale > 1e-3 && error <= 1e-6 * scale, "{what}: {name} differs by {error:e} of {scale:e}");
        }
    }

    #[test]
    fn losses_are_those_of_the_formulas() {
        for temperature in [0.7, 1.0, 4.0] {
            let softmax = |x: &Tensor| {
                let powers = (x / temperature).exp();
                &powers / powers.sum_dim_intlist([1i64].as_slice(), true, Kind::Double)
            };
            let factor = temperature * temperature;
            let divergence_of = |student: &Tensor, teacher: &Tensor| {
                let (p, q) = (softmax(teacher), softmax(student));
                let each = &p * (&p / q).log();
                each.sum_dim_intlist([1i64].as_slice(), false, Kind::Double) * factor
            };
            check("divergence", |s, t| divergence([s, t], temperature), divergence_of);
            let binary_of = |student: &Tensor, teacher: &Tensor| {
                let probability = |x: &Tensor| ((x / -temperature).exp() + 1.0).reciprocal();
                let (p, q) = (probability(teacher), probability(student));
                let other = |x: &Tensor| x.ones_like() - x;
                let each = &p * q.log() + other(&p) * other(&q).log();
                each.mean_dim(1, false, Kind::Double) * -factor
            };
            check("binary", |s, t| binary([s, t], temperature), binary_of);
            // Rows of 6, 2 and 7 numbers.
            let lengths = [6, 2, 7];
            let positions = padded_positions(&lengths);
            let ragged = |s: &Tensor, t: &Tensor| {
                ragged_divergence([&s.view(-1), &t.view(-1)], &lengths, positions.as_ref(), temperature)
            };
            let rows = |student: &Tensor, teacher: &Tensor| {
                let (student, teacher) = (student.view([1, -1]), teacher.view([1, -1]));
                let row = |(start, n): (i64, i64)| {
                    let [student, teacher] = [&student, &teacher].map(|x| x.narrow(1, start, n));
                    divergence_of(&student, &teacher)
                };
                Tensor::cat(&[(0, 6), (6, 2), (8, 7)].map(row), 0)
            };
            check("ragged", ragged, rows);
        }
    }

    #[test]
    fn a_student_like_its_teacher_has_no_loss() {
        let same = logits(0.5).to_kind(Kind::Float);
        assert_eq!(divergence([&same, &same], 2.0).abs().max().double_value(&[]), 0.0);
    }
}
