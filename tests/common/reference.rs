//! The reference models and values under `tests/reference`.

use super::device::{device, tolerance};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::export;
use trainer::checkpoint::import::Report;
use trainer::checkpoint::tensors::TensorFile;
use trainer::comm::Collective;
use trainer::comm::solo::Solo;
use trainer::data::batch::Batch;
use trainer::data::objective::Objective;
use trainer::data::{Collation, Dataset, Example, Label, RandomKey};
use trainer::error::Result;
use trainer::ffi::transfer;
use trainer::models::Role;
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::nn::Pass;
use trainer::parallel::{Gradients, Rows, Zero};
use trainer::tasks::Head;
use trainer::train::blockwise::{Blockwise, Recompute};
use trainer::train::model_loading::{Declared, LoadOptions, Loaded, Source};

/// One case: a model folder with inputs and what transformers makes of them.
pub struct Reference {
    pub folder: PathBuf,
    file: TensorFile,
    dataset: Dataset,
}

/// The folder of a case, in `TRAINER_TEST_REFERENCE` or the source tree's `tests/reference`.
pub fn folder(name: &str) -> PathBuf {
    let elsewhere = std::env::var_os("TRAINER_TEST_REFERENCE").map(PathBuf::from);
    elsewhere.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")).join(name)
}

impl Reference {
    pub fn open(name: &str) -> Self {
        Self::at(&folder(name))
    }

    /// A case in a folder elsewhere.
    pub fn at(folder: &Path) -> Self {
        let folder = folder.to_owned();
        let file = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
        let dataset = Dataset::new(examples(&file), collation(&folder, &file), [0; 32]);
        Reference { folder, file, dataset }
    }

    /// The head that the folder's `config.json` tells of.
    pub fn head(&self) -> Head {
        Head::of_config(&self.folder, &registry::read_config(&self.folder).unwrap()).unwrap()
    }

    /// The model with its weights.
    pub fn load(&self, head: &Head) -> Loaded {
        self.load_with(head, DropoutOverrides::default(), Kind::Float)
    }

    /// The same with other dropout probabilities and of another type.
    pub fn load_with(&self, head: &Head, dropout: DropoutOverrides, kind: Kind) -> Loaded {
        self.try_load(head, dropout, kind).unwrap()
    }

    /// The same, or why not.
    pub fn try_load(&self, head: &Head, dropout: DropoutOverrides, kind: Kind) -> Result<Loaded> {
        let config = registry::read_config(&self.folder).unwrap();
        let declared = Declared::read(&self.folder, config, dropout, head.role()).unwrap();
        let holding = LoadOptions { kind, zero: Zero::ALL[0], trains: true.into(), seed: 0, from: Source::Folder };
        declared.with_head(head).load(&alone(), &holding)
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        self.file.read(name).unwrap()
    }

    pub fn gradients(&self) -> Vec<String> {
        self.file.names().into_iter().filter(|n| n.starts_with("grad.")).collect()
    }

