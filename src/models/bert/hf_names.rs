//! BERT's tensors in Hugging Face files.

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam};

/// The map for a model of this many layers.
pub fn names(layers: usize, role: Role) -> HfNames {
    let mut params = vec![
        HfParam::new("embeddings.words.weight", ["embeddings.word_embeddings.weight"])
            .also(&["cls.predictions.decoder.weight"]),
        HfParam::new("embeddings.positions.weight", ["embeddings.position_embeddings.weight"]),
        HfParam::new("embeddings.segments.weight", ["embeddings.token_type_embeddings.weight"]),
        HfParam::new("embeddings.norm.weight", ["embeddings.LayerNorm.weight"]),
        HfParam::new("embeddings.norm.bias", ["embeddings.LayerNorm.bias"]),
    ];
    for i in 0..layers {
        for kind in ["weight", "bias"] {
            let hf = |part: &str| format!("encoder.layer.{i}.{part}.{kind}");
            let qkv = ["query", "key", "value"].map(|p| hf(&format!("attention.self.{p}")));
            let mut add = |native: &str, parts: &[String]| {
                params.push(HfParam::new(format!("layer.{i}.{native}.{kind}"), parts));
            };
            add("attention.qkv", &qkv);
            add("attention.out", &[hf("attention.output.dense")]);
            add("attention.norm", &[hf("attention.output.LayerNorm")]);
            add("mlp.up", &[hf("intermediate.dense")]);
            add("mlp.down", &[hf("output.dense")]);
            add("mlp.norm", &[hf("output.LayerNorm")]);
        }
    }
    for kind in ["weight", "bias"] {
        params.push(HfParam::new(format!("pooler.{kind}"), [format!("pooler.dense.{kind}")]));
        let classifier = match role {
            Role::QuestionAnswering => "qa_outputs",
            Role::PreTraining => "cls.seq_relationship",
            _ => "classifier",
        };
        params.push(HfParam::new(format!("classifier.{kind}"), [format!("{classifier}.{kind}")]).bare());
        for (native, part) in [("dense", "dense"), ("norm", "LayerNorm")] {
            let part = format!("cls.predictions.transform.{part}.{kind}");
            params.push(HfParam::new(format!("lm_head.{native}.{kind}"), [part]).bare());
        }
    }
    params.push(HfParam::new("lm_head.weight", ["cls.predictions.decoder.weight"]).bare());
    params.push(HfParam::new("lm_head.bias", ["cls.predictions.bias"]).bare().also(&["cls.predictions.decoder.bias"]));
    HfNames {
        prefix: "bert.",
        params,
        legacy: &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")],
    }
}
