//! Llama and its relatives in llama.cpp's terms: the architectures `llama` (also Mistral), `qwen2` and `qwen3`.

use super::config::Config;
use crate::error::Result;
use crate::models::family::DropoutOverrides;
use crate::models::llama_cpp::{Description, GgufTensor, Number, Source, integer, refused};
use crate::models::rope;
use crate::nn::attention::Mask;
use crate::nn::pre_norm::PreNormConfig;
use crate::nn::rotary::{Rotary, Scaling};
use crate::ops::gated::activation::Activation;
use serde_json::Value;

/// Describes a language model with this `config.json`.
///
/// # Errors
/// Exit 2: an invalid value, or a setting that llama.cpp does not have; the message names the key.
pub fn describe(json: &Value) -> Result<Description> {
    let config = Config::read(json, DropoutOverrides::default())?;
    let keys = &config.keys;
    let architecture = match keys.model_type.as_str() {
        "qwen2" => "qwen2",
        "qwen3" => "qwen3",
        _ => "llama",
    };
    if config.activation != Activation::Silu {
        return Err(refused(format!("hidden_act = \"{}\"", keys.hidden_act), "llama.cpp computes silu"));
    }
    if architecture == "qwen3" && keys.attention_bias {
        return Err(refused("attention_bias = true", "llama.cpp's Qwen3 has no biases"));
    }
    if architecture == "qwen2" && config.head_dim * keys.num_attention_heads != keys.hidden_size {
        let setting = format!("head_dim = {}", config.head_dim);
        return Err(refused(setting, "the heads of llama.cpp's Qwen2 have hidden_size / num_attention_heads elements"));
    }
    let (context_length, notes) = context(&config);
    let (base, scaling) = rope::settings(json, config.head_dim, keys.max_position_embeddings)?;
    let mut all = vec![
        ("vocab_size", integer("vocab_size", keys.vocab_size)?),
        ("context_length", integer("max_position_embeddings", context_length)?),
        ("embedding_length", integer("hidden_size", keys.hidden_size)?),
        ("block_count", integer("num_hidden_layers", keys.num_hidden_layers as i64)?),
        ("feed_forward_length", integer("intermediate_size", keys.intermediate_size)?),
        ("attention.head_count", integer("num_attention_heads", keys.num_attention_heads)?),
        ("attention.head_count_kv", integer("num_key_value_heads", config.kv_heads)?),
        ("attention.key_length", integer("head_dim", config.head_dim)?),
        ("attention.value_length", integer("head_dim", config.head_dim)?),
        ("attention.layer_norm_rms_epsilon", Number::Real(keys.rms_norm_eps as f32)),
        ("rope.dimension_count", integer("head_dim", config.head_dim)?),
        ("rope.freq_base", Number::Real(base as f32)),
    ];
    all.extend(scaling_keys(scaling)?);
    let mut tensors = tensors(&config, architecture);
    if matches!(scaling, Scaling::Llama3 { .. }) {
        let values = Rotary::divisors(config.head_dim, base, scaling);
        let shape = vec![values.len() as i64];
        let name = "rope_freqs.weight".to_owned();
        tensors.push(GgufTensor { name, shape, source: Source::Values(values), is_fp32: true });
    }
    Ok(Description { architecture, keys: all, tensors, context_length: context_length as u32, notes })
}

/// Returns the length up to which llama.cpp computes the same, since these architectures have no windows there.
fn context(config: &Config) -> (i64, Vec<String>) {
    let windows = config.masks.iter().filter_map(|mask| match mask {
        Mask::SlidingWindow(window) => Some(*window),
        _ => None,
    });
    let whole = config.keys.max_position_embeddings;
    match windows.min().filter(|&window| window < whole) {
        Some(window) => (
            window,
            vec![format!(
                "llama.cpp has no sliding window here: the context length is {window} instead of {whole}, up to which \
                 both compute the same"
            )],
        ),
        None => (whole, Vec::new()),
    }
}

