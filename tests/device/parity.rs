//! Parity with transformers: logits, loss and every gradient, on the small models under `tests/reference`.
//!
//! The tolerances are those of `docs/gpu.md`. A failure names the tensor.

use crate::common::device::tolerance;
use crate::common::reference::{Reference, gradients, infer, max_difference};
use tch::{Kind, Tensor};
use trainer::checkpoint::export;
use trainer::nn::Ctx;
use trainer::tasks::Head;
use trainer::train::model_loading::Loaded;

fn classes(names: &[&str]) -> Head {
    Head::Classes(names.iter().map(|&n| n.to_owned()).collect())
}

/// Logits, loss and gradients of one case: with dropout 0, and on the path that dropout takes, with a probability too
/// small to drop anything.
fn check(name: &str, head: &Head) {
    for dropout in [0.0, 1e-12] {
        let differences = Reference::open(name).differences(head, dropout, Kind::Float);
        assert!(differences.is_empty(), "{name}: {}", differences.join("\n"));
    }
}

#[test]
fn classification_of_single_texts() {
    check("bert-classification", &classes(&["science", "sport", "weather"]));
}

#[test]
fn regression_of_pairs() {
    check("bert-pairs-regression", &Head::Number);
}

#[test]
fn bf16_weights_in_one_file() {
    let reference = Reference::open("bert-bf16");
    let mut loaded = reference.load(&classes(&["LABEL_0", "LABEL_1"]));
    let logits = infer(&mut loaded, &reference.batch());
    let difference = max_difference(&logits, &reference.tensor("logits"));
    assert!(difference < tolerance(Kind::Float).output, "logits differ by {difference:e}");
}

/// Old names, no prefix, fp16, two files and an index; tensors that nobody needs; a head that starts fresh.
#[test]
fn legacy_encoder_in_several_files() {
    let reference = Reference::open("bert-headless-legacy");
    let loaded = reference.load(&classes(&["a", "b"]));
    assert_eq!(loaded.report.unexpected, ["cls.predictions.bias", "embeddings.position_ids"]);
    assert_eq!(loaded.report.missing, ["classifier.weight", "classifier.bias"]);
    let Loaded { model, params, .. } = &loaded;
    let batch = reference.batch();
    let mut ctx = Ctx::eval(params);
    let hidden = tch::no_grad(|| {
        (0..model.backbone.blocks())
            .fold(Vec::new(), |boundary, s| model.backbone.forward(s, &boundary, &batch, &mut ctx))
    });
    // The last layer computes only the first token of each text.
    let wanted = reference.tensor("hidden").index_select(0, batch.sequences.first());
    let difference = max_difference(&hidden[0], &wanted);
    assert!(difference < tolerance(Kind::Float).output, "hidden states differ by {difference:e}");
    let pooled = tch::no_grad(|| model.backbone.summary(&hidden, &batch, &mut ctx));
    let difference = max_difference(&pooled, &reference.tensor("pooled"));
    assert!(difference < tolerance(Kind::Float).output, "pooled outputs differ by {difference:e}");
}

/// Padding cannot leak: a sample alone and in any batch gives the same logits, within half the tolerance.
#[test]
fn a_sample_alone_and_in_a_batch() {
    for (name, head) in
        [("bert-classification", classes(&["science", "sport", "weather"])), ("bert-pairs-regression", Head::Number)]
    {
        let reference = Reference::open(name);
        let mut loaded = reference.load(&head);
        let all = infer(&mut loaded, &reference.batch());
        for sample in 0..reference.len() {
            let alone = infer(&mut loaded, &reference.samples(&[sample]));
            let difference = max_difference(&alone.get(0), &all.get(sample as i64));
            assert!(
                difference < tolerance(Kind::Float).output / 2.0,
                "{name}: sample {sample} differs by {difference:e}"
            );
        }
        let backwards: Vec<usize> = (0..reference.len()).rev().collect();
        let turned = infer(&mut loaded, &reference.samples(&backwards)).flip([0]);
        let difference = max_difference(&turned, &all);
        assert!(
            difference < tolerance(Kind::Float).output / 2.0,
            "{name}: the order of samples changes logits by {difference:e}"
        );
    }
}

/// Only the rows of the batch's tokens have a gradient in the vocabulary table, as the reduction assumes.
#[test]
fn vocabulary_gradients_are_row_sparse() {
    let reference = Reference::open("bert-classification");
    let mut loaded = reference.load(&classes(&["science", "sport", "weather"]));
    let batch = reference.batch();
    let (_, gradients) = gradients(&mut loaded, &batch, 1.0);
    let table = gradients.iter().find(|(name, _)| name == "bert.embeddings.word_embeddings.weight").unwrap();
    let rows = table.1.abs().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    let touched: Vec<i64> = Vec::try_from(rows.nonzero().view(-1)).unwrap();
    let mut tokens: Vec<i64> = Vec::try_from(&batch.tokens).unwrap();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(touched, tokens);
}

/// The exported names and tensors are those of the file that was read, bit for bit.
#[test]
fn export_gives_back_what_import_read() {
    let reference = Reference::open("bert-classification");
    let loaded = reference.load(&classes(&["science", "sport", "weather"]));
    let Loaded { params, names, .. } = &loaded;
    let units = 0..params.layout().units().len();
    let mut exported: Vec<_> = units.flat_map(|unit| export::parts(params, names, unit, params.flat(unit))).collect();
    exported.sort_by(|a, b| a.0.cmp(&b.0));
    let mut stored: Vec<(String, Tensor)> = reference.weights();
    stored.sort_by(|a, b| a.0.cmp(&b.0));
    let names = |list: &[(String, Tensor)]| list.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(&exported), names(&stored));
    for ((name, ours), (_, theirs)) in exported.iter().zip(&stored) {
        assert!(ours.equal(theirs), "{name} changed on its way");
    }
}
