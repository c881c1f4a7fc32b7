//! Every family in every role against transformers, on the cases under `tests/reference/cases`: logits, loss and every
//! gradient; import and export; a sample alone and in a batch.
//!
//! The tolerances are those of `docs/gpu.md`. A failure names the case and the tensor.

use crate::common::device::tolerance;
use crate::common::mistakes::{copy_folder, edit};
use crate::common::reference::{Reference, folder, infer_all, max_difference};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tch::{Kind, Tensor};
use trainer::checkpoint::export;
use trainer::checkpoint::tensor_writer::Writer;
use trainer::models::Role;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry::{self, FAMILIES};
use trainer::train::model_loading::Loaded;

/// The names of all cases, `cases/...`.
fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(folder("cases")).expect("tests/reference/cases");
    let mut names: Vec<String> =
        entries.map(|entry| format!("cases/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Runs `check` on every case; all failures are told, not the first alone.
fn on_all(check: impl Fn(&str) -> Result<(), String>) {
    let failures: Vec<String> =
        cases().iter().filter_map(|case| check(case).err().map(|e| format!("{case}: {e}"))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Cases whose logits in half precision say little: rounding the weights alone moves transformers' by 3 % in bf16.
const ILL_CONDITIONED: &[&str] = &["cases/qwen3-causal", "cases/qwen3-tokens"];

/// The case with the smallest weights of each family, for half precision.
fn smallest() -> Vec<String> {
    let mut smallest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for case in cases().into_iter().filter(|case| !ILL_CONDITIONED.contains(&case.as_str())) {
        let config = registry::read_config(&folder(&case)).unwrap();
        let size = std::fs::metadata(folder(&case).join("model.safetensors")).unwrap().len();
        let family = config["model_type"].as_str().unwrap().to_owned();
        let least = smallest.entry(family).or_insert((size, case.clone()));
        *least = std::cmp::min(least.clone(), (size, case));
    }
    smallest.into_values().map(|(_, case)| case).collect()
}

/// Of these cases: fp32, bf16 or fp16 against transformers' fp32.
fn check(cases: &[String], kind: Kind, dropout: f64) {
    let differences = |case: &String| {
        let reference = Reference::open(case);
        let told = reference.differences(&reference.head(), dropout, kind);
        told.into_iter().map(|difference| format!("{case} ({kind:?}): {difference}")).collect::<Vec<_>>()
    };
    let all: Vec<String> = cases.iter().flat_map(differences).collect();
    assert!(all.is_empty(), "{} differences:\n{}", all.len(), all.join("\n"));
}

/// With dropout 0, and on the path that dropout takes, with a probability too small to drop anything.
#[test]
fn logits_loss_and_gradients() {
    for dropout in [0.0, 1e-12] {
        check(&cases(), Kind::Float, dropout);
    }
}

#[test]
fn every_family_in_bf16() {
    check(&smallest(), Kind::BFloat16, 0.0);
}

#[test]
fn every_family_in_fp16() {
    check(&smallest(), Kind::Half, 0.0);
}

/// The exported names, types and tensors are those of the file that was read, bit for bit.
#[test]
fn export_gives_back_what_import_read() {
    on_all(|case| {
        let reference = Reference::open(case);
        let stored = reference.weights();
        let loaded = reference.load_with(&reference.head(), DropoutOverrides::default(), stored[0].1.kind());
        let Loaded { params, names, .. } = &loaded;
        let units = 0..params.layout().units().len();
        let exported: Vec<_> = units.flat_map(|unit| export::parts(params, names, unit, params.flat(unit))).collect();
        let sorted = |list: &[(String, Tensor)]| {
            let mut names: Vec<String> =
                list.iter().map(|(name, t)| format!("{name} {:?} {:?}", t.size(), t.kind())).collect();
            names.sort();
            names
        };
        let mut entries: Vec<String> =
            export::entries(params, names).iter().map(|e| format!("{} {:?} {:?}", e.name, e.shape, e.kind)).collect();
        entries.sort();
        if sorted(&exported) != sorted(&stored) || entries != sorted(&stored) {
            let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
                (sorted(&exported).into_iter().collect(), sorted(&stored).into_iter().collect());
            return Err(format!("tensors of one side alone: {:?}", ours.symmetric_difference(&theirs)));
        }
        let changed = stored
            .iter()
            .find(|(name, theirs)| exported.iter().any(|(ours, tensor)| ours == name && !tensor.equal(theirs)));
        changed.map_or(Ok(()), |(name, _)| Err(format!("{name} changed on its way")))
    });
}

/// Writes every case's model as a checkpoint has it, below the folder that TRAINER_EXPORTS names, for
/// `tests/reference/check_cases.py` to read with transformers.
#[test]
#[ignore = "writes files for a check by hand"]
fn write_every_export() {
    let out = PathBuf::from(std::env::var("TRAINER_EXPORTS").expect("TRAINER_EXPORTS names a folder"));
    on_all(|case| {
        let reference = Reference::open(case);
        let kind = reference.weights()[0].1.kind();
        let loaded = reference.load_with(&reference.head(), DropoutOverrides::default(), kind);
        let Loaded { model, params, names, .. } = &loaded;
        let folder = out.join(case.trim_start_matches("cases/"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), model.config_json(kind).to_string()).unwrap();
        let mut file = Writer::create(&folder.join("model.safetensors"), export::entries(params, names)).unwrap();
        for unit in 0..params.layout().units().len() {
            for (name, tensor) in export::parts(params, names, unit, params.flat(unit)) {
                file.write(&name, &tensor).unwrap();
            }
        }
        file.finish().map_err(|e| e.to_string())
    });
}

/// Padding cannot leak: a sample alone and in any batch gives the same logits, within half the tolerance.
#[test]
fn a_sample_alone_and_in_a_batch() {
    on_all(|case| {
        let reference = Reference::open(case);
        let mut loaded = reference.load(&reference.head());
        let alone: Vec<Vec<Tensor>> =
            (0..reference.len()).map(|sample| infer_all(&mut loaded, &reference.samples(&[sample]))).collect();
        let orders: [Vec<usize>; 2] = [(0..reference.len()).collect(), (0..reference.len()).rev().collect()];
        for order in orders {
            for (i, together) in infer_all(&mut loaded, &reference.samples(&order)).iter().enumerate() {
                let rows: Vec<&Tensor> = order.iter().map(|&sample| &alone[sample][i]).collect();
                let difference = max_difference(&Tensor::cat(&rows, 0), together);
                if difference.is_nan() || difference >= tolerance(Kind::Float).output / 2.0 {
                    return Err(format!("in the order {order:?} logits differ by {difference:e}"));
                }
            }
        }
        Ok(())
    });
}

/// Two cases or more of every family, and one at least of every pair that the registry allows.
#[test]
fn every_pair_has_a_case() {
    let found: Vec<(String, Role)> = cases()
        .iter()
        .map(|case| {
            let config = registry::read_config(&folder(case)).unwrap();
            (config["model_type"].as_str().unwrap().to_owned(), Role::of_config(&config).unwrap())
        })
        .collect();
    for family in FAMILIES {
        let own = |(model_type, _): &&(String, Role)| family.model_types.contains(&model_type.as_str());
        for &role in Role::ALL.iter().filter(|role| (family.refusal)(**role).is_none()) {
            assert!(
                found.iter().filter(own).any(|(_, has)| *has == role),
                "{:?}: no case of {role}",
                family.model_types
            );
        }
        for model_type in family.model_types {
            assert!(found.iter().any(|(has, _)| has == model_type), "{model_type}: no case");
        }
        assert!(found.iter().filter(own).count() > 1, "{:?}: one case alone", family.model_types);
    }
}

/// A head of its own in a file whose `config.json` ties it: neither of the two is taken for the other.
#[test]
fn a_head_that_is_not_the_table_is_not_tied() {
    for case in ["gpt2-untied", "distilbert-masked-untied"] {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&folder(&format!("cases/{case}")), dir.path());
        edit(&dir.path().join("config.json"), |config| config["tie_word_embeddings"] = true.into());
        let copy = Reference::at(dir.path());
        let message = copy.try_load(&copy.head(), DropoutOverrides::default(), Kind::Float).err().unwrap().to_string();
        for expected in [".weight and ", " differ, but config.json ties them", "set tie_word_embeddings = false"] {
            assert!(message.contains(expected), "{case}: {message}");
        }
    }
}
