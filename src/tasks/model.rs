//! A backbone with a task head: the list of blocks that training runs.

use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::models::{Backbone, Boundary};
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::Task;
use serde_json::{Value, json};
use tch::Kind;

/// A model for one task. Block `stages() - 1` is the head; it returns the logits, in fp32 for every compute dtype.
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
        let task = builder.stage(backbone.stages(), |b| make(backbone.as_ref(), b));
        (Model { backbone, task }, builder.finish())
    }

    /// Number of blocks, including the head.
    pub fn stages(&self) -> usize {
        self.backbone.stages() + 1
    }

    /// Returns the name of a block in messages.
    pub fn stage_name(&self, stage: usize) -> String {
        if stage < self.backbone.stages() { self.backbone.stage_name(stage) } else { "head".into() }
    }

    /// Returns the cost of a block, including the boundary activations it adds and, for the head, the loss.
    pub fn cost(&self, stage: usize, x: &Extents, how: &ComputeMode) -> Cost {
        if stage == self.backbone.stages() {
            return self.task.cost(self.backbone.as_ref(), x, how);
        }
        let border = self.boundary(stage, x, how);
        Cost::keep(border).then(self.backbone.cost(stage, x, how)).beside(border)
    }

    /// Bytes of boundary activations that a block adds; 0 for the head.
    pub fn boundary(&self, stage: usize, x: &Extents, how: &ComputeMode) -> f64 {
        if stage == self.backbone.stages() { 0.0 } else { how.element() * self.backbone.boundary(stage, x) }
    }

    pub fn forward(&self, stage: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if stage < self.backbone.stages() {
            self.backbone.forward(stage, input, batch, ctx)
        } else {
            let logits = self.task.logits(self.backbone.as_ref(), input, batch, ctx);
            logits.into_iter().map(|logits| logits.to_kind(Kind::Float)).collect()
        }
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
            map.remove("torch_dtype");
            map.insert("dtype".into(), json!(dtype));
            map.extend(self.task.config_entries());
        }
        config
    }
}
