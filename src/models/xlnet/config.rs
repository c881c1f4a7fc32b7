//! `config.json` of an XLNet model, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::check;
use crate::models::family::DropoutOverrides;
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::feed_forward::FeedForwardConfig;
use crate::nn::pooler::{Picks, PoolerConfig};
use crate::nn::relative_attention::RelativeAttentionConfig;
use serde::Deserialize;
use serde_json::Value;

/// The keys that the model is built from. Defaults are those of `transformers.XLNetConfig`.
///
/// Without effect here: `mem_len`, `reuse_len`, `use_mems_*` (fine-tuning uses no memory), `same_length` (for
/// `attn_type` "uni"), `untie_r` (in a file every layer has its own biases).
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Keys {
    #[serde(alias = "n_token")]
    vocab_size: i64,
    #[serde(alias = "hidden_size")]
    d_model: i64,
    #[serde(alias = "num_hidden_layers")]
    n_layer: usize,
    #[serde(alias = "num_attention_heads")]
    n_head: i64,
    d_head: Option<i64>,
    d_inner: i64,
    ff_activation: String,
    attn_type: String,
    bi_data: bool,
    clamp_len: i64,
    initializer_range: f64,
    layer_norm_eps: f64,
    dropout: f64,
    summary_type: String,
    summary_use_proj: bool,
    summary_proj_to_labels: bool,
    summary_activation: Option<String>,
    summary_first_dropout: f64,
    summary_last_dropout: f64,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            vocab_size: 32000,
            d_model: 1024,
            n_layer: 24,
            n_head: 16,
            d_head: None,
            d_inner: 4096,
            ff_activation: "gelu".into(),
            attn_type: "bi".into(),
            bi_data: false,
            clamp_len: -1,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            dropout: 0.1,
            summary_type: "last".into(),
            summary_use_proj: true,
            summary_proj_to_labels: false,
            summary_activation: Some("tanh".into()),
            summary_first_dropout: 0.0,
            summary_last_dropout: 0.1,
        }
    }
}

/// The checked configuration.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub vocab_size: i64,
    pub layers: usize,
    pub layer: LayerConfig,
    pub summary: PoolerConfig,
    /// Standard deviation of newly initialized weights.
    pub std: f64,
}

/// Configuration of a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerConfig {
    pub attention: RelativeAttentionConfig,
    pub feed_forward: FeedForwardConfig,
    pub norm_eps: f64,
    /// Dropout on the outputs of attention and the feed-forward layer, and elsewhere in the model.
    pub dropout: f64,
}

impl Config {
    /// Reads and checks the configuration. `dropout` overrides its dropout: `hidden` and `attention` its `dropout`,
    /// `classifier` that of the summary.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let keys: Keys = serde_json::from_value(json.clone())?;
        let Keys { vocab_size, d_model, n_head, d_inner, .. } = keys;
        check::sizes(&[("vocab_size", vocab_size), ("d_model", d_model), ("n_head", n_head), ("d_inner", d_inner)])?;
        keys.check_options()?;
        let (layer, summary) = (keys.layer(dropout)?, keys.summary(dropout)?);
        let config = Config { vocab_size, layers: keys.n_layer, layer, summary, std: keys.initializer_range };
        check::probabilities(&[
            ("dropout", config.layer.dropout),
            ("dropout of attention", config.layer.attention.attention.dropout),
            ("summary_first_dropout", config.summary.dropout_before),
            ("summary_last_dropout", config.summary.dropout),
        ])?;
        Ok(config)
    }
}

impl Keys {
    /// Refuses settings that fine-tuning does not support.
    fn check_options(&self) -> Result<()> {
        let why = if self.attn_type != "bi" {
            format!("attn_type \"{}\" is not supported, only \"bi\": \"uni\" makes it a Transformer-XL", self.attn_type)
        } else if self.bi_data {
            "bi_data = true is not supported: it reads half of a batch backwards, for pretraining".into()
        } else if self.summary_proj_to_labels {
            "summary_proj_to_labels = true is not supported: the task has a separate linear layer".into()
        } else {
            return Ok(());
        };
        Err(Error::input(why))
    }

    fn layer(&self, dropout: DropoutOverrides) -> Result<LayerConfig> {
        let Keys { d_model, n_head, .. } = *self;
        check::multiple(("d_model", d_model), ("n_head", n_head))?;
        if d_model % 2 != 0 {
            return Err(Error::input(format!("d_model {d_model} is odd: it must be even for sinusoids")));
        }
        let head_dim = d_model / n_head;
        if let Some(d_head) = self.d_head.filter(|&d_head| d_head != head_dim) {
            return Err(Error::input(format!("d_head {d_head} is not d_model / n_head, {head_dim}")));
        }
        let (hidden, std) = (d_model, self.initializer_range);
        let inner = dropout.hidden.unwrap_or(self.dropout);
        let attention = AttentionConfig {
            heads: n_head,
            kv_heads: n_head,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            dropout: dropout.attention.unwrap_or(self.dropout),
            mask: Mask::Bidirectional,
        };
        let farthest = (self.clamp_len > 0).then_some(self.clamp_len);
        let feed_forward = FeedForwardConfig {
            hidden,
            intermediate: self.d_inner,
            activation: check::activation("ff_activation", &self.ff_activation)?,
            gated: false,
            bias: true,
            dropout: inner,
            std,
            out_std: std,
        };
        Ok(LayerConfig {
            attention: RelativeAttentionConfig { hidden, attention, farthest, dropout: inner, std },
            feed_forward,
            norm_eps: self.layer_norm_eps,
            dropout: inner,
        })
    }

