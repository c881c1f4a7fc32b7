//! `config.json` of a GPT-2 model, and the decoder that it describes.

use super::hf_names;
use crate::error::{Error, Result};
use crate::models::decoder::{DecoderConfig, Positions, head_dropout};
use crate::models::family::DropoutOverrides;
use crate::models::{Role, check};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::feed_forward::FeedForwardConfig;
use crate::nn::norm::NormKind;
use crate::nn::pre_norm::PreNormConfig;
use crate::nn::self_attention::SelfAttentionConfig;
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::Value;

/// The part of `config.json` that the model is built from. Defaults are those of `transformers.GPT2Config`.
///
/// `reorder_and_upcast_attn` is not here: attention accumulates in fp32 either way.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    pub(super) vocab_size: i64,
    pub(super) n_positions: i64,
    pub(super) n_embd: i64,
    pub(super) n_layer: usize,
    pub(super) n_head: i64,
    n_inner: Option<i64>,
    pub(super) activation_function: String,
    resid_pdrop: f64,
    embd_pdrop: f64,
    attn_pdrop: f64,
    classifier_dropout: Option<f64>,
    hidden_dropout: Option<f64>,
    pub(super) layer_norm_epsilon: f64,
    initializer_range: f64,
    pub(super) scale_attn_weights: bool,
    pub(super) scale_attn_by_inverse_layer_idx: bool,
    add_cross_attention: bool,
    pub(super) tie_word_embeddings: bool,
    #[serde(skip, default = "tanh_gelu")]
    pub(super) activation: Activation,
    #[serde(skip)]
    asked_head_dropout: Option<f64>,
}

fn tanh_gelu() -> Activation {
    Activation::GeluTanh
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            classifier_dropout: None,
            hidden_dropout: None,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            add_cross_attention: false,
            tie_word_embeddings: true,
            activation: tanh_gelu(),
            asked_head_dropout: None,
        }
    }
}

impl Config {
    /// Reads and checks the configuration; `dropout` overrides its dropout.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let mut config: Config = serde_json::from_value(json.clone())?;
        config.activation = check::activation("activation_function", &config.activation_function)?;
        config.resid_pdrop = dropout.hidden.unwrap_or(config.resid_pdrop);
        config.embd_pdrop = dropout.hidden.unwrap_or(config.embd_pdrop);
        config.attn_pdrop = dropout.attention.unwrap_or(config.attn_pdrop);
        config.asked_head_dropout = dropout.classifier;
        check::sizes(&[
            ("vocab_size", config.vocab_size),
            ("n_positions", config.n_positions),
            ("n_embd", config.n_embd),
            ("n_layer", config.n_layer as i64),
            ("n_head", config.n_head),
            ("n_inner", config.inner()),
        ])?;
        check::multiple(("n_embd", config.n_embd), ("n_head", config.n_head))?;
        check::probabilities(&[
            ("resid_pdrop", config.resid_pdrop),
            ("embd_pdrop", config.embd_pdrop),
            ("attn_pdrop", config.attn_pdrop),
            ("classifier_dropout", config.head_dropout(Role::TokenClassification)),
        ])?;
        match config.add_cross_attention {
            true => Err(Error::input("add_cross_attention = true: GPT-2 is supported without an encoder only")),
            false => Ok(config),
        }
    }

    /// Returns the model for a task head.
    pub fn decoder(&self, role: Role) -> DecoderConfig {
        DecoderConfig {
            vocab: self.vocab_size,
            max_length: self.n_positions,
            positions: Positions::Learnt,
            blocks: (0..self.n_layer).map(|layer| self.block(layer)).collect(),
            dropout: self.embd_pdrop,
            head_dropout: self.head_dropout(role),
            std: self.initializer_range,
            tied: self.tie_word_embeddings,
            names: hf_names::names(self.n_layer, self.tie_word_embeddings, role),
            architecture: match role {
                Role::CausalLm => "GPT2LMHeadModel".into(),
                _ => format!("GPT2{}", role.ending()),
            },
        }
    }

    fn block(&self, layer: usize) -> PreNormConfig {
        let head_dim = self.n_embd / self.n_head;
        let scale = if self.scale_attn_weights { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
        let depth = if self.scale_attn_by_inverse_layer_idx { layer as f64 + 1.0 } else { 1.0 };
        let attention = AttentionConfig {
            heads: self.n_head,
            kv_heads: self.n_head,
            head_dim,
            scale: scale / depth,
            dropout: self.attn_pdrop,
            mask: Mask::Causal,
        };
        // Each layer adds to the residual stream twice.
        let (std, out_std) = (self.initializer_range, self.initializer_range / (2.0 * self.n_layer as f64).sqrt());
        PreNormConfig {
            norm: NormKind::Layer,
            norm_eps: self.layer_norm_epsilon,
            attention_norm: true,
            attention: SelfAttentionConfig {
                hidden: self.n_embd,
                attention,
                qkv_bias: true,
                out_bias: true,
                head_norm: None,
                std,
                out_std,
            },
            feed_forward: FeedForwardConfig {
                hidden: self.n_embd,
                intermediate: self.inner(),
                activation: self.activation,
                gated: false,
                bias: true,
                dropout: 0.0,
                std,
                out_std,
            },
            attended_dropout: self.resid_pdrop,
            mlp_dropout: self.resid_pdrop,
        }
    }

    /// The width of the feed-forward layers.
    pub(super) fn inner(&self) -> i64 {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    fn head_dropout(&self, role: Role) -> f64 {
        head_dropout(role, self.asked_head_dropout, [self.classifier_dropout, self.hidden_dropout])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_supported_is_named() {
        for (config, part) in [
            (json!({"add_cross_attention": true}), "add_cross_attention = true"),
            (json!({"n_head": 7}), "n_embd 768 is not a multiple of n_head 7"),
            (json!({"n_layer": 0}), "n_layer = 0"),
            (json!({"activation_function": "mish"}), "activation_function \"mish\" is not known"),
            (json!({"embd_pdrop": 1.0}), "embd_pdrop = 1"),
        ] {
            let e = Config::read(&config, DropoutOverrides::default()).unwrap_err().to_string();
            assert!(e.contains(part), "{config}: {e}");
        }
    }

    #[test]
    fn dropout_is_that_of_the_class_unless_asked_for() {
        let of = |config: Value, dropout, role| Config::read(&config, dropout).unwrap().decoder(role).head_dropout;
        let none = DropoutOverrides::default();
        let asked = DropoutOverrides { classifier: Some(0.3), ..none };
        assert_eq!(of(json!({}), none, Role::TokenClassification), 0.1);
        assert_eq!(of(json!({"classifier_dropout": 0.2}), none, Role::TokenClassification), 0.2);
        assert_eq!(of(json!({"classifier_dropout": 0.2}), none, Role::SequenceClassification), 0.0);
        assert_eq!(of(json!({"classifier_dropout": 0.2}), asked, Role::SequenceClassification), 0.3);
    }
}
