//! A backbone with a task's head: the list of stages that training runs.

use crate::data::batch::Batch;
use crate::data::extent::Extents;
use crate::models::{Backbone, Boundary};
use crate::nn::param_builder::ParamSpec;
use crate::nn::{ComputeMode, Cost, Ctx, ParamBuilder};
use crate::tasks::Task;
use serde_json::{Value, json};
use tch::Kind;

/// A model for one task. Stage `stages() - 1` is the head; its border is the logits, fp32 whatever the model computes in.
pub struct Model {
    pub backbone: Box<dyn Backbone>,
    pub task: Box<dyn Task>,
}

impl Model {
    /// Puts the head that `make` declares on a backbone; returns the parameters of both.
    pub fn new(
        mut builder: ParamBuilder,
        backbone: Box<dyn Backbone>,
        make: impl FnOnce(&dyn Backbone, &mut ParamBuilder) -> Box<dyn Task>,
    ) -> (Self, Vec<ParamSpec>) {
        let task = builder.stage(backbone.stages(), |b| make(backbone.as_ref(), b));
        (Model { backbone, task }, builder.finish())
    }

    /// The number of stages, the head's included.
    pub fn stages(&self) -> usize {
        self.backbone.stages() + 1
    }

    /// A stage's name in messages.
    pub fn stage_name(&self, stage: usize) -> String {
        if stage < self.backbone.stages() { self.backbone.stage_name(stage) } else { "head".into() }
    }

    /// What a stage costs, its loss and what it adds to the border included.
    pub fn cost(&self, stage: usize, x: &Extents, how: &ComputeMode) -> Cost {
        if stage == self.backbone.stages() {
            return self.task.cost(self.backbone.as_ref(), x, how);
        }
        let border = self.boundary(stage, x, how);
        Cost::keep(border).then(self.backbone.cost(stage, x, how)).beside(border)
    }

    /// Bytes that a stage adds to the border; the head adds none.
    pub fn boundary(&self, stage: usize, x: &Extents, how: &ComputeMode) -> f64 {
        if stage == self.backbone.stages() { 0.0 } else { how.element() * self.backbone.boundary(stage, x) }
    }

    /// Runs one stage.
    pub fn forward(&self, stage: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if stage < self.backbone.stages() {
            self.backbone.forward(stage, input, batch, ctx)
        } else {
            let logits = self.task.logits(self.backbone.as_ref(), input, batch, ctx);
            logits.into_iter().map(|logits| logits.to_kind(Kind::Float)).collect()
        }
    }

    /// The `config.json` of a checkpoint with weights of `kind`: the folder's own, with this task's entries.
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
