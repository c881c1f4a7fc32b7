//! `config.json` of the Llama class, as transformers 4 and 5 write it, and the decoder that it describes.

use super::hf_names::{self, Shape};
use crate::error::{Error, Result};
use crate::models::decoder::{DecoderConfig, Positions, head_dropout};
use crate::models::family::DropoutOverrides;
use crate::models::{Role, check, rope};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::feed_forward::FeedForwardConfig;
use crate::nn::norm::NormKind;
use crate::nn::pre_norm::PreNormConfig;
use crate::nn::rotary::Rotary;
use crate::nn::self_attention::SelfAttentionConfig;
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::{Value, json};

/// The keys that a model is built from, with defaults for those that `config.json` lacks.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Keys {
    pub(super) model_type: String,
    pub(super) vocab_size: i64,
    pub(super) hidden_size: i64,
    pub(super) intermediate_size: i64,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: i64,
    pub(super) num_key_value_heads: Option<i64>,
    pub(super) head_dim: Option<i64>,
    pub(super) hidden_act: String,
    pub(super) max_position_embeddings: i64,
    pub(super) initializer_range: f64,
    pub(super) rms_norm_eps: f64,
    pub(super) tie_word_embeddings: bool,
    pub(super) attention_bias: bool,
    pub(super) mlp_bias: bool,
    pub(super) attention_dropout: Option<f64>,
    pub(super) classifier_dropout: Option<f64>,
    pub(super) hidden_dropout: Option<f64>,
    pub(super) sliding_window: Option<i64>,
    pub(super) use_sliding_window: bool,
    pub(super) max_window_layers: usize,
    pub(super) layer_types: Option<Vec<String>>,
}

