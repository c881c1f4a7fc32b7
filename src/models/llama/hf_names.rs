//! The tensors of Llama and its relatives in Hugging Face files.

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam};

/// The properties that the names depend on.
pub struct Shape {
    /// Prefix of its class names.
    pub kind: &'static str,
    pub layers: usize,
    pub heads: i64,
    pub kv_heads: i64,
    /// Whether the language-model head is tied to the input embeddings.
    pub tied: bool,
}

/// Returns the mapping for a model of this shape.
pub fn names(shape: &Shape, role: Role) -> HfNames {
    let &Shape { kind, layers, heads, kv_heads, tied } = shape;
    let words = HfParam::new("embeddings.words.weight", ["embed_tokens.weight"]);
    let mut params = vec![
        if tied && role == Role::CausalLm { words.also(&["lm_head.weight"]) } else { words },
        HfParam::new("norm.weight", ["norm.weight"]),
        HfParam::new("lm_head.weight", ["lm_head.weight"]).bare(),
    ];
    for i in 0..layers {
        let param = |native: &str, parts: &[&str], kind: &str| {
            let parts = parts.iter().map(|part| format!("layers.{i}.{part}.{kind}"));
            HfParam::new(format!("layer.{i}.{native}.{kind}"), parts)
        };
        params.extend([
            param("attention.norm", &["input_layernorm"], "weight"),
            param("attention.q_norm", &["self_attn.q_norm"], "weight"),
            param("attention.k_norm", &["self_attn.k_norm"], "weight"),
            param("mlp.norm", &["post_attention_layernorm"], "weight"),
        ]);
        for kind in ["weight", "bias"] {
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            params.extend([
                param("attention.qkv", &qkv, kind).sizes(&[heads, kv_heads, kv_heads]),
                param("attention.out", &["self_attn.o_proj"], kind),
                param("mlp.up", &["mlp.gate_proj", "mlp.up_proj"], kind),
                param("mlp.down", &["mlp.down_proj"], kind),
            ]);
        }
    }
    let answers = role == Role::QuestionAnswering;
    for kind in ["weight", "bias"] {
        let classifier = if answers { "qa_outputs" } else { "score" };
        params.push(HfParam::new(format!("classifier.{kind}"), [format!("{classifier}.{kind}")]).bare());
    }
    let prefix = if answers && kind != "Mistral" { "transformer." } else { "model." };
    HfNames { prefix, headless: role == Role::Embedding, params, legacy: &[] }
}
