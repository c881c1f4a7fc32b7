//! `config.json` of an XLNet model, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::ranges;
use crate::models::registry::DropoutOverrides;
use crate::models::xlnet::summary::{Picks, SummaryConfig};
use crate::nn::attention::{AttentionConfig, Reach};
use crate::nn::blocks::Activation;
use serde::Deserialize;
use serde_json::Value;

/// The keys that the model is built from. Defaults are those of `transformers.XLNetConfig`.
///
/// Without effect there and here: `mem_len`, `reuse_len`, `use_mems_*` (fine-tuning passes no memory on), `same_length`
/// (belongs to `attn_type` "uni"), `untie_r` (in a file every layer has biases of its own).
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

/// What the model is built from.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub vocab_size: i64,
    pub layers: usize,
    pub layer: LayerConfig,
    pub summary: SummaryConfig,
}

/// What a layer needs to know.
#[derive(Debug, Clone, Copy)]
pub struct LayerConfig {
    pub hidden: i64,
    pub intermediate: i64,
    pub attention: AttentionConfig,
    /// Tokens further apart than this count as so far apart.
    pub farthest: Option<i64>,
    pub activation: Activation,
    /// Dropout on embeddings, on sinusoids, and on what attention and the feed-forward part give.
    pub dropout: f64,
    pub norm_eps: f64,
    /// Standard deviation of fresh matrices.
    pub std: f64,
}

impl Config {
    /// Reads and checks the configuration; `dropout` replaces what it says of dropout: `hidden` and `attention` both its
    /// `dropout`, `classifier` that of the summary.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let keys: Keys = serde_json::from_value(json.clone())?;
        keys.check_options()?;
        let config = Config {
            vocab_size: keys.vocab_size,
            layers: keys.n_layer,
            layer: keys.layer(dropout)?,
            summary: keys.summary(dropout)?,
        };
        ranges::sizes(&[("vocab_size", keys.vocab_size), ("d_model", keys.d_model), ("d_inner", keys.d_inner)])?;
        ranges::dropouts(&[
            ("dropout", config.layer.dropout),
            ("dropout of attention", config.layer.attention.dropout),
            ("summary_first_dropout", config.summary.dropout_before),
            ("summary_last_dropout", config.summary.dropout),
        ])?;
        Ok(config)
    }
}

impl Keys {
    /// Refuses what fine-tuning does not use.
    fn check_options(&self) -> Result<()> {
        let why = if self.attn_type != "bi" {
            format!("attn_type \"{}\" is not supported, only \"bi\": \"uni\" makes it a Transformer-XL", self.attn_type)
        } else if self.bi_data {
            "bi_data = true is not supported: it reads half of a batch backwards, for pretraining".into()
        } else if self.summary_proj_to_labels {
            "summary_proj_to_labels = true is not supported: a linear layer of its own tells XLNet's labels".into()
        } else {
            return Ok(());
        };
        Err(Error::input(why))
    }

    fn layer(&self, dropout: DropoutOverrides) -> Result<LayerConfig> {
        let Keys { d_model, n_head, .. } = *self;
        if n_head < 1 || d_model % n_head != 0 || d_model % 2 != 0 {
            return Err(Error::input(format!("d_model {d_model} is odd, or not a multiple of n_head {n_head}")));
        }
        let head_dim = d_model / n_head;
        if let Some(d_head) = self.d_head.filter(|&d_head| d_head != head_dim) {
            return Err(Error::input(format!("d_head {d_head} is not d_model / n_head, {head_dim}")));
        }
        Ok(LayerConfig {
            hidden: d_model,
            intermediate: self.d_inner,
            attention: AttentionConfig {
                heads: n_head,
                kv_heads: n_head,
                head_dim,
                scale: 1.0 / (head_dim as f64).sqrt(),
                dropout: dropout.attention.unwrap_or(self.dropout),
                reach: Reach::All,
            },
            farthest: (self.clamp_len > 0).then_some(self.clamp_len),
            activation: activation("ff_activation", &self.ff_activation)?,
            dropout: dropout.hidden.unwrap_or(self.dropout),
            norm_eps: self.layer_norm_eps,
            std: self.initializer_range,
        })
    }

    fn summary(&self, dropout: DropoutOverrides) -> Result<SummaryConfig> {
        let picks = match self.summary_type.as_str() {
            "first" => Picks::First,
            // transformers takes the last token too where nothing says at which place `<cls>` is.
            "last" | "cls_index" => Picks::Last,
            "mean" => Picks::Mean,
            other => {
                let known = "\"last\", \"first\", \"mean\" and \"cls_index\"";
                return Err(Error::input(format!("summary_type \"{other}\" is not supported, only {known}")));
            }
        };
        let name = self.summary_activation.as_deref().filter(|name| !name.is_empty());
        // Configurations hardly ever have the first one: what replaces the summary's dropout does not add it.
        let before = dropout.classifier.filter(|_| self.summary_first_dropout > 0.0);
        Ok(SummaryConfig {
            hidden: self.d_model,
            picks,
            projects: self.summary_use_proj,
            activation: name.map(|name| activation("summary_activation", name)).transpose()?,
            dropout_before: before.unwrap_or(self.summary_first_dropout),
            dropout: dropout.classifier.unwrap_or(self.summary_last_dropout),
            std: self.initializer_range,
        })
    }
}

fn activation(key: &str, name: &str) -> Result<Activation> {
    Activation::from_name(name).ok_or_else(|| Error::input(format!("{key} \"{name}\" is not known")))
}
