//! `config.json` of ModernBERT, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::family::DropoutOverrides;
use crate::models::{check, rope};
use crate::nn::attention::{AttentionConfig, Mask};
use crate::nn::feed_forward::FeedForwardConfig;
use crate::nn::norm::NormKind;
use crate::nn::pooler::Picks;
use crate::nn::pre_norm::PreNormConfig;
use crate::nn::prediction_head::PredictionHeadConfig;
use crate::nn::rotary::Rotary;
use crate::nn::self_attention::SelfAttentionConfig;
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::{Value, json};

/// Names of the layers without and with a window in `layer_types` and `rope_parameters`.
const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The keys that a model is built from. Defaults are those of `transformers.ModernBertConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Keys {
    pub vocab_size: i64,
    pub max_position_embeddings: i64,
    pub hidden_size: i64,
    intermediate_size: i64,
    num_attention_heads: i64,
    num_hidden_layers: usize,
    /// Every how many layers one attends to the whole sequence, the first included.
    global_attn_every_n_layers: usize,
    layer_types: Option<Vec<String>>,
    /// The window, of which half is before and half after a token.
    local_attention: i64,
    global_rope_theta: f64,
    local_rope_theta: Option<f64>,
    hidden_activation: String,
    classifier_activation: String,
    classifier_pooling: Pooling,
    attention_bias: bool,
    mlp_bias: bool,
    norm_bias: bool,
    classifier_bias: bool,
    pub decoder_bias: bool,
    pub tie_word_embeddings: bool,
    pub norm_eps: f64,
    initializer_range: f64,
    attention_dropout: f64,
    pub embedding_dropout: f64,
    mlp_dropout: f64,
    pub classifier_dropout: f64,
}

/// The vector that represents a sequence.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Pooling {
    Cls,
    Mean,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            vocab_size: 50368,
            max_position_embeddings: 8192,
            hidden_size: 768,
            intermediate_size: 1152,
            num_attention_heads: 12,
            num_hidden_layers: 22,
            global_attn_every_n_layers: 3,
            layer_types: None,
            local_attention: 128,
            global_rope_theta: 160_000.0,
            local_rope_theta: Some(10_000.0),
            hidden_activation: "gelu".into(),
            classifier_activation: "gelu".into(),
            classifier_pooling: Pooling::Cls,
            attention_bias: false,
            mlp_bias: false,
            norm_bias: false,
            classifier_bias: false,
            decoder_bias: true,
            tie_word_embeddings: true,
            norm_eps: 1e-5,
            initializer_range: 0.02,
            attention_dropout: 0.0,
            embedding_dropout: 0.0,
            mlp_dropout: 0.0,
            classifier_dropout: 0.0,
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub keys: Keys,
    activation: Activation,
    head_activation: Activation,
    /// Whether each layer attends within a window.
    pub slides: Vec<bool>,
    /// Position embeddings of the layers without and with a window.
    pub rotary: [Rotary; 2],
}

impl Config {
    /// Reads and checks the configuration; `dropout` overrides its dropout.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let mut keys: Keys = serde_json::from_value(json.clone())?;
        keys.embedding_dropout = dropout.hidden.unwrap_or(keys.embedding_dropout);
        keys.mlp_dropout = dropout.hidden.unwrap_or(keys.mlp_dropout);
        keys.attention_dropout = dropout.attention.unwrap_or(keys.attention_dropout);
        keys.classifier_dropout = dropout.classifier.unwrap_or(keys.classifier_dropout);
        keys.check()?;
        let slides = match &keys.layer_types {
            Some(kinds) => check::layer_types(kinds, keys.num_hidden_layers)?,
            None => (0..keys.num_hidden_layers).map(|i| i % keys.global_attn_every_n_layers > 0).collect(),
        };
        let [global, local] = [keys.global_rope_theta, keys.local_rope_theta.unwrap_or(keys.global_rope_theta)];
        Ok(Config {
            activation: check::activation("hidden_activation", &keys.hidden_activation)?,
            head_activation: check::activation("classifier_activation", &keys.classifier_activation)?,
            slides,
            rotary: [rotary(json, &keys, KINDS[0], global)?, rotary(json, &keys, KINDS[1], local)?],
            keys,
        })
    }

    /// Returns a layer.
    pub fn block(&self, layer: usize) -> PreNormConfig {
        let Keys { hidden_size: hidden, num_attention_heads: heads, initializer_range: std, .. } = self.keys;
        let head_dim = self.keys.head_dim();
        let (dropout, out_std) = (self.keys.attention_dropout, self.out_std());
        // Both sides of a window include the token itself.
        let near = Mask::BidirectionalWindow(self.keys.local_attention / 2 + 1);
        let mask = if self.slides[layer] { near } else { Mask::Bidirectional };
        let scale = (head_dim as f64).powf(-0.5);
        PreNormConfig {
            norm: self.norm(),
            norm_eps: self.keys.norm_eps,
            // The embeddings are normalized.
            attention_norm: layer > 0,
            attention: SelfAttentionConfig {
                hidden,
                attention: AttentionConfig { heads, kv_heads: heads, head_dim, scale, dropout, mask },
                qkv_bias: self.keys.attention_bias,
                out_bias: self.keys.attention_bias,
                head_norm: None,
                std,
                out_std,
            },
            feed_forward: FeedForwardConfig {
                gated: true,
                activation: self.activation,
                hidden,
                intermediate: self.keys.intermediate_size,
                bias: self.keys.mlp_bias,
                dropout: self.keys.mlp_dropout,
                std,
                out_std,
            },
            attended_dropout: dropout,
            mlp_dropout: 0.0,
        }
    }

    /// Returns the layers before the output layer.
    pub fn head(&self) -> PredictionHeadConfig {
        let Keys { hidden_size: hidden, classifier_bias: bias, norm_eps, .. } = self.keys;
        let (norm, std) = (self.norm(), self.out_std());
        PredictionHeadConfig { hidden, width: hidden, bias, activation: self.head_activation, norm, norm_eps, std }
    }

    pub fn norm(&self) -> NormKind {
        if self.keys.norm_bias { NormKind::Layer } else { NormKind::LayerWithoutBias }
    }

    /// The tokens that represent a sequence.
    pub fn picks(&self) -> Picks {
        match self.keys.classifier_pooling {
            Pooling::Cls => Picks::First,
            Pooling::Mean => Picks::Mean,
        }
    }

    /// The standard deviation of newly initialized input matrices.
    pub fn std(&self) -> f64 {
        self.keys.initializer_range
    }

    /// Each layer adds to the residual stream twice.
    fn out_std(&self) -> f64 {
        self.std() / (2.0 * self.slides.len() as f64).sqrt()
    }
}

impl Keys {
    fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self) -> Result<()> {
        let (hidden, heads) = (("hidden_size", self.hidden_size), ("num_attention_heads", self.num_attention_heads));
        check::sizes(&[
            ("vocab_size", self.vocab_size),
            hidden,
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers as i64),
            heads,
            ("max_position_embeddings", self.max_position_embeddings),
            ("local_attention", self.local_attention),
            ("global_attn_every_n_layers", self.global_attn_every_n_layers as i64),
        ])?;
        check::multiple(hidden, heads)?;
        check::probabilities(&[
            ("attention_dropout", self.attention_dropout),
            ("embedding_dropout", self.embedding_dropout),
            ("mlp_dropout", self.mlp_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])
    }
}

/// Returns the position embeddings of the layers of a kind: transformers 4 has `theta`, 5 has `rope_parameters` of each
/// kind.
fn rotary(json: &Value, keys: &Keys, kind: &str, theta: f64) -> Result<Rotary> {
    let of_kinds = &json["rope_parameters"];
    let other = of_kinds.as_object().and_then(|map| map.keys().find(|key| !KINDS.contains(&key.as_str())));
    if let Some(key) = other {
        let [full, sliding] = KINDS;
        return Err(Error::input(format!(
            "rope_parameters: \"{key}\" is not known, only \"{full}\" and \"{sliding}\""
        )));
    }
    let own = json!({"rope_theta": theta, "rope_scaling": json["rope_scaling"], "rope_parameters": of_kinds[kind]});
    rope::read(&own, keys.head_dim(), keys.max_position_embeddings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::rotary::Scaling;

    fn read(json: Value) -> Result<Config> {
        Config::read(&json, DropoutOverrides::default())
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let config = read(json!({})).unwrap();
        let near = Mask::BidirectionalWindow(65);
        let masks = [0, 1, 2, 3, 21].map(|layer| config.block(layer).attention.attention.mask);
        assert_eq!(masks, [Mask::Bidirectional, near, near, Mask::Bidirectional, Mask::Bidirectional]);
        assert_eq!(
            (config.slides.len(), config.picks(), config.norm()),
            (22, Picks::First, NormKind::LayerWithoutBias)
        );
        assert_eq!(config.rotary, [160_000.0, 10_000.0].map(|theta| Rotary::new(64, theta, Scaling::None)));
        let (first, second) = (config.block(0), config.block(1));
        assert_eq!((first.attention_norm, second.attention_norm, second.feed_forward.gated), (false, true, true));
        assert!(!first.attention.qkv_bias && !first.attention.out_bias && !first.feed_forward.bias);
        assert!(config.keys.decoder_bias && !config.head().bias);
    }

    #[test]
    fn transformers_4_and_5_say_the_same() {
        let old = read(json!({"num_hidden_layers": 3, "global_attn_every_n_layers": 2, "global_rope_theta": 5000.0,
            "local_rope_theta": 70.0, "local_attention": 8}));
        let new = read(json!({"num_hidden_layers": 3, "local_attention": 8,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 70.0}}}));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!((&old.slides, &old.rotary), (&new.slides, &new.rotary));
        assert_eq!(old.block(1).attention.attention.mask, Mask::BidirectionalWindow(5));
        assert_ne!(old.rotary[0], old.rotary[1]);
        let shared = read(json!({"local_rope_theta": null})).unwrap();
        assert_eq!(shared.rotary[0], shared.rotary[1]);
    }

    #[test]
    fn dropout_is_where_transformers_has_it() {
        let json =
            json!({"attention_dropout": 0.1, "embedding_dropout": 0.2, "mlp_dropout": 0.3, "classifier_dropout": 0.4});
        let places = |dropout| {
            let config = Config::read(&json, dropout).unwrap();
            let block = config.block(1);
            let of_layer = [block.attention.attention.dropout, block.attended_dropout, block.feed_forward.dropout];
            (config.keys.embedding_dropout, of_layer, block.mlp_dropout, config.keys.classifier_dropout)
        };
        assert_eq!(places(DropoutOverrides::default()), (0.2, [0.1, 0.1, 0.3], 0.0, 0.4));
        let asked = DropoutOverrides { hidden: Some(0.7), attention: Some(0.8), classifier: Some(0.9) };
        assert_eq!(places(asked), (0.7, [0.8, 0.8, 0.7], 0.0, 0.9));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for (json, part) in [
            (json!({"num_attention_heads": 5}), "hidden_size 768 is not a multiple of num_attention_heads 5"),
            (json!({"hidden_activation": "mish"}), "hidden_activation \"mish\" is not known"),
            (json!({"classifier_pooling": "max"}), "unknown variant `max`, expected `cls` or `mean`"),
            (json!({"global_attn_every_n_layers": 0}), "global_attn_every_n_layers = 0: expected a size"),
            (json!({"layer_types": ["full_attention"]}), "layer_types has 1 entries, num_hidden_layers is 22"),
            (json!({"mlp_dropout": 1.0}), "mlp_dropout = 1: expected a probability"),
            (json!({"rope_parameters": {"rope_theta": 1e4}}), "rope_parameters: \"rope_theta\" is not known"),
            (json!({"rope_scaling": {"rope_type": "longrope"}}), "rope_type \"longrope\" is not supported"),
        ] {
            let e = read(json.clone()).unwrap_err().to_string();
            assert!(e.contains(part), "{json}: {e}");
        }
    }
}
