//! A whole model in half precision against itself in fp32: logits, loss and every gradient.

mod common;

use common::reference::{self, Reference, max_difference};
use tch::{Device, Kind, Tensor};
use trainer::models::registry::DropoutOverrides;
use trainer::tasks::Head;
use trainer::train::loaded::Loaded;

/// Rounds the weights to `kind`, whatever type they are held in.
fn round(loaded: &mut Loaded, kind: Kind) {
    let Loaded { params, weights, .. } = loaded;
    for unit in 0..params.layout().units().len() {
        let values = params.flat(unit).to_kind(kind).to_kind(Kind::Float);
        weights.set(params, unit, &values).unwrap();
    }
}

struct Outcome {
    logits: Tensor,
    loss: f64,
    /// Name and gradient, f64.
    gradients: Vec<(String, Tensor)>,
}

fn run(loaded: &mut Loaded, reference: &Reference, scale: f64) -> Outcome {
    let batch = reference.batch(Device::Cpu);
    let logits = reference::infer(loaded, &batch);
    assert_eq!(logits.kind(), Kind::Float, "logits leave a model in fp32");
    let (loss, gradients) = reference::gradients(loaded, &batch, scale);
    let gradients = gradients.into_iter().map(|(name, gradient)| (name, gradient.to_kind(Kind::Double) / scale));
    Outcome { logits, loss, gradients: gradients.collect() }
}

fn norm(x: &Tensor) -> f64 {
    x.norm().double_value(&[])
}

fn global_norm(outcome: &Outcome) -> f64 {
    outcome.gradients.iter().map(|(_, g)| norm(g).powi(2)).sum::<f64>().sqrt()
}

fn check(name: &str, head: &Head) {
    let reference = Reference::open(name);
    for p in [0.0, 0.1] {
        let dropout = DropoutOverrides { hidden: Some(p), attention: Some(p), classifier: Some(p) };
        for kind in [Kind::BFloat16, Kind::Half] {
            // Half a unit in the last place.
            let step = if kind == Kind::BFloat16 { 2f64.powi(-8) } else { 2f64.powi(-11) };
            // The weights are rounded for both, so that what is compared is the computing.
            let mut single = reference.load_with(head, dropout, Kind::Float);
            round(&mut single, kind);
            let wanted = run(&mut single, &reference, 1.0);
            // fp16 loses gradients below 6e-8 without a scale; 1024 is what a scaler would keep to here.
            let mut half = reference.load_with(head, dropout, kind);
            let got = run(&mut half, &reference, if kind == Kind::Half { 1024.0 } else { 1.0 });
            let what = format!("{name}, {kind:?}, dropout {p}");

            let size = wanted.logits.abs().max().double_value(&[]);
            let difference = max_difference(&got.logits, &wanted.logits);
            assert!(difference < 6.0 * step * size.max(1.0), "{what}: logits differ by {difference:e}");
            let loss = (got.loss - wanted.loss).abs() / wanted.loss;
            assert!(loss < 4.0 * step, "{what}: loss {} instead of {}", got.loss, wanted.loss);

            let global = global_norm(&wanted);
            let ratio = global_norm(&got) / global;
            assert!((ratio - 1.0).abs() < 4.0 * step, "{what}: gradient norm is {ratio} of fp32's");
            for ((tensor, gradient), (_, exact)) in got.gradients.iter().zip(&wanted.gradients) {
                let away = norm(&(gradient - exact));
                // So the cosine is above 0.998 (bf16). What is small beside the rest, as a key's bias, by the global norm.
                assert!(
                    away < 16.0 * step * norm(exact) || away < 0.25 * step * global,
                    "{what}: gradient of {tensor} is {away:e} away; its norm is {:e}",
                    norm(exact)
                );
            }
        }
    }
}

#[test]
fn classification_in_half_precision() {
    check("bert-classification", &Head::Classes(["science", "sport", "weather"].map(str::to_owned).to_vec()));
}

#[test]
fn regression_in_half_precision() {
    check("bert-pairs-regression", &Head::Number);
}

/// Pre-norm blocks, rotations, grouped heads, norms of heads.
#[test]
fn decoders_in_half_precision() {
    let labels = |n: usize| (0..n).map(|i| format!("LABEL_{i}")).collect::<Vec<_>>();
    check("cases/gpt2-classes", &Head::Classes(labels(3)));
    check("cases/llama-causal", &Head::CausalLm);
    check("cases/qwen3-flags", &Head::Flags(labels(3)));
}

/// Relative attention adds to the scores what half layers have made.
#[test]
fn relative_attention_in_half_precision() {
    check("cases/xlnet-classes", &Head::Classes(["LABEL_0", "LABEL_1", "LABEL_2"].map(str::to_owned).to_vec()));
}
