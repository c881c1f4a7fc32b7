//! LoRA and DoRA against `peft`, on the cases under `tests/reference/lora`: logits, loss and the gradient of every trained
//! tensor; adapters that start from nothing; merged weights.

use crate::common::device::tolerance;
use crate::common::reference::{Reference, folder, gradients, infer};
use std::collections::BTreeSet;
use std::path::PathBuf;
use tch::{Kind, Tensor};
use trainer::checkpoint::adapter::AdapterConfig;
use trainer::checkpoint::export;
use trainer::checkpoint::import::Report;
use trainer::checkpoint::tensors::TensorFile;
use trainer::config::{LoraConfig, TargetModules};
use trainer::error::Result;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::parallel::Zero;
use trainer::train::lora::Lora;
use trainer::train::model_folder::ModelFolder;
use trainer::train::model_loading::{Declared, LoadOptions, Loaded, Source};

/// The names of all cases.
fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(folder("lora")).expect("tests/reference/lora");
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    names
}

/// The folder of an adapter and its base case.
fn adapter(case: &str) -> (PathBuf, Reference) {
    let adapter = folder(&format!("lora/{case}"));
    let base = AdapterConfig::read(&adapter).unwrap().base_model_name_or_path.unwrap();
    (adapter, Reference::at(&folder(base.strip_prefix("tests/reference").unwrap().to_str().unwrap())))
}

/// Loads the base model with adapters.
fn load(base: &Reference, lora: &Lora, kind: Kind) -> Result<Loaded> {
    let config = registry::read_config(&base.folder).unwrap();
    let head = base.head();
    let none = DropoutOverrides { hidden: Some(0.0), attention: Some(0.0), classifier: Some(0.0) };
    let declared = Declared::read(&base.folder, config, none, head.role()).unwrap();
    let holding = LoadOptions { kind, zero: Zero::ALL[0], trains: true.into(), seed: 3, from: Source::Folder };
    declared.with_head(&head).with_lora(lora)?.load(&crate::common::reference::alone(), &holding)
}

fn stored(case: &str) -> (Reference, Lora) {
    let (adapter, base) = adapter(case);
    let lora = Lora::of_model(&ModelFolder::open(&adapter, Some(&base.folder)).unwrap()).unwrap();
    (base, lora.unwrap())
}

/// Of a case in this dtype: what differs from `peft` in fp32 by more than the tolerance.
fn differences(case: &str, kind: Kind) -> Vec<String> {
    let (base, lora) = stored(case);
    let file = TensorFile::open(&folder(&format!("lora/{case}/reference.safetensors"))).unwrap();
    let read = |name: &str| file.read(name).unwrap();
    let mut loaded = load(&base, &lora, kind).unwrap();
    assert_eq!(loaded.report, Report::default(), "{case}");
    let tolerance = tolerance(kind).times(if kind == Kind::Float { 1.0 } else { 1.5 });
    let mut results = vec![tolerance.check_output("logits", &infer(&mut loaded, &base.batch()), &read("logits"))];
    let scale = if kind == Kind::Half { 1024.0 } else { 1.0 };
    let (loss, gradients) = gradients(&mut loaded, &base.batch(), scale);
    results.push(tolerance.check_loss(loss, read("loss").double_value(&[0])));
    let ours: BTreeSet<String> = gradients.iter().map(|(name, _)| format!("grad.{name}")).collect();
    let theirs: BTreeSet<String> = file.names().into_iter().filter(|name| name.starts_with("grad.")).collect();
    assert_eq!(ours, theirs, "{case}: the trained tensors");
    let all = read("grad_norm").double_value(&[0]);
    results.extend(gradients.into_iter().map(|(name, gradient)| {
        tolerance.check_gradient(&name, &(gradient / scale), &read(&format!("grad.{name}")), all)
    }));
    results.into_iter().filter_map(|result| result.err().map(|e| format!("{case} ({kind:?}): {e}"))).collect()
}

fn check(cases: &[&str], kind: Kind) {
    let all: Vec<String> = cases.iter().flat_map(|case| differences(case, kind)).collect();
    assert!(all.is_empty(), "{} differences:\n{}", all.len(), all.join("\n"));
}

#[test]
fn logits_loss_and_gradients_are_those_of_peft() {
    let cases = cases();
    check(&cases.iter().map(String::as_str).collect::<Vec<_>>(), Kind::Float);
}

#[test]
fn adapters_in_half_precision() {
    for kind in [Kind::BFloat16, Kind::Half] {
        check(&["bert", "bert-dora", "gpt2", "albert"], kind);
    }
}

/// The exported names and tensors are those of the adapter's file, bit for bit.
#[test]
fn export_gives_back_the_adapter() {
    for case in cases() {
        let (base, lora) = stored(&case);
        let Loaded { params, names, .. } = &load(&base, &lora, Kind::Float).unwrap();
        let units = 0..params.layout().units().len();
        let parts: Vec<_> = units.flat_map(|unit| export::parts(params, names, unit, params.flat(unit))).collect();
        let file = TensorFile::open(&folder(&format!("lora/{case}/adapter_model.safetensors"))).unwrap();
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
            (parts.iter().map(|(name, _)| name.clone()).collect(), file.names().into_iter().collect());
        assert_eq!(ours, theirs, "{case}");
        for (name, tensor) in parts {
            assert!(tensor.equal(&file.read(&name).unwrap()), "{case}: {name}");
        }
    }
}

