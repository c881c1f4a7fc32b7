//! Activation checkpointing and gradient caching with dropout: a block that runs again draws the same masks, so that
//! gradients are the same.

use crate::common::device::{device, tolerance};
use crate::common::reference::{Reference, gradients, gradients_with};
use tch::{Device, Kind};
use trainer::models::family::DropoutOverrides;
use trainer::nn::Pass;
use trainer::train::blockwise::{Blockwise, Recompute};
use trainer::train::model_loading::Loaded;

/// BERT's dropout sits in embeddings, attention and both residuals; T5's and BART's in both stacks; XLNet's in its
/// sinusoids too.
#[test]
fn gradients_with_dropout_are_the_same() {
    let dropout = DropoutOverrides { hidden: Some(0.2), attention: Some(0.2), classifier: Some(0.2) };
    let mut wrong = Vec::new();
    for case in [
        "bert-answers",
        "albert-classes",
        "modernbert-classes",
        "longformer-answers",
        "gpt2-classes",
        "llama-classes",
        "t5-gated-gelu",
        "bart-classes",
        "xlnet-classes",
    ] {
        let reference = Reference::open(&format!("cases/{case}"));
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let mut loaded = reference.load_with(&reference.head(), dropout, kind);
            let batch = reference.batch();
            let (loss, kept) = gradients(&mut loaded, &batch, 1.0);
            for recompute in [Recompute::All, Recompute::Every(2), Recompute::First(2)] {
                let what = format!("{case} ({kind:?}, {recompute:?})");
                let (again, recomputed) = gradients_with(&mut loaded, &batch, 1.0, recompute);
                // The forward pass has no atomic additions: its loss is the same on a GPU too.
                if loss != again {
                    wrong.push(format!("{what}: loss {again}, {loss} without"));
                }
                let all = kept.iter().map(|(_, g)| g.norm().double_value(&[]).powi(2)).sum::<f64>().sqrt();
                for ((name, ours), (_, wanted)) in recomputed.iter().zip(&kept) {
                    let same = match device() {
                        Device::Cpu => {
                            ours.equal(wanted).then_some(()).ok_or(format!("gradient of {name}: not bit-equal"))
                        }
                        // Backward of embeddings and of fused attention adds in any order.
                        _ => tolerance(kind).check_gradient(name, ours, wanted, all),
                    };
                    wrong.extend(same.err().map(|e| format!("{what}: {e}")));
                }
            }
        }
        // Dropout is on: without it the loss is another.
        let mut without = reference.load(&reference.head());
        let (plain, _) = gradients(&mut without, &reference.batch(), 1.0);
        let mut with = reference.load_with(&reference.head(), dropout, Kind::Float);
        assert_ne!(plain, gradients(&mut with, &reference.batch(), 1.0).0, "{case}: dropout changes nothing");
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// The pass that computes embeddings before the one with a graph has the dropout of that one.
#[test]
fn answers_have_the_dropout_of_training() {
    let dropout = DropoutOverrides { hidden: Some(0.2), attention: Some(0.2), classifier: Some(0.2) };
    for case in ["bert-embedding", "gpt2-embedding", "xlnet-embedding"] {
        let reference = Reference::open(&format!("cases/{case}"));
        let mut loaded = reference.load_with(&reference.head(), dropout, Kind::Float);
        let batch = reference.batch();
        let (loss, _) = gradients(&mut loaded, &batch, 1.0);
        let Loaded { model, params, weights, .. } = &mut loaded;
        let blockwise = Blockwise { model, params, recompute: Recompute::None, watch: None };
        let answers = blockwise.answers(weights, Some(&batch), Pass::default()).unwrap().unwrap();
        let plain = blockwise.infer(weights, Some(&batch)).unwrap().unwrap();
        let [found, without] = [&answers, &plain]
            .map(|answers| model.task.losses(answers, &batch)[0].mean(Kind::Double).double_value(&[]));
        assert!((found - loss).abs() < 1e-12 && (without - loss).abs() > 1e-4, "{case}: {found}, {loss}, {without}");
    }
}
