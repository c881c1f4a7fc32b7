//! GPT-2 in llama.cpp's terms: the architecture `gpt2`.

use super::config::Config;
use crate::error::Result;
use crate::models::family::DropoutOverrides;
use crate::models::llama_cpp::{Description, GgufTensor, Number, integer, refused};
use crate::ops::gated::activation::Activation;
use serde_json::Value;

/// Describes a language model with this `config.json`.
///
/// # Errors
/// Exit 2: an invalid value, or a setting that llama.cpp does not have; the message names the key.
pub fn describe(json: &Value) -> Result<Description> {
    let config = Config::read(json, DropoutOverrides::default())?;
    if config.activation != Activation::GeluTanh {
        let setting = format!("activation_function = \"{}\"", config.activation_function);
        return Err(refused(setting, "llama.cpp computes gelu_new for GPT-2"));
    }
    if !config.scale_attn_weights || config.scale_attn_by_inverse_layer_idx {
        let setting = "scale_attn_weights = false or scale_attn_by_inverse_layer_idx = true";
        return Err(refused(setting, "llama.cpp scales attention by the size of a head only"));
    }
    let (hidden, inner, vocab) = (config.n_embd, config.inner(), config.vocab_size);
    let keys = vec![
        ("context_length", integer("n_positions", config.n_positions)?),
        ("embedding_length", integer("n_embd", hidden)?),
        ("feed_forward_length", integer("n_inner", inner)?),
        ("block_count", integer("n_layer", config.n_layer as i64)?),
        ("attention.head_count", integer("n_head", config.n_head)?),
        ("attention.layer_norm_epsilon", Number::Real(config.layer_norm_epsilon as f32)),
    ];
    let mut positions =
        GgufTensor::matrix("position_embd.weight", "transformer.wpe.weight", [config.n_positions, hidden]);
    positions.is_fp32 = true;
    let mut tensors =
        vec![GgufTensor::matrix("token_embd.weight", "transformer.wte.weight", [vocab, hidden]), positions];
    for i in 0..config.n_layer {
        let norm = |name: &str, stored: &str| {
            ["weight", "bias"].map(|kind| {
                GgufTensor::vector(
                    format!("blk.{i}.{name}.{kind}"),
                    format!("transformer.h.{i}.{stored}.{kind}"),
                    hidden,
                )
            })
        };
        let layer = |name: &str, stored: &str, [out, input]: [i64; 2]| {
            let names = |kind: &str| (format!("blk.{i}.{name}.{kind}"), format!("transformer.h.{i}.{stored}.{kind}"));
            let ((weight, its), (bias, its_bias)) = (names("weight"), names("bias"));
            [GgufTensor::matrix(weight, its, [out, input]).transposed(), GgufTensor::vector(bias, its_bias, out)]
        };
        tensors.extend(norm("attn_norm", "ln_1"));
        tensors.extend(layer("attn_qkv", "attn.c_attn", [3 * hidden, hidden]));
        tensors.extend(layer("attn_output", "attn.c_proj", [hidden, hidden]));
        tensors.extend(norm("ffn_norm", "ln_2"));
        tensors.extend(layer("ffn_up", "mlp.c_fc", [inner, hidden]));
        tensors.extend(layer("ffn_down", "mlp.c_proj", [hidden, inner]));
    }
    for kind in ["weight", "bias"] {
        tensors.push(GgufTensor::vector(format!("output_norm.{kind}"), format!("transformer.ln_f.{kind}"), hidden));
    }
    if !config.tie_word_embeddings {
        tensors.push(GgufTensor::matrix("output.weight", "lm_head.weight", [vocab, hidden]));
    }
    let context_length = config.n_positions as u32;
    Ok(Description { architecture: "gpt2", keys, tensors, context_length, notes: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tied_head_is_not_stored_again() {
        let names = |config: Value| {
            let tensors = describe(&config).unwrap().tensors;
            tensors.into_iter().map(|tensor| tensor.name).collect::<Vec<_>>()
        };
        let tied = names(json!({"n_layer": 1}));
        assert_eq!(tied.len(), 2 + 12 + 2);
        assert!(!tied.contains(&"output.weight".to_owned()));
        assert_eq!(names(json!({"n_layer": 1, "tie_word_embeddings": false})).last().unwrap(), "output.weight");
    }

    #[test]
    fn other_mathematics_is_refused() {
        for (config, part) in [
            (json!({"activation_function": "gelu"}), "activation_function = \"gelu\": llama.cpp computes gelu_new"),
            (json!({"scale_attn_weights": false}), "scale_attn_weights = false"),
            (json!({"scale_attn_by_inverse_layer_idx": true}), "scale_attn_by_inverse_layer_idx = true"),
        ] {
            let message = describe(&config).unwrap_err().to_string();
            assert!(message.contains(part), "{config}: {message}");
        }
    }
}
