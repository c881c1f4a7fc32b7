//! The blocks of XLNet: embeddings, then the layers; the summary runs in the head's block.

use crate::data::batch::{Batch, Noise};
use crate::data::extent::Extents;
use crate::models::family::Plan;
use crate::models::hf_names::HfNames;
use crate::models::xlnet::config::Config;
use crate::models::xlnet::hf_names;
use crate::models::xlnet::layer::Layer;
use crate::models::{Backbone, Boundary, Reads, Role};
use crate::nn::embedding::{self, Embedding};
use crate::nn::linear::HeadInput;
use crate::nn::pooler::{self, Pooler};
use crate::nn::{Ctx, Init};
use crate::ops::cost::{ComputeMode, Cost};
use crate::ops::cross_entropy::Projection;
use crate::ops::dropout;
use serde_json::Value;
use tch::Tensor;

/// XLNet without a head.
#[derive(Debug)]
pub struct XlNet {
    config: Config,
    json: Value,
    role: Role,
    words: Embedding,
    layers: Vec<Layer>,
    summary: Option<Pooler>,
}

impl XlNet {
    /// Declares the parameters: block 0 the embeddings, blocks 1 to L the layers, block L + 1 the summary, if the task
    /// head needs it.
    pub fn new(config: Config, plan: Plan) -> Self {
        let Plan { json, role, builder: b, .. } = plan;
        let (hidden, std) = (config.layer.attention.hidden, config.std);
        let words = b.scope("embeddings", |b| {
            // The embedding of a target token in the second stream.
            b.constant("mask", &[hidden], Init::Normal { std });
            Embedding::vocabulary(b, "words", config.vocab_size, hidden, std)
        });
        let layers = (0..config.layers)
            .map(|i| b.block(i + 1, |b| b.scope(&format!("layer.{i}"), |b| Layer::new(b, config.layer))))
            .collect();
        let summarises = matches!(role, Role::SequenceClassification | Role::MultipleChoice);
        let summary = summarises.then(|| b.block(config.layers + 1, |b| Pooler::new(b, config.summary)));
        XlNet { config, json, role, words, layers, summary }
    }
}

impl Backbone for XlNet {
    fn blocks(&self) -> usize {
        1 + self.layers.len()
    }

    fn forward(&self, block: usize, input: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Boundary {
        if block > 0 {
            return vec![self.layers[block - 1].forward(ctx, &input[0], batch)];
        }
        let words = self.words.tokens(ctx, &batch.tokens, batch.noise.as_ref().map(Noise::tensors));
        vec![ctx.dropout(words, self.config.layer.dropout)]
    }

    fn summary(&self, hidden: &Boundary, batch: &Batch, ctx: &mut Ctx) -> Tensor {
        let features = self.features(hidden, ctx);
        let summary = self.summary.as_ref().expect("this task head has a summary");
        summary.forward(ctx, &features, &batch.sequences)
    }

    fn features(&self, hidden: &Boundary, ctx: &mut Ctx) -> Tensor {
        ctx.dropout(hidden[0].shallow_clone(), self.config.layer.dropout)
    }

    fn vocabulary(&self, _: &Tensor, _: &mut Ctx) -> Projection {
        unreachable!("the registry refuses language-model heads")
    }

    fn head_input(&self) -> HeadInput {
        HeadInput { width: self.config.layer.attention.hidden, std: self.config.std, bias: true }
    }

    fn max_length(&self) -> Option<usize> {
        None
    }

    fn vocab_size(&self) -> usize {
        self.config.vocab_size as usize
    }

    /// The segment ids of a pair and of `<cls>`. They are only compared.
    fn segments(&self) -> usize {
        3
    }

    fn cost(&self, block: usize, x: &Extents, how: &ComputeMode) -> Cost {
        let numbers = x.own.tokens * self.config.layer.attention.hidden as f64;
        match block.checked_sub(1) {
            Some(layer) => self.layers[layer].cost(how, &x.own),
            None => embedding::cost(how, numbers, 1, self.config.layer.dropout),
        }
    }

    fn head_cost(&self, reads: Reads, x: &Extents, how: &ComputeMode) -> Cost {
        let (hidden, dropout) = (self.config.layer.attention.hidden, self.config.layer.dropout);
        let features = dropout::cost(how, x.own.tokens * hidden as f64, dropout);
        match reads {
            Reads::Summary => features.then(pooler::cost(how, x, hidden)),
            Reads::Features => features,
            Reads::Vocabulary => unreachable!("the registry refuses language-model heads"),
        }
    }

    fn hf_names(&self) -> HfNames {
        hf_names::names(&self.config, self.role)
    }

    fn architecture(&self) -> String {
        match self.role {
            // Without "Simple", the model searches for the answer's end with beams.
            Role::QuestionAnswering => "XLNetForQuestionAnsweringSimple".into(),
            role => format!("XLNet{}", role.ending()),
        }
    }

    fn config_json(&self) -> &Value {
        &self.json
    }
}
