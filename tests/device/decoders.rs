//! Decoder-only families: packed documents; files as older classes and other heads left them.

use crate::common::device::tolerance;
use crate::common::mistakes::copy_folder;
use crate::common::reference::{Reference, folder, gradients, infer, max_difference};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::import::Report;
use trainer::checkpoint::tensor_writer::{Entry, Writer};
use trainer::tasks::Head;

const CPU: Device = Device::Cpu;

/// Documents packed into one example do not see each other: loss and gradients are those of documents apart.
#[test]
fn packed_documents_are_as_documents_apart() {
    for case in ["gpt2-causal", "llama-causal", "mistral-causal", "qwen3-causal"] {
        let reference = Reference::open(&format!("cases/{case}"));
        let mut loaded = reference.load(&Head::CausalLm);
        let (apart, packed) = (reference.samples(&[0, 1, 2]), reference.packed(3, false));
        assert_eq!((apart.len(), packed.len(), packed.widths.as_slice()), (3, 1, &[3usize][..]));
        let (wanted, of_apart) = gradients(&mut loaded, &apart, 1.0);
        let (loss, of_packed) = gradients(&mut loaded, &packed, 1.0);
        assert!(
            (loss - wanted).abs() < tolerance(Kind::Float).loss * wanted,
            "{case}: loss {loss} packed, {wanted} apart"
        );
        for ((name, ours), (_, theirs)) in of_packed.iter().zip(&of_apart) {
            let difference = (ours - theirs).norm().double_value(&[]);
            assert!(
                difference <= tolerance(Kind::Float).gradient / 10.0 * theirs.norm().double_value(&[]),
                "{case}: the gradient of {name}: {difference:e}"
            );
        }
        // And a model that let them see each other would not give this: one long document has another loss.
        let (other, _) = gradients(&mut loaded, &reference.packed(3, true), 1.0);
        assert!((other - wanted).abs() > 1e-3 * wanted, "{case}: boundaries do not matter: {other}, {wanted}");
    }
}

/// Writes a case's folder again, its tensors under other names, with more of them.
fn rewritten(case: &str, into: &Path, rename: impl Fn(&str) -> String, more: Vec<(&str, Tensor)>) {
    copy_folder(&folder(case), into);
    let stored = Reference::open(case).weights().into_iter().map(|(name, tensor)| (rename(&name), tensor));
    let all: Vec<(String, Tensor)> =
        stored.chain(more.into_iter().map(|(name, tensor)| (name.to_owned(), tensor))).collect();
    let entry =
        |(name, tensor): &(String, Tensor)| Entry { name: name.clone(), shape: tensor.size(), kind: tensor.kind() };
    let mut file = Writer::create(&into.join("model.safetensors"), all.iter().map(entry).collect()).unwrap();
    for (name, tensor) in &all {
        file.write(name, tensor).unwrap();
    }
    file.finish().unwrap();
}

/// GPT-2 as it was first published: a bare model with its causal masks stored, and a copy of the tied table.
#[test]
fn old_gpt2_files_are_read() {
    let (case, dir) = ("cases/gpt2-causal", tempfile::tempdir().unwrap());
    let reference = Reference::open(case);
    let table = reference.weights().into_iter().find(|(name, _)| name == "transformer.wte.weight").unwrap().1;
    let mask = Tensor::ones([1, 1, 32, 32], (Kind::Float, CPU)).tril(0);
    let fill = Tensor::from(-1e4).to_kind(Kind::Float);
    let more = vec![
        ("h.0.attn.bias", mask.shallow_clone()),
        ("h.1.attn.bias", mask),
        ("h.0.attn.masked_bias", fill.shallow_clone()),
        ("h.1.attn.masked_bias", fill),
        ("lm_head.weight", table),
    ];
    rewritten(case, dir.path(), |name| name.trim_start_matches("transformer.").to_owned(), more);
    let mut old = Reference::at(dir.path()).load(&Head::CausalLm);
    assert_eq!(old.report, Report::default());
    let logits = infer(&mut old, &reference.batch());
    assert!(max_difference(&logits, &reference.tensor("logits")) < tolerance(Kind::Float).output);
}

/// A head is put on the layers of a language model, whose class calls them by another prefix.
#[test]
fn a_language_models_layers_are_found_for_another_head() {
    let reference = Reference::open("cases/llama-causal");
    let loaded = reference.load(&Head::Span { unanswerable: false });
    assert_eq!(loaded.report.missing, ["qa_outputs.weight", "qa_outputs.bias"]);
    assert_eq!(loaded.report.unexpected, ["lm_head.weight"]);
}
