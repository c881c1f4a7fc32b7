//! The reference models and values under `tests/reference`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::export;
use trainer::checkpoint::tensors::TensorFile;
use trainer::comm::Collective;
use trainer::comm::solo::Solo;
use trainer::data::batch::Batch;
use trainer::data::{Dataset, Example, Label};
use trainer::models::registry::{self, DropoutOverrides};
use trainer::nn::Pass;
use trainer::parallel::{Gradients, Rows, Zero};
use trainer::train::loaded::{Declared, Head, Holding, Loaded, Source};
use trainer::train::staged::{Recompute, Staged};

/// One case: a model folder with inputs and what transformers makes of them.
pub struct Reference {
    pub folder: PathBuf,
    file: TensorFile,
    dataset: Dataset,
}

/// The folder of a case.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

impl Reference {
    pub fn open(name: &str) -> Self {
        let folder = folder(name);
        let file = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
        let dataset = Dataset::new(examples(&file), [0; 32]);
        Reference { folder, file, dataset }
    }

    /// The model with its weights.
    pub fn load(&self, head: &Head) -> Loaded {
        self.load_with(head, DropoutOverrides::default(), Kind::Float)
    }

    /// The same with other dropout probabilities and of another type.
    pub fn load_with(&self, head: &Head, dropout: DropoutOverrides, kind: Kind) -> Loaded {
        let config = registry::read_config(&self.folder).unwrap();
        let declared = Declared::read(&self.folder, config, dropout).unwrap();
        let holding = Holding { kind, zero: Zero::ALL[0], trains: true, seed: 0, from: Source::Folder };
        declared.with_head(head, &[]).unwrap().load(&alone(), &holding).unwrap()
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

    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// All samples, in the file's order.
    pub fn batch(&self, device: Device) -> Batch {
        self.samples(&(0..self.len()).collect::<Vec<_>>(), device)
    }

    pub fn samples(&self, samples: &[usize], device: Device) -> Batch {
        let samples: Vec<u32> = samples.iter().map(|&i| i as u32).collect();
        Batch::collate(&self.dataset, &samples, device)
    }
}

fn alone() -> Arc<dyn Collective> {
    Arc::new(Solo::new(Device::Cpu))
}

/// The logits of a batch.
pub fn infer(loaded: &mut Loaded, batch: &Batch) -> Tensor {
    let Loaded { model, params, weights, .. } = loaded;
    let staged = Staged { model, params, recompute: Recompute::None, watch: None };
    staged.infer(weights, Some(batch)).unwrap().unwrap()
}

/// The mean loss of a batch, and its gradients, f32 and `scale` times as large, under Hugging Face's names.
pub fn gradients(loaded: &mut Loaded, batch: &Batch, scale: f64) -> (f64, Vec<(String, Tensor)>) {
    let Loaded { model, params, weights, names, .. } = loaded;
    let mut gradients = Gradients::new(params, alone(), Zero::ALL[0], Kind::Float).unwrap();
    gradients.begin(params, Rows::new(Vec::try_from(&batch.tokens).unwrap(), Device::Cpu)).unwrap();
    let staged = Staged { model, params, recompute: Recompute::None, watch: None };
    let forward = staged.forward(weights, Some(batch), Pass::default()).unwrap();
    let count = batch.len() as f64;
    let loss = forward.loss_sum().unwrap().double_value(&[]) / count;
    forward.backward(weights, &mut gradients, scale / count, true).unwrap();
    gradients.finish(params).unwrap();
    let units = params.layout().units().iter().enumerate();
    let each = units.filter_map(|(unit, spec)| Some((unit, gradients.whole(unit, spec).unwrap()?)));
    (loss, each.flat_map(|(unit, whole)| export::parts(params, names, unit, &whole)).collect())
}

fn ints(file: &TensorFile, name: &str) -> Vec<i64> {
    Vec::try_from(file.read(name).unwrap()).unwrap()
}

fn examples(file: &TensorFile) -> Vec<Example> {
    let (ids, types, lengths) = (ints(file, "input_ids"), ints(file, "token_type_ids"), ints(file, "lengths"));
    let labels: Vec<Label> = match file.read("labels") {
        Err(_) => vec![Label::None; lengths.len()],
        Ok(t) if t.is_floating_point() => Vec::<f32>::try_from(t).unwrap().into_iter().map(Label::Value).collect(),
        Ok(t) => Vec::<i64>::try_from(t).unwrap().into_iter().map(|c| Label::Class(c as u32)).collect(),
    };
    let mut start = 0;
    let examples = lengths.iter().zip(labels).map(|(&n, label)| {
        let range = start..start + n as usize;
        start = range.end;
        Example {
            ids: ids[range.clone()].iter().map(|&i| i as u32).collect(),
            type_ids: types[range].iter().map(|&i| i as u8).collect(),
            label,
        }
    });
    examples.collect()
}

pub fn max_difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes");
    (a - b).abs().max().double_value(&[])
}