/// Defaults of `transformers`: those of `LlamaConfig`, then those of the others that differ.
fn defaults(model_type: &str) -> Value {
    let llama = json!({
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "initializer_range": 0.02,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false,
        "use_sliding_window": false, "max_window_layers": 28,
    });
    let qwen = || json!({"vocab_size": 151_936, "intermediate_size": 22016, "max_position_embeddings": 32768, "sliding_window": 4096});
    let own = match model_type {
        "mistral" => json!({
            "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        }),
        "qwen2" => qwen(),
        "qwen3" => overlaid(qwen(), &json!({"head_dim": 128})),
        _ => json!({}),
    };
    overlaid(llama, &own)
}

/// Returns `base` with the entries of `over`.
fn overlaid(mut base: Value, over: &Value) -> Value {
    if let (Value::Object(base), Value::Object(over)) = (&mut base, over) {
        base.extend(over.clone());
    }
    base
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) keys: Keys,
    pub(super) activation: Activation,
    pub(super) kv_heads: i64,
    pub(super) head_dim: i64,
    rotary: Rotary,
    /// The attention mask of each layer.
    pub(super) masks: Vec<Mask>,
    dropout: DropoutOverrides,
}

impl Config {
    /// Reads and checks the configuration; `dropout` overrides its dropout.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let keys: Keys = serde_json::from_value(overlaid(defaults(model_type), json))?;
        let (hidden, heads) = (("hidden_size", keys.hidden_size), ("num_attention_heads", keys.num_attention_heads));
        check::sizes(&[
            hidden,
            heads,
            ("vocab_size", keys.vocab_size),
            ("intermediate_size", keys.intermediate_size),
            ("num_hidden_layers", keys.num_hidden_layers as i64),
            ("max_position_embeddings", keys.max_position_embeddings),
        ])?;
        if keys.head_dim.is_none() {
            check::multiple(hidden, heads)?;
        }
        let head_dim = keys.head_dim.unwrap_or(keys.hidden_size / keys.num_attention_heads);
        let kv_heads = keys.num_key_value_heads.unwrap_or(keys.num_attention_heads);
        check::sizes(&[("head_dim", head_dim), ("num_key_value_heads", kv_heads)])?;
        check::multiple(heads, ("num_key_value_heads", kv_heads))?;
        let config = Config {
            activation: check::activation("hidden_act", &keys.hidden_act)?,
            kv_heads,
            head_dim,
            rotary: rope::read(json, head_dim, keys.max_position_embeddings)?,
            masks: masks(&keys)?,
            dropout,
            keys,
        };
        check::probabilities(&[
            ("hidden_dropout", config.hidden_dropout()),
            ("attention_dropout", config.attention_dropout()),
            ("classifier_dropout", config.head_dropout(Role::TokenClassification)),
        ])?;
        Ok(config)
    }

    /// Returns the model for a task head.
    pub fn decoder(&self, role: Role) -> DecoderConfig {
        let Keys { model_type, vocab_size, max_position_embeddings, initializer_range, .. } = &self.keys;
        let kind = match model_type.as_str() {
            "mistral" => "Mistral",
            "qwen2" => "Qwen2",
            "qwen3" => "Qwen3",
            _ => "Llama",
        };
        let shape = Shape {
            kind,
            layers: self.masks.len(),
            heads: self.keys.num_attention_heads,
            kv_heads: self.kv_heads,
            tied: self.keys.tie_word_embeddings,
        };
        DecoderConfig {
            vocab: *vocab_size,
            max_length: *max_position_embeddings,
            positions: Positions::Rotary(self.rotary.clone()),
            blocks: self.masks.iter().map(|&mask| self.block(mask)).collect(),
            dropout: self.hidden_dropout(),
            head_dropout: self.head_dropout(role),
            std: *initializer_range,
            tied: self.keys.tie_word_embeddings,
            names: hf_names::names(&shape, role),
            architecture: format!("{kind}{}", role.ending()),
        }
    }

    /// Returns a layer with this attention mask.
    pub(super) fn block(&self, mask: Mask) -> PreNormConfig {
        let Keys { model_type, hidden_size: hidden, initializer_range: std, rms_norm_eps, .. } = self.keys.clone();
        let is_qwen2 = model_type == "qwen2";
        let attention = AttentionConfig {
            heads: self.keys.num_attention_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f64).sqrt(),
            dropout: self.attention_dropout(),
            mask,
        };
        // Only Llama and Qwen3 use attention_bias, only Llama uses mlp_bias.
        let asked = self.keys.attention_bias && matches!(model_type.as_str(), "llama" | "qwen3");
        PreNormConfig {
            norm: NormKind::Rms,
            norm_eps: rms_norm_eps,
            attention_norm: true,
            attention: SelfAttentionConfig {
                hidden,
                attention,
                qkv_bias: is_qwen2 || asked,
                out_bias: asked,
                head_norm: (model_type == "qwen3").then_some(rms_norm_eps),
                std,
                out_std: std,
            },
            feed_forward: FeedForwardConfig {
                hidden,
                intermediate: self.keys.intermediate_size,
                activation: self.activation,
                gated: true,
                bias: self.keys.mlp_bias && model_type == "llama",
                dropout: 0.0,
                std,
                out_std: std,
            },
            attended_dropout: self.hidden_dropout(),
            mlp_dropout: self.hidden_dropout(),
        }
    }

    fn attention_dropout(&self) -> f64 {
        self.dropout.attention.or(self.keys.attention_dropout).unwrap_or(0.0)
    }

    /// The published models have no dropout; if a run sets it, it is applied where GPT-2 has it.
    fn hidden_dropout(&self) -> f64 {
        self.dropout.hidden.unwrap_or(0.0)
    }

    fn head_dropout(&self, role: Role) -> f64 {
        let Keys { classifier_dropout, hidden_dropout, .. } = self.keys;
        head_dropout(role, self.dropout.classifier, [classifier_dropout, hidden_dropout])
    }
}

