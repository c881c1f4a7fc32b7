//! A whole model in half precision against itself in fp32: logits, loss and every gradient.

use crate::common::device::{device, tolerance};
use crate::common::reference::{self, Reference};
use tch::{Device, Kind, Tensor};
use trainer::models::family::DropoutOverrides;
use trainer::tasks::Head;
use trainer::train::model_loading::Loaded;

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
    let batch = reference.batch();
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
    // A GPU's masks are not the same in every dtype.
    let dropouts: &[f64] = if device() == Device::Cpu { &[0.0, 0.1] } else { &[0.0] };
    for (&p, kind) in dropouts.iter().flat_map(|p| [(p, Kind::BFloat16), (p, Kind::Half)]) {
        let dropout = DropoutOverrides { hidden: Some(p), attention: Some(p), classifier: Some(p) };
        // The weights are rounded for both, so that what is compared is the computing.
        let mut single = reference.load_with(head, dropout, Kind::Float);
        round(&mut single, kind);
        let wanted = run(&mut single, &reference, 1.0);
        // fp16 loses gradients below 6e-8 without a scale; 1024 is what a scaler would keep to here.
        let mut half = reference.load_with(head, dropout, kind);
        let got = run(&mut half, &reference, if kind == Kind::Half { 1024.0 } else { 1.0 });
        let (tolerance, all) = (tolerance(kind), global_norm(&wanted));
        let mut results = vec![
            tolerance.check_output("logits", &got.logits, &wanted.logits),
            tolerance.check_loss(got.loss, wanted.loss),
        ];
        let pairs = got.gradients.iter().zip(&wanted.gradients);
        results.extend(pairs.map(|((name, ours), (_, exact))| tolerance.check_gradient(name, ours, exact, all)));
        let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
        let what = format!("{name}, {kind:?}, dropout {p}");
        assert!(wrong.is_empty(), "{what}: {}", wrong.join("\n"));
        let ratio = global_norm(&got) / all;
        assert!((ratio - 1.0).abs() < tolerance.loss, "{what}: the gradient norm is {ratio} of fp32's");
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

/// Bidirectional windows, norms without a shift, the mean of a sequence.
#[test]
fn windows_in_half_precision() {
    check("cases/modernbert-classes", &Head::Classes(["LABEL_0", "LABEL_1", "LABEL_2"].map(str::to_owned).to_vec()));
    check("cases/modernbert-masked-untied", &Head::MaskedLm);
}

/// Relative attention adds to the scores what half layers have made.
#[test]
fn relative_attention_in_half_precision() {
    check("cases/xlnet-classes", &Head::Classes(["LABEL_0", "LABEL_1", "LABEL_2"].map(str::to_owned).to_vec()));
}
