//! The teacher of a run ([`[distill]`](crate::config::DistillConfig)): a frozen model that answers each micro-batch
//! before the trained model runs on it. The tasks compare both ([`Task::taught_losses`](crate::tasks::Task)).

use crate::comm::Collective;
use crate::config::Config;
use crate::data::batch::{Batch, Taught};
use crate::error::{Context, Error, Result};
use crate::ffi::transfer;
use crate::hub;
use crate::models::family::DropoutOverrides;
use crate::nn::Params;
use crate::parallel::{Masters, Weights};
use crate::tasks::{Head, Model, labels};
use crate::text::tokenizer::Tokenizer;
use crate::train::blockwise::{Blockwise, Recompute};
use crate::train::lora::Lora;
use crate::train::model_folder::ModelFolder;
use crate::train::model_loading::{Declared, LoadOptions, Loaded, Shaped, Source};
use crate::train::reading::{self, Data};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tch::Tensor;

/// Maximum number of labels in a message.
const SHOWN: usize = 12;

/// A teacher on a rank: its weights, or its shard of them if weights are sharded.
pub struct Teacher {
    pub params: Params,
    pub weights: Weights,
    answers: Answers,
    /// Weight of its part of the loss.
    alpha: f64,
    /// Hash of what its weights were read from; the same on every rank.
    pub fingerprint: String,
}

/// How a teacher's logits become answers.
struct Answers {
    model: Model,
    /// i64 `[C]`: the teacher's index of each of the student's labels, if the orders differ.
    columns: Option<Tensor>,
    temperature: f64,
}

impl Answers {
    fn to(&self, params: &Params, weights: &mut Weights, batch: Option<&mut Batch>) -> Result<()> {
        let blockwise = Blockwise { model: &self.model, params, recompute: Recompute::None, watch: None };
        let logits = blockwise.infer(weights, batch.as_deref())?;
        if let (Some(batch), Some(logits)) = (batch, logits) {
            let logits = match &self.columns {
                None => logits,
                Some(columns) => logits.iter().map(|logits| logits.index_select(1, columns)).collect(),
            };
            batch.taught = Some(Taught { logits, temperature: self.temperature });
        }
        Ok(())
    }
}

impl Teacher {
    /// Loads the teacher that [`declare`] has read, with dtype and sharding of the student's `options`. `head` is the
    /// student's.
    ///
    /// # Errors
    /// Exit 2: invalid weights, or a head without weights.
    pub fn load(
        teacher: Shaped,
        config: &Config,
        head: &Head,
        comm: &Arc<dyn Collective>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let options = LoadOptions { trains: Masters::None, from: Source::Folder, ..*options };
        let Loaded { model, params, weights, report, sums, .. } = teacher.load(comm, &options)?;
        let lacking = [report.missing, report.mismatched].concat();
        if !lacking.is_empty() {
            let lacking = lacking.join(", ");
            return Err(Error::input(format!("the head has no weights: {lacking} (is the model fine-tuned?)")));
        }
        let own = labels::of_config(&Value::Object(model.task.config_entries()));
        let columns = own.as_deref().zip(head.labels()).and_then(|(own, wanted)| columns(own, wanted));
        let columns = columns.map(|columns| transfer::to_device(Tensor::from_slice(&columns), comm.device()));
        let fingerprint = blake3::hash(sums.concat().as_bytes()).to_hex().to_string();
        let answers = Answers { model, columns, temperature: config.distill.temperature };
        Ok(Teacher { params, weights, answers, alpha: config.distill.alpha, fingerprint })
    }

    /// Runs the teacher on a micro-batch, without dropout and without graph, and stores its answers there. All ranks
    /// call it, those without a micro-batch too.
    ///
    /// # Errors
    /// A dead or late rank, where weights are gathered; out of memory.
    pub fn answer(&mut self, batch: Option<&mut Batch>) -> Result<()> {
        self.answers.to(&self.params, &mut self.weights, batch)
    }

    /// The same with other `weights`, those of a dry run.
    ///
    /// # Errors
    /// Out of memory.
    pub fn answer_with(&self, weights: &mut Weights, batch: &mut Batch) -> Result<()> {
        self.answers.to(&self.params, weights, Some(batch))
    }

    /// Multiplies the factors of the loss's terms by their part in the whole: `1 - alpha` for the task's, `alpha` for
    /// the last, which is the teacher's.
    pub fn mix(&self, factors: &mut [f64]) {
        if let Some((taught, of_task)) = factors.split_last_mut() {
            of_task.iter_mut().for_each(|factor| *factor *= 1.0 - self.alpha);
            *taught *= self.alpha;
        }
    }

    /// Bytes of weights that this rank keeps.
    pub fn bytes(&self) -> u64 {
        self.weights.bytes(&self.params).0
    }

    /// Number of parameters, and the family.
    pub fn size(&self) -> (i64, &str) {
        let config = self.answers.model.backbone.config_json();
        (self.params.numel(), config.get("model_type").and_then(Value::as_str).unwrap_or("?"))
    }
}