fn scaling_keys(scaling: Scaling) -> Result<Vec<(&'static str, Number)>> {
    let scaled = |kind, factor: f64| {
        vec![("rope.scaling.type", Number::Word(kind)), ("rope.scaling.factor", Number::Real(factor as f32))]
    };
    Ok(match scaling {
        Scaling::None | Scaling::Llama3 { .. } => Vec::new(),
        Scaling::Linear { factor } => scaled("linear", factor),
        Scaling::Yarn { factor, attention, fast, slow, truncate, original } => {
            let usual = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            if (attention - usual).abs() > 1e-6 || (fast, slow, truncate) != (32.0, 1.0, true) {
                let setting =
                    "rope_type \"yarn\" with its own attention_factor, mscale, beta_fast, beta_slow or truncate";
                return Err(refused(setting, "only YaRN's usual values are exported"));
            }
            let mut keys = scaled("yarn", factor);
            let original = integer("original_max_position_embeddings", original as i64)?;
            keys.push(("rope.scaling.original_context_length", original));
            keys
        }
    })
}

fn tensors(config: &Config, architecture: &str) -> Vec<GgufTensor> {
    let keys = &config.keys;
    let (hidden, vocab, inner) = (keys.hidden_size, keys.vocab_size, keys.intermediate_size);
    let (queries, pairs) = (keys.num_attention_heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut tensors = vec![GgufTensor::matrix("token_embd.weight", "model.embed_tokens.weight", [vocab, hidden])];
    for (i, &mask) in config.masks.iter().enumerate() {
        let PreNormConfig { attention, feed_forward, .. } = config.block(mask);
        let names = |name: &str, stored: &str, kind: &str| {
            (format!("blk.{i}.{name}.{kind}"), format!("model.layers.{i}.{stored}.{kind}"))
        };
        let mut norm = |name: &str, stored: &str, size: i64| {
            let (name, stored) = names(name, stored, "weight");
            tensors.push(GgufTensor::vector(name, stored, size));
        };
        norm("attn_norm", "input_layernorm", hidden);
        norm("ffn_norm", "post_attention_layernorm", hidden);
        if attention.head_norm.is_some() {
            norm("attn_q_norm", "self_attn.q_norm", config.head_dim);
            norm("attn_k_norm", "self_attn.k_norm", config.head_dim);
        }
        // Only the architecture `llama` rotates pairs of neighbors; the others rotate halves, as Hugging Face does.
        let rotated = |heads: i64| (architecture == "llama").then_some(heads);
        let mut layer = |name: &str, stored: &str, [out, input]: [i64; 2], bias: bool, heads: Option<i64>| {
            let (weight, its) = names(name, stored, "weight");
            let weight = GgufTensor::matrix(weight, its, [out, input]);
            let (own, its) = names(name, stored, "bias");
            let bias = bias.then(|| GgufTensor::vector(own, its, out));
            let order = |tensor: GgufTensor| heads.map_or(tensor.clone(), |heads| tensor.rotated(heads));
            tensors.extend([weight].into_iter().chain(bias).map(order));
        };
        let (qkv_bias, out_bias) = (attention.qkv_bias, attention.out_bias);
        layer("attn_q", "self_attn.q_proj", [queries, hidden], qkv_bias, rotated(keys.num_attention_heads));
        layer("attn_k", "self_attn.k_proj", [pairs, hidden], qkv_bias, rotated(config.kv_heads));
        layer("attn_v", "self_attn.v_proj", [pairs, hidden], qkv_bias, None);
        layer("attn_output", "self_attn.o_proj", [hidden, queries], out_bias, None);
        layer("ffn_gate", "mlp.gate_proj", [inner, hidden], feed_forward.bias, None);
        layer("ffn_up", "mlp.up_proj", [inner, hidden], feed_forward.bias, None);
        layer("ffn_down", "mlp.down_proj", [hidden, inner], feed_forward.bias, None);
    }
    tensors.push(GgufTensor::vector("output_norm.weight", "model.norm.weight", hidden));
    if !keys.tie_word_embeddings {
        tensors.push(GgufTensor::matrix("output.weight", "lm_head.weight", [vocab, hidden]));
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn small(model_type: &str, more: Value) -> Value {
        let mut config = json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 256,
            "sliding_window": null, "head_dim": 16,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    fn key(description: &Description, name: &str) -> Option<Number> {
        description.keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    #[test]
    fn each_relative_has_its_architecture_and_tensors() {
        let of = |model_type: &str, more: Value| describe(&small(model_type, more)).unwrap();
        for (model_type, more, architecture, tensors, rotated) in [
            ("llama", json!({}), "llama", 12, true),
            ("llama", json!({"attention_bias": true, "mlp_bias": true}), "llama", 19, true),
            ("mistral", json!({"tie_word_embeddings": true}), "llama", 11, true),
            ("qwen2", json!({}), "qwen2", 15, false),
            ("qwen3", json!({"head_dim": 32}), "qwen3", 14, false),
        ] {
            let description = of(model_type, more);
            assert_eq!((description.architecture, description.tensors.len()), (architecture, tensors), "{model_type}");
            let queries = description.tensors.iter().find(|tensor| tensor.name == "blk.0.attn_q.weight").unwrap();
            let Source::Stored { rotated_heads, .. } = queries.source else { panic!("{queries:?}") };
            assert_eq!(rotated_heads, rotated.then_some(4), "{model_type}");
        }
        let qwen3 = of("qwen3", json!({"head_dim": 32}));
        assert_eq!(key(&qwen3, "attention.key_length"), Some(Number::Integer(32)));
    }

    #[test]
    fn rotary_scaling_becomes_keys_or_a_tensor() {
        let of = |scaling: Value| describe(&small("llama", json!({"rope_scaling": scaling})));
        let plain = of(Value::Null).unwrap();
        assert_eq!((key(&plain, "rope.scaling.type"), key(&plain, "rope.freq_base")), (None, Some(Number::Real(1e4))));
        let linear = of(json!({"type": "linear", "factor": 2.0})).unwrap();
        assert_eq!(key(&linear, "rope.scaling.type"), Some(Number::Word("linear")));
        let yarn = of(json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64})).unwrap();
        assert_eq!(key(&yarn, "rope.scaling.original_context_length"), Some(Number::Integer(64)));
        let own = of(json!({"type": "yarn", "factor": 4.0, "beta_fast": 16.0})).unwrap_err().to_string();
        assert!(own.contains("beta_fast"), "{own}");
        let llama3 = of(json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }));
        let last = llama3.unwrap().tensors.pop().unwrap();
        let Source::Values(values) = last.source else { panic!("{}", last.name) };
        assert_eq!((last.name.as_str(), values.len(), values[0], values[7]), ("rope_freqs.weight", 8, 1.0, 8.0));
    }

    #[test]
    fn windows_shorten_the_context() {
        let mistral = describe(&small("mistral", json!({"sliding_window": 100}))).unwrap();
        assert_eq!((mistral.context_length, mistral.notes.len()), (100, 1));
        assert_eq!(key(&mistral, "context_length"), Some(Number::Integer(100)));
        let wide = describe(&small("mistral", json!({"sliding_window": 4096}))).unwrap();
        assert_eq!((wide.context_length, wide.notes.len()), (256, 0));
    }

    #[test]
    fn what_llama_cpp_does_not_compute_is_refused() {
        for (model_type, more, part) in [
            ("llama", json!({"hidden_act": "gelu"}), "hidden_act = \"gelu\": llama.cpp computes silu"),
            ("qwen3", json!({"attention_bias": true}), "attention_bias = true: llama.cpp's Qwen3 has no biases"),
            ("qwen2", json!({"head_dim": 8}), "head_dim = 8: "),
        ] {
            let message = describe(&small(model_type, more)).unwrap_err().to_string();
            assert!(message.contains(part), "{model_type}: {message}");
        }
    }
}