/// A new adapter changes nothing: B is zero, and the magnitudes are the norms of the weight's rows. All that PEFT's
/// "all-linear" adapts is adapted.
#[test]
fn a_new_adapter_changes_nothing() {
    for case in ["bert-dora", "llama-dora", "gpt2-dora", "t5", "albert-dora"] {
        let (folder, base) = adapter(case);
        let config = LoraConfig { r: Some(2), use_dora: Some(true), ..LoraConfig::default() };
        let model = ModelFolder::open(&base.folder, None).unwrap();
        let lora = Lora::of_run(&config, &model, None).unwrap().unwrap();
        let mut loaded = load(&base, &lora, Kind::Float).unwrap();
        let logits = infer(&mut loaded, &base.batch());
        let difference = (logits - base.tensor("logits")).abs().max().double_value(&[]);
        assert!(difference < 2e-5, "{case}: {difference:e}");
        let adapted = |names: Vec<String>| -> BTreeSet<String> {
            names.into_iter().filter_map(|n| n.strip_suffix(".lora_A.weight").map(str::to_owned)).collect()
        };
        let ours = export::entries(&loaded.params, &loaded.names).into_iter().map(|entry| entry.name).collect();
        let file = TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(adapted(ours), adapted(file.names()), "{case}");
        let a: Vec<Tensor> = loaded
            .params
            .ids()
            .filter(|&id| loaded.params.spec(id).name.ends_with("lora_A.weight"))
            .map(|id| loaded.params.view(id).detach())
            .collect();
        for a in a {
            let bound = 1.0 / (a.size()[1] as f64).sqrt();
            let largest = a.abs().max().double_value(&[]);
            assert!(largest <= bound && largest > 0.7 * bound, "{case}: {largest} of {bound}");
        }
    }
}

/// `target_modules` for PEFT names what is adapted: ends of names where that is unambiguous.
#[test]
fn the_configuration_names_what_is_adapted() {
    let lora = |config: &LoraConfig, base: &Reference| {
        let model = ModelFolder::open(&base.folder, None).unwrap();
        let lora = Lora::of_run(config, &model, None).unwrap().unwrap();
        load(base, &lora, Kind::Float).map(|loaded| loaded.adapter.unwrap())
    };
    let names = |names: &[&str]| Some(TargetModules::Names(names.iter().map(|&n| n.to_owned()).collect()));
    let llama = Reference::open("cases/llama-causal");
    let config = lora(&LoraConfig { r: Some(4), ..LoraConfig::default() }, &llama).unwrap();
    let all = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"];
    assert_eq!(config.target_modules, serde_json::json!(all));
    assert_eq!((config.task_type.as_deref(), config.modules_to_save), (Some("CAUSAL_LM"), None));
    let one = LoraConfig { target_modules: names(&["model.layers.1.*.q_proj", "up_proj"]), ..LoraConfig::default() };
    let config = lora(&one, &llama).unwrap();
    assert_eq!(config.target_modules, serde_json::json!(["model.layers.1.self_attn.q_proj", "up_proj"]));
    let bert = Reference::open("bert-classification");
    let config = lora(&LoraConfig { r: Some(4), ..LoraConfig::default() }, &bert).unwrap();
    assert_eq!(config.modules_to_save, Some(vec!["classifier".to_owned(), "score".to_owned()]));

    let message = |config: LoraConfig, base: &Reference| lora(&config, base).err().unwrap().to_string();
    let of = |list: &[&str]| LoraConfig { target_modules: names(list), ..LoraConfig::default() };
    let text = message(of(&["query", "quary"]), &bert);
    assert!(text.contains("lora.target_modules: \"quary\" matches no module; linear layers are"), "{text}");
    let text = message(of(&["lm_head"]), &llama);
    assert!(text.contains("\"lm_head\" matches lm_head, which is no linear layer"), "{text}");
    let saved = |name: &str| LoraConfig { modules_to_save: Some(vec![name.to_owned()]), ..LoraConfig::default() };
    let text = message(saved("q_proj"), &llama);
    assert!(text.contains("form one weight here: save all of them or none"), "{text}");
    let text = message(saved("nothing"), &llama);
    assert!(text.contains("lora.modules_to_save: \"nothing\" is no module"), "{text}");
}

/// An adapter of another model is an error that names a tensor.
#[test]
fn an_adapter_of_another_model_is_refused() {
    let refuse = |case: &str, base: &str| {
        let (folder, _) = adapter(case);
        let base = Reference::open(base);
        let lora = Lora::of_model(&ModelFolder::open(&folder, Some(&base.folder)).unwrap()).unwrap().unwrap();
        load(&base, &lora, Kind::Float).err().unwrap().to_string()
    };
    let text = refuse("llama", "bert-classification");
    assert!(text.contains("has no module model.layers.0.mlp.down_proj"), "{text}");
    // The same modules of other sizes.
    let text = refuse("bert", "cases/bert-multi-label");
    assert!(text.contains("bert: not an adapter of ") && text.contains("lora_A.weight"), "{text}");
}