fn masks(keys: &Keys) -> Result<Vec<Mask>> {
    let layers = keys.num_hidden_layers;
    let window = match keys.model_type.as_str() {
        "mistral" => keys.sliding_window,
        "qwen2" | "qwen3" => keys.sliding_window.filter(|_| keys.use_sliding_window),
        _ => None,
    };
    if let Some(window) = window {
        check::sizes(&[("sliding_window", window)])?;
    }
    let near = window.map_or(Mask::Causal, Mask::SlidingWindow);
    match (keys.model_type.as_str(), &keys.layer_types) {
        ("qwen2" | "qwen3", Some(kinds)) => {
            let slides = check::layer_types(kinds, layers)?;
            if window.is_none() && slides.contains(&true) {
                return Err(Error::input(
                    "layer_types has \"sliding_attention\", which needs use_sliding_window = true and a sliding_window",
                ));
            }
            Ok(slides.into_iter().map(|slides| if slides { near } else { Mask::Causal }).collect())
        }
        ("qwen2" | "qwen3", None) => {
            Ok((0..layers).map(|i| if i >= keys.max_window_layers { near } else { Mask::Causal }).collect())
        }
        _ => Ok(vec![near; layers]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<Config> {
        Config::read(&config, DropoutOverrides::default())
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let of = |model_type: &str| read(json!({"model_type": model_type})).unwrap();
        let [llama, mistral, qwen2, qwen3] = ["llama", "mistral", "qwen2", "qwen3"].map(of);
        assert_eq!([llama.kv_heads, mistral.kv_heads, qwen2.kv_heads, qwen3.kv_heads], [32, 8, 32, 32]);
        assert_eq!([llama.head_dim, mistral.head_dim, qwen2.head_dim, qwen3.head_dim], [128; 4]);
        assert_eq!(
            [llama.masks[0], mistral.masks[0], qwen2.masks[31]],
            [Mask::Causal, Mask::SlidingWindow(4096), Mask::Causal]
        );
        assert_eq!(read(json!({"model_type": "mistral", "sliding_window": null})).unwrap().masks[0], Mask::Causal);
        let biases = |config: &Config| {
            let attention = config.block(Mask::Causal).attention;
            (attention.qkv_bias, attention.out_bias, attention.head_norm.is_some())
        };
        assert_eq!(
            [&llama, &qwen2, &qwen3].map(biases),
            [(false, false, false), (true, false, false), (false, false, true)]
        );
    }

    #[test]
    fn windows_are_of_the_layers_that_say_so() {
        let qwen = |more: Value| {
            let config = json!({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 7});
            read(overlaid(config, &more)).map(|config| config.masks)
        };
        let (full, near) = (Mask::Causal, Mask::SlidingWindow(7));
        assert_eq!(qwen(json!({})).unwrap(), [full; 3]);
        assert_eq!(qwen(json!({"use_sliding_window": true, "max_window_layers": 2})).unwrap(), [full, full, near]);
        let kinds = json!(["sliding_attention", "full_attention", "sliding_attention"]);
        let own = qwen(json!({"use_sliding_window": true, "layer_types": kinds}));
        assert_eq!(own.unwrap(), [near, full, near]);
        let refused = |more: Value| qwen(more).unwrap_err().to_string();
        assert!(refused(json!({"layer_types": kinds})).contains("needs use_sliding_window = true"));
        assert!(refused(json!({"layer_types": ["full_attention"]})).contains("layer_types has 1 entries"));
        assert!(refused(json!({"layer_types": ["full_attention", "linear", "full_attention"]})).contains("\"linear\""));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (more, part) in [
            (json!({"num_attention_heads": 5}), "hidden_size 4096 is not a multiple of num_attention_heads 5"),
            (json!({"num_key_value_heads": 5}), "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
            (json!({"head_dim": 7}), "head_dim 7 is odd"),
            (json!({"hidden_act": "mish"}), "hidden_act \"mish\" is not known"),
            (json!({"attention_dropout": 1.0}), "attention_dropout = 1"),
        ] {
            let e = read(overlaid(json!({"model_type": "llama"}), &more)).unwrap_err().to_string();
            assert!(e.contains(part), "{more}: {e}");
        }
    }
}