    /// The tensors of the model file.
    pub fn weights(&self) -> Vec<(String, Tensor)> {
        let file = TensorFile::open(&self.folder.join("model.safetensors")).unwrap();
        file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap())).collect()
    }

    /// Logits, loss and every gradient on the device under test, in this dtype: each that differs from the reference by more
    /// than the tolerance.
    pub fn differences(&self, head: &Head, dropout: f64, kind: Kind) -> Vec<String> {
        let dropout = DropoutOverrides { hidden: Some(dropout), attention: Some(dropout), classifier: Some(dropout) };
        let mut loaded = self.load_with(head, dropout, kind);
        if loaded.report != Report::default() {
            return vec![format!("not everything in the file is used, or something starts fresh: {:?}", loaded.report)];
        }
        // The reference's weights are not rounded, which moves a result about half as far as computing in half precision.
        let (batch, tolerance) = (self.batch(), tolerance(kind).times(if kind == Kind::Float { 1.0 } else { 1.5 }));
        let mut results: Vec<Result<(), String>> = Vec::new();
        for (i, logits) in infer_all(&mut loaded, &batch).iter().enumerate() {
            let name = if i == 0 { "logits".into() } else { format!("logits.{i}") };
            results.push(tolerance.check_output(&name, logits, &self.tensor(&name)));
        }
        // Below 6e-8 fp16 has no gradients; 1024 is what a loss scaler would keep to here.
        let scale = if kind == Kind::Half { 1024.0 } else { 1.0 };
        let (loss, gradients) = gradients(&mut loaded, &batch, scale);
        results.push(tolerance.check_loss(loss, self.tensor("loss").double_value(&[0])));
        let ours: BTreeSet<String> = gradients.iter().map(|(name, _)| format!("grad.{name}")).collect();
        let theirs: BTreeSet<String> = self.gradients().into_iter().collect();
        if ours != theirs {
            return vec![format!("gradients of one side alone: {:?}", ours.symmetric_difference(&theirs))];
        }
        let all = self.tensor("grad_norm").double_value(&[0]);
        results.extend(gradients.into_iter().map(|(name, gradient)| {
            tolerance.check_gradient(&name, &(gradient / scale), &self.tensor(&format!("grad.{name}")), all)
        }));
        results.into_iter().filter_map(Result::err).collect()
    }

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// The same case with weights of its examples: 0, 1, 2, 0.5, 1.5, 0, ...
    pub fn weighted(self) -> Self {
        let weights = (0..self.len()).map(|i| (i * 7 % 5) as f32 / 2.0).collect::<Vec<_>>();
        Reference { dataset: self.dataset.with_weights(weights), ..self }
    }

    /// All samples, with another objective.
    pub fn batch_for(self, objective: Objective) -> Batch {
        Reference { dataset: self.dataset.with_objective(objective), ..self }.batch()
    }

    /// All samples, in the file's order, on the device under test.
    pub fn batch(&self) -> Batch {
        self.samples(&(0..self.len()).collect::<Vec<_>>())
    }

    /// The first `n` documents as one example: packed, each a sequence of its own, or `joined` to one.
    pub fn packed(&self, n: usize, joined: bool) -> Batch {
        let ids: Vec<u32> = (0..n).flat_map(|i| self.dataset.ids(i).to_vec()).collect();
        let lengths = (0..n).flat_map(|i| self.dataset.sequences(i).to_vec()).collect();
        let lengths = if joined { vec![ids.len() as u32] } else { lengths };
        let example = Example { type_ids: vec![0; ids.len()], ids, lengths, label: Label::None };
        let packed = Dataset::new([example], self.dataset.collation().clone(), [0; 32]);
        Batch::on(device(), &packed, &[0], RandomKey::default()).unwrap()
    }

    /// Some of the samples.
    pub fn samples(&self, samples: &[usize]) -> Batch {
        let samples: Vec<u32> = samples.iter().map(|&i| i as u32).collect();
        Batch::on(device(), &self.dataset, &samples, RandomKey::default()).unwrap()
    }
}

/// One rank, on the device under test.
pub fn alone() -> Arc<dyn Collective> {
    Arc::new(Solo::new(device()))
}

/// The logits of a batch, the first of them where there are several.
pub fn infer(loaded: &mut Loaded, batch: &Batch) -> Tensor {
    infer_all(loaded, batch).remove(0)
}

/// All logits of a batch, on the CPU.
pub fn infer_all(loaded: &mut Loaded, batch: &Batch) -> Vec<Tensor> {
    let Loaded { model, params, weights, .. } = loaded;
    let blockwise = Blockwise { model, params, recompute: Recompute::None, watch: None };
    let logits = blockwise.infer(weights, Some(batch)).unwrap().unwrap();
    logits.iter().map(|logits| logits.to_device(Device::Cpu)).collect()
}

/// The mean loss of a batch, and its gradients, f32 on the CPU and `scale` times as large, under Hugging Face's names.
pub fn gradients(loaded: &mut Loaded, batch: &Batch, scale: f64) -> (f64, Vec<(String, Tensor)>) {
    gradients_with(loaded, batch, scale, Recompute::None)
}

