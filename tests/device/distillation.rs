//! Losses against a teacher: loss and gradients are torch's.

use crate::common::device::device;
use crate::common::reference::{Reference, folder, gradients};
use tch::{Kind, Tensor};
use trainer::checkpoint::tensors::TensorFile;
use trainer::data::batch::Taught;

/// As in tests/reference/distillation.py.
const TEMPERATURE: f64 = 3.0;
const ALPHA: f64 = 0.7;

#[test]
fn losses_against_a_teacher_are_those_of_torch() {
    let values = TensorFile::open(&folder("distillation.safetensors")).unwrap();
    for (name, case) in [
        ("classes", "bert-classification"),
        ("flags", "cases/bert-multi-label"),
        ("number", "cases/camembert-number"),
        ("tokens", "cases/bert-tokens"),
        ("choice", "cases/bert-choice"),
        ("answers", "cases/bert-answers"),
    ] {
        let reference = Reference::open(case);
        let mut loaded = reference.load(&reference.head());
        let mut batch = reference.batch();
        let teacher = values.read(&format!("{name}.teacher")).unwrap().to_device(device());
        batch.taught = Some(Taught { logits: vec![teacher], temperature: TEMPERATURE });
        // The mean of each term has its part in the whole.
        let targets = batch.counts()[0] as f64;
        batch.weights = vec![targets / (1.0 - ALPHA), targets / ALPHA];
        let (loss, found) = gradients(&mut loaded, &batch, 1.0);
        let expected = values.read(&format!("{name}.loss")).unwrap().double_value(&[0]);
        assert!((loss / expected - 1.0).abs() < 1e-6, "{name}: {loss}, not {expected}");
        let prefix = format!("{name}.grad.");
        let committed = values.names().iter().filter(|other| other.starts_with(&prefix)).count();
        // All but that of the word embeddings.
        assert_eq!(found.len(), committed + 1, "{name}");
        let square = |gradient: &Tensor| gradient.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
        let all: f64 = found.iter().map(|(_, gradient)| square(gradient)).sum::<f64>().sqrt();
        for (parameter, gradient) in found.iter().filter(|(parameter, _)| !parameter.contains("word_embeddings")) {
            let expected = values.read(&format!("{prefix}{parameter}")).unwrap();
            let error = square(&(gradient - &expected)).sqrt();
            assert!(error <= 1e-5 * square(&expected).sqrt() + 1e-6 * all, "{name}: {parameter} differs by {error:e}");
        }
    }
}
