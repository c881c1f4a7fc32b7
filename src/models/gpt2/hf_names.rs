//! GPT-2's tensors in Hugging Face files. Its matrices are stored transposed (`Conv1D`).

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam};

/// Returns the mapping for a model with this number of layers, whose head is tied to the input embeddings if `tied`.
pub fn names(layers: usize, tied: bool, role: Role) -> HfNames {
    let words = HfParam::new("embeddings.words.weight", ["wte.weight"]);
    let mut params = vec![
        if tied && role == Role::CausalLm { words.also(&["lm_head.weight"]) } else { words },
        HfParam::new("embeddings.positions.weight", ["wpe.weight"]),
        HfParam::new("lm_head.weight", ["lm_head.weight"]).bare(),
    ];
    for kind in ["weight", "bias"] {
        for i in 0..layers {
            let param = |native: &str, part: &str| {
                HfParam::new(format!("layer.{i}.{native}.{kind}"), [format!("h.{i}.{part}.{kind}")])
            };
            let matrix = |native: &str, part: &str| match kind {
                "weight" => param(native, part).transposed(),
                _ => param(native, part),
            };
            params.extend([
                param("attention.norm", "ln_1"),
                matrix("attention.qkv", "attn.c_attn"),
                matrix("attention.out", "attn.c_proj"),
                param("mlp.norm", "ln_2"),
                matrix("mlp.up", "mlp.c_fc"),
                matrix("mlp.down", "mlp.c_proj"),
            ]);
        }
        params.push(HfParam::new(format!("norm.{kind}"), [format!("ln_f.{kind}")]));
        let classifier = match role {
            Role::SequenceClassification => "score",
            Role::QuestionAnswering => "qa_outputs",
            _ => "classifier",
        };
        params.push(HfParam::new(format!("classifier.{kind}"), [format!("{classifier}.{kind}")]).bare());
    }
    HfNames { prefix: "transformer.", headless: role == Role::Embedding, params, legacy: &[] }
}
