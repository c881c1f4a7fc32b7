//! Class weights, label smoothing and weights of examples: loss and every gradient are torch's.

use crate::common::reference::{Reference, folder, gradients};
use tch::Kind;
use trainer::checkpoint::tensors::TensorFile;
use trainer::data::objective::Objective;

/// As in tests/reference/losses.py.
const SMOOTHING: f64 = 0.2;

#[test]
fn weighted_and_smoothed_losses_are_those_of_torch() {
    let values = TensorFile::open(&folder("losses.safetensors")).unwrap();
    let classes = Some(vec![0.5, 2.0, 3.0]);
    for (name, case, class_weights, label_smoothing) in [
        ("classes", "bert-classification", classes.clone(), SMOOTHING),
        ("classes-weighted", "bert-classification", classes, 0.0),
        ("tokens", "cases/bert-tokens", Some(vec![0.25, 1.0, 4.0, 0.0, 2.0]), SMOOTHING),
        ("next-token", "cases/gpt2-causal", None, SMOOTHING),
        ("examples", "bert-classification", Some(vec![0.5, 2.0, 3.0]), SMOOTHING),
        ("examples-numbers", "bert-pairs-regression", None, 0.0),
        ("examples-flags", "cases/bert-multi-label", None, 0.0),
    ] {
        let reference = Reference::open(case);
        let reference = if name.starts_with("examples") { reference.weighted() } else { reference };
        let mut loaded = reference.load(&reference.head());
        let batch = reference.batch_for(Objective { label_smoothing, class_weights, neftune_alpha: 0.0 });
        let (loss, found) = gradients(&mut loaded, &batch, 1.0);
        let expected = values.read(&format!("{name}.loss")).unwrap().double_value(&[0]);
        assert!((loss / expected - 1.0).abs() < 1e-6, "{name}: {loss}, not {expected}");
        let prefix = format!("{name}.grad.");
        assert_eq!(found.len(), values.names().iter().filter(|other| other.starts_with(&prefix)).count(), "{name}");
        let square =
            |gradient: &tch::Tensor| gradient.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
        let all: f64 = found.iter().map(|(_, gradient)| square(gradient)).sum::<f64>().sqrt();
        for (parameter, gradient) in &found {
            let expected = values.read(&format!("{prefix}{parameter}")).unwrap();
            let error = square(&(gradient - &expected)).sqrt();
            assert!(error <= 1e-5 * square(&expected).sqrt() + 1e-6 * all, "{name}: {parameter} differs by {error:e}");
        }
    }
}