    fn summary(&self, dropout: DropoutOverrides) -> Result<PoolerConfig> {
        let picks = match self.summary_type.as_str() {
            "first" => Picks::First,
            // transformers also uses the last token without a position of `<cls>`.
            "last" | "cls_index" => Picks::Last,
            "mean" => Picks::Mean,
            other => {
                let known = "\"last\", \"first\", \"mean\" and \"cls_index\"";
                return Err(Error::input(format!("summary_type \"{other}\" is not supported, only {known}")));
            }
        };
        let name = self.summary_activation.as_deref().filter(|name| !name.is_empty());
        // Few configurations have the first dropout: an override of the summary's dropout does not add it.
        let before = dropout.classifier.filter(|_| self.summary_first_dropout > 0.0);
        Ok(PoolerConfig {
            hidden: self.d_model,
            picks,
            dense: self.summary_use_proj,
            activation: name.map(|name| check::activation("summary_activation", name)).transpose()?,
            dropout_before: before.unwrap_or(self.summary_first_dropout),
            dropout: dropout.classifier.unwrap_or(self.summary_last_dropout),
            std: self.initializer_range,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gated::activation::Activation;
    use serde_json::json;

    fn read(json: &Value) -> Result<Config> {
        Config::read(json, DropoutOverrides::default())
    }

    #[test]
    fn defaults_and_other_names_of_keys() {
        let config =
            read(&json!({"n_token": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2})).unwrap();
        let RelativeAttentionConfig { hidden, attention, farthest, dropout, .. } = config.layer.attention;
        assert_eq!((config.vocab_size, hidden, config.layers), (50, 24, 3));
        assert_eq!((attention.heads, attention.head_dim, farthest), (2, 12, None));
        assert_eq!((dropout, attention.dropout), (0.1, 0.1));
        let PoolerConfig { picks, dense, activation, dropout_before, dropout, .. } = config.summary;
        assert_eq!((picks, dense, activation), (Picks::Last, true, Some(Activation::Tanh)));
        assert_eq!((dropout_before, dropout), (0.0, 0.1));
    }

    #[test]
    fn dropouts_are_replaced_one_by_one() {
        let probabilities = |json: Value, dropout: DropoutOverrides| {
            let Config { layer, summary, .. } = Config::read(&json, dropout).unwrap();
            [layer.dropout, layer.attention.attention.dropout, summary.dropout_before, summary.dropout]
        };
        let own = json!({"dropout": 0.2, "summary_last_dropout": 0.3});
        let both = json!({"dropout": 0.2, "summary_first_dropout": 0.4, "summary_last_dropout": 0.3});
        let with = |hidden, attention, classifier| DropoutOverrides { hidden, attention, classifier };
        assert_eq!(probabilities(own.clone(), with(Some(0.0), None, None)), [0.0, 0.2, 0.0, 0.3]);
        assert_eq!(probabilities(own.clone(), with(None, Some(0.5), None)), [0.2, 0.5, 0.0, 0.3]);
        assert_eq!(probabilities(own, with(None, None, Some(0.5))), [0.2, 0.2, 0.0, 0.5]);
        assert_eq!(probabilities(both, with(None, None, Some(0.0))), [0.2, 0.2, 0.0, 0.0]);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_key() {
        for (json, why) in [
            (json!({"attn_type": "uni"}), "attn_type \"uni\" is not supported, only \"bi\""),
            (json!({"bi_data": true}), "bi_data = true"),
            (json!({"summary_type": "attn"}), "summary_type \"attn\" is not supported, only \"last\""),
            (json!({"summary_proj_to_labels": true}), "summary_proj_to_labels = true"),
            (json!({"ff_activation": "snake"}), "ff_activation \"snake\" is not known"),
            (json!({"summary_activation": "snake"}), "summary_activation \"snake\" is not known"),
            (json!({"d_head": 32}), "d_head 32 is not d_model / n_head, 64"),
            (json!({"d_model": 15, "n_head": 5}), "d_model 15 is odd"),
            (json!({"d_model": 16, "n_head": 5}), "d_model 16 is not a multiple of n_head 5"),
            (json!({"n_head": 0}), "n_head = 0"),
            (json!({"dropout": 1.0}), "dropout = 1"),
            (json!({"summary_last_dropout": -0.1}), "summary_last_dropout = -0.1"),
        ] {
            let message = read(&json).unwrap_err().to_string();
            assert!(message.contains(why), "{json}: {message}");
        }
        assert!(read(&json!({"summary_activation": null, "clamp_len": 7})).is_ok());
    }
}