/// The same with activation checkpointing.
pub fn gradients_with(
    loaded: &mut Loaded,
    batch: &Batch,
    scale: f64,
    recompute: Recompute,
) -> (f64, Vec<(String, Tensor)>) {
    let Loaded { model, params, weights, names, .. } = loaded;
    let mut gradients = Gradients::new(params, alone(), Zero::ALL[0], Kind::Float).unwrap();
    let decoder = batch.decoder.as_ref().map(|decoder| &decoder.tokens);
    let rows: Vec<Vec<i64>> = [&batch.tokens].into_iter().chain(decoder).map(|t| Vec::try_from(t).unwrap()).collect();
    gradients.begin(params, touched(rows.concat())).unwrap();
    let blockwise = Blockwise { model, params, recompute, watch: None };
    let forward = blockwise.forward(weights, Some(batch), Pass::default()).unwrap();
    let weights_of_terms = &batch.weights;
    let sums: Vec<f64> = Vec::try_from(forward.loss_sums().unwrap()).unwrap();
    let loss = sums.iter().zip(weights_of_terms).map(|(sum, weight)| sum / weight).sum();
    let scales: Vec<f64> = weights_of_terms.iter().map(|weight| scale / weight).collect();
    forward.backward(weights, &mut gradients, &scales, true).unwrap();
    gradients.finish(params).unwrap();
    let units = params.layout().units().iter().enumerate();
    let each = units.filter_map(|(unit, spec)| Some((unit, gradients.whole(unit, spec).unwrap()?)));
    let parts = each.flat_map(|(unit, whole)| export::parts(params, names, unit, &whole));
    (loss, parts.map(|(name, gradient)| (name, gradient.to_device(Device::Cpu))).collect())
}

/// Rows of the vocabulary tables, on the device under test.
pub fn touched(ids: Vec<i64>) -> Rows {
    let mut rows = Rows::new(ids);
    transfer::upload(&mut [rows.tensor_mut()], device()).unwrap().wait().unwrap();
    rows
}

fn ints(file: &TensorFile, name: &str) -> Vec<i64> {
    Vec::try_from(file.read(name).unwrap()).unwrap()
}

/// How the inputs of a case become a batch: as the role wants it.
fn collation(folder: &Path, file: &TensorFile) -> Collation {
    let role = Role::of_config(&registry::read_config(folder).unwrap());
    match role {
        Some(Role::CausalLm) => Collation::NextToken,
        Some(Role::Seq2Seq) => Collation::SourceTarget { start: ints(file, "decoder_start")[0] as u32 },
        _ => Collation::Plain,
    }
}

/// The examples of a case. `lengths` are those of its sequences; `widths` says how many an example has, else one.
fn examples(file: &TensorFile) -> Vec<Example> {
    let (ids, types, lengths) = (ints(file, "input_ids"), ints(file, "token_type_ids"), ints(file, "lengths"));
    let widths = if file.contains("widths") { ints(file, "widths") } else { vec![1; lengths.len()] };
    let labels: Vec<Label> = match file.read("labels") {
        Err(_) => vec![Label::None; widths.len()],
        Ok(t) => (0..widths.len() as i64).map(|i| label(&t.get(i))).collect(),
    };
    let tokens: Option<Vec<i64>> = file.contains("token_labels").then(|| ints(file, "token_labels"));
    let (mut start, mut sequence) = (0, 0);
    let examples = widths.iter().zip(labels).map(|(&width, label)| {
        let own = &lengths[sequence..sequence + width as usize];
        sequence += own.len();
        let range = start..start + own.iter().sum::<i64>() as usize;
        start = range.end;
        let tokens = tokens.as_ref().map(|all| all[range.clone()].iter().map(|&class| class as i32).collect());
        Example {
            ids: ids[range.clone()].iter().map(|&i| i as u32).collect(),
            type_ids: types[range].iter().map(|&i| i as u8).collect(),
            lengths: own.iter().map(|&n| n as u32).collect(),
            label: match (tokens, label) {
                (None, label) => label,
                (Some(tokens), Label::Class(class)) => Label::TokensAndClass(tokens, class),
                (Some(tokens), _) => Label::Tokens(tokens),
            },
        }
    });
    examples.collect()
}

fn label(row: &Tensor) -> Label {
    let floats = || Vec::<f32>::try_from(row.view(-1)).unwrap();
    match (row.is_floating_point(), row.size().as_slice()) {
        (true, []) => Label::Value(floats()[0]),
        (true, _) => Label::Flags(floats().into_iter().map(|flag| flag > 0.5).collect()),
        (false, []) => Label::Class(row.int64_value(&[]) as u32),
        (false, _) => Label::Span { start: row.int64_value(&[0]) as u32, end: row.int64_value(&[1]) as u32 },
    }
}

/// The largest difference of two elements.
pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes");
    (a.to_device(b.device()) - b).abs().max().double_value(&[])
}