/// Reads the configuration of the run's teacher, if there is one, and checks it against the data and the `student`'s
/// tokenizer. Labels of data that is `assumed` are not known.
///
/// # Errors
/// Exit 2, naming the folder: no such folder, no fine-tuned model, another task, other labels, another vocabulary, or
/// longer sequences than it supports.
pub fn declare(config: &Config, data: &Data, student: &ModelFolder, assumed: bool) -> Result<Option<Shaped>> {
    let Some(path) = &config.distill.teacher else { return Ok(None) };
    let place = || format!("distill.teacher: {}", path.display());
    let local = hub::model_folder(path, false).context("distill.teacher")?;
    if !local.is_dir() {
        let hint = "a model on the Hugging Face Hub is named ORG/NAME";
        return Err(Error::input(format!("{}: no such folder ({hint})", place())));
    }
    let read = || -> Result<Shaped> {
        let folder = ModelFolder::open(path, None)?;
        let json = folder.read_config()?;
        let head = Head::of_config(&folder.path, &json)?;
        let (own, wanted) = (reading::kind(&head), config.task.kind);
        if own != wanted {
            return Err(Error::input(format!("it was fine-tuned for {own}, and task.kind is \"{wanted}\"")));
        }
        if let (Some(own), Some(wanted)) = (head.labels(), data.head.labels().filter(|_| !assumed)) {
            same_labels(own, wanted)?;
        }
        same_vocabulary(folder.tokenizer(), student.tokenizer())?;
        let declared = Declared::read(&folder.base, json, DropoutOverrides::default(), head.role())?;
        declared.check_vocabulary(&data.train)?;
        // Augmented texts may be as long as max_length, and so may later ones of a stream.
        let stored = data.train.dataset.longest_sequence();
        let longest = if config.augment.insert > 0.0 || data.stream.is_some() {
            config.data.max_length.unwrap_or(usize::MAX)
        } else {
            stored
        };
        if let Some(limit) = declared.limit().filter(|&limit| limit < longest) {
            return Err(Error::input(format!(
                "it supports at most {limit} tokens, and sequences of the training data may be longer: set \
                 data.max_length = {limit}"
            )));
        }
        let mut shaped = declared.with_head(&head).with_adapters(Lora::of_model(&folder)?.as_ref())?;
        shaped.specs.iter_mut().for_each(|spec| spec.trainable = false);
        Ok(shaped)
    };
    read().context(place()).map(Some)
}

/// Checks that a teacher has these labels, in any order.
fn same_labels(teacher: &[String], wanted: &[String]) -> Result<()> {
    let beyond = |these: &[String], those: &[String]| {
        let only: Vec<&str> = these.iter().filter(|label| !those.contains(label)).map(String::as_str).collect();
        let more = if only.len() > SHOWN { format!(" and {} more", only.len() - SHOWN) } else { String::new() };
        (!only.is_empty()).then(|| only[..only.len().min(SHOWN)].join(", ") + &more)
    };
    let differences = [("the teacher", beyond(teacher, wanted)), ("the data", beyond(wanted, teacher))];
    let differences: Vec<String> =
        differences.iter().filter_map(|(who, labels)| Some(format!("only {who} has {}", labels.as_ref()?))).collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::input(format!(
        "its labels differ from those of the data: {}; use a teacher with the same labels, or set task.labels to the \
         teacher's if the data just lacks some of them",
        differences.join(", ")
    )))
}

/// Returns the teacher's index of each label, if the orders differ; both have the same labels.
fn columns(teacher: &[String], wanted: &[String]) -> Option<Vec<i64>> {
    if teacher == wanted {
        return None;
    }
    wanted.iter().map(|label| teacher.iter().position(|own| own == label).map(|at| at as i64)).collect()
}

/// Checks that a token id means the same to the teacher.
fn same_vocabulary(teacher: &Path, student: &Path) -> Result<()> {
    if Tokenizer::fingerprint_of(teacher)? == Tokenizer::fingerprint_of(student)? {
        return Ok(());
    }
    let (own, wanted) = (Tokenizer::from_folder(teacher)?, Tokenizer::from_folder(student)?);
    match own.difference(&wanted) {
        None => Ok(()),
        Some((token, [own, wanted])) => {
            let place = |id: Option<u32>| id.map_or_else(|| "missing".to_owned(), |id| format!("token {id}"));
            Err(Error::input(format!(
                "its vocabulary differs from that of the model that learns: {token:?} is {} there and {} here; a \
                 teacher needs the same tokenizer",
                place(own),
                place(wanted)
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<String> {
        words.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn labels_are_mapped_by_name() {
        assert_eq!(columns(&list("a b c"), &list("a b c")), None);
        assert_eq!(columns(&list("a b c"), &list("c a b")), Some(vec![2, 0, 1]));
        assert!(same_labels(&list("a b c"), &list("c a b")).is_ok());
        let refused = same_labels(&list("a b d"), &list("a b c e")).unwrap_err().to_string();
        assert!(refused.contains("only the teacher has d, only the data has c, e; use"), "{refused}");
        let refused = same_labels(&list("a b"), &list("a")).unwrap_err().to_string();
        assert!(refused.contains("only the teacher has b; use"), "{refused}");
    }
}
