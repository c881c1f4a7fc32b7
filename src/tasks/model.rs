//! A backbone with a task head: the list of blocks that training runs.

use crate::data::batch::{Batch, Labels};
use crate::data::extent::Extents;
use crate::models::{Backbone, Boundary};
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::Task;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// A model for one task. Block `blocks() - 1` is the head; it returns the logits, in fp32 for every compute dtype.
pub struct Model {
    pub backbone: Box<dyn Backbone>,
    pub task: Box<dyn Task>,
}

impl Model {
    /// Adds the head that `make` declares to a backbone; returns the model and all parameters.
    pub fn new(
        mut builder: ParamBuilder,
        backbone: Box<dyn Backbone>,
        make: impl FnOnce(&dyn Backbone, &mut ParamBuilder) -> Box<dyn Task>,
    ) -> (Self, Vec<ParamSpec>) {
        let task = builder.block(backbone.blocks(), |b| make(backbone.as_ref(), b));
        (Model { backbone, task }, builder.finish())
    }

    /// Number of blocks, including the head.
    pub fn blocks(&self) -> usize {
        self.backbone.blocks() + 1
    }

    /// Returns the name of a block in messages.
    pub fn block_name(&self, block: usize) -> String {
        if block < self.backbone.blocks() { self.backbone.block_name(block) } else { "head".into() }
    }

    /// Returns whether the matrix of the head's scores of the vocabulary is frozen, by the model's parameters.
    pub fn has_frozen_vocabulary<'a>(&self, specs: impl IntoIterator<Item = &'a ParamSpec>) -> bool {
        let (head, rows) = (self.backbone.blocks(), self.backbone.vocab_size() as i64);
        let of_head = |spec: &&ParamSpec| spec.block == head || spec.borrowers.contains(&head);
        let tables = specs.into_iter().filter(of_head).filter(|spec| spec.shape.len() == 2 && spec.shape[0] == rows);
        let trained: Vec<bool> = tables.map(|spec| spec.trainable).collect();
        !trained.is_empty() && !trained.contains(&true)
    }

    /// Returns the cost of a block, including the boundary activations it adds and, for the head, the loss.
    pub fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        if block == self.backbone.blocks() {
            return self.task.cost(self.backbone.as_ref(), x, how);
        }
        let boundary = self.boundary(block, x, how);
        Cost::keep(boundary).then(self.backbone.cost(block, x, how)).beside(boundary)
    }

    /// Bytes of boundary activations that a block adds; 0 for the head.
    pub fn boundary(&self, block: usize, x: &Extents, how: &ComputeMode) -> f64 {
        if block == self.backbone.blocks() { 0.0 } else { how.element() * self.backbone.boundary(block, x) }
    }

    pub fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block < self.backbone.blocks() {
            self.backbone.forward(block, input, batch, ctx)
        } else {
            let logits = self.task.logits(self.backbone.as_ref(), input, batch, ctx);
            logits.into_iter().map(|logits| logits.to_kind(Kind::Float)).collect()
        }
    }

    /// Runs the head on the last block's activations: the task's answers, and the losses of each term if the batch has
    /// labels.
    pub fn evaluate(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> (Tensor, Vec<Tensor>) {
        let Model { backbone, task } = self;
        let labelled = !matches!(batch.labels, Labels::None | Labels::Blanks(_));
        if labelled
            && !task.reads_logits()
            && let Some(losses) = task.fused_losses(backbone.as_ref(), hidden, batch, ctx)
        {
            return (task.answers(&Boundary::new(), batch), losses.into_iter().map(|losses| losses.values).collect());
        }
        let logits = self.forward(backbone.blocks(), hidden, batch, ctx);
        let losses = if labelled { task.losses(&logits, batch) } else { Vec::new() };
        (task.answers(&logits, batch), losses)
    }

    /// Returns the `config.json` of a checkpoint with weights of `kind`: that of the folder with the task's entries.
    pub fn config_json(&self, kind: Kind) -> Value {
        let mut config = self.backbone.config_json().clone();
        let dtype = match kind {
            Kind::BFloat16 => "bfloat16",
            Kind::Half => "float16",
            _ => "float32",
        };
        if let Value::Object(map) = &mut config {
            map.insert("architectures".into(), json!([self.backbone.architecture()]));
            map.remove("num_labels");
            // Of the folder's weights, not of these; code that is not copied, and that did not run.
            ["torch_dtype", "quantization_config", "auto_map"].iter().for_each(|key| _ = map.remove(*key));
            map.insert("dtype".into(), json!(dtype));
            map.extend(self.task.config_entries());
        }
        config
    }
}
