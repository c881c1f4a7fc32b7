//! BERT's tensors in Hugging Face files.

use crate::models::hf_names::{HfNames, HfParam};

/// The map for a model of this many layers, classifier included.
pub fn names(layers: usize) -> HfNames {
    let mut params = vec![
        param("embeddings.words.weight", &["embeddings.word_embeddings.weight"]),
        param("embeddings.positions.weight", &["embeddings.position_embeddings.weight"]),
        param("embeddings.segments.weight", &["embeddings.token_type_embeddings.weight"]),
        param("embeddings.norm.weight", &["embeddings.LayerNorm.weight"]),
        param("embeddings.norm.bias", &["embeddings.LayerNorm.bias"]),
    ];
    for i in 0..layers {
        for kind in ["weight", "bias"] {
            let hf = |part: &str| format!("encoder.layer.{i}.{part}.{kind}");
            let qkv = ["query", "key", "value"].map(|p| hf(&format!("attention.self.{p}")));
            let mut add = |native: &str, parts: &[String]| {
                params.push(HfParam {
                    native: format!("layer.{i}.{native}.{kind}"),
                    parts: parts.to_vec(),
                    prefixed: true,
                });
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
        let name = format!("pooler.{kind}");
        params.push(param(&name, &[&format!("pooler.dense.{kind}")]));
        let name = format!("classifier.{kind}");
        params.push(HfParam { prefixed: false, ..param(&name, &[&name]) });
    }
    HfNames {
        prefix: "bert.",
        params,
        legacy: &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")],
    }
}

fn param(native: &str, parts: &[&str]) -> HfParam {
    HfParam { native: native.to_owned(), parts: parts.iter().map(|&p| p.to_owned()).collect(), prefixed: true }
}
