//! `config.json` of an encoder, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::check;
use crate::models::family::Plan;
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The part of `config.json` that all encoder families have, with BERT's keys. Defaults are those of
/// `transformers.BertConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: i64,
    pub intermediate_size: i64,
    pub hidden_act: String,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    pub max_position_embeddings: i64,
    /// Number of segments; 0 without segment embeddings.
    pub type_vocab_size: i64,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub classifier_dropout: Option<f64>,
    pub pad_token_id: Option<i64>,
    pub tie_word_embeddings: bool,
    position_embedding_type: Option<String>,
    is_decoder: bool,
    #[serde(skip, default = "exact_gelu")]
    pub activation: Activation,
}

fn exact_gelu() -> Activation {
    Activation::Gelu
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            classifier_dropout: None,
            pad_token_id: Some(0),
            tie_word_embeddings: true,
            position_embedding_type: None,
            is_decoder: false,
            activation: exact_gelu(),
        }
    }
}

impl Config {
    /// Reads and checks the configuration. `defaults` are defaults that differ from BERT's; `spelled` maps the family's
    /// keys to BERT's: (own key, BERT's key). The plan's dropout overrides the file's for the layers.
    ///
    /// # Errors
    /// Exit 2, naming the family's key.
    pub fn read(plan: &Plan, defaults: &[(&str, Value)], spelled: &[(&'static str, &str)]) -> Result<Self> {
        let common =
            |key: &str| spelled.iter().find(|(own, _)| *own == key).map_or(key, |(_, common)| common).to_owned();
        let mut keys: Map<String, Value> = defaults.iter().map(|(key, value)| (common(key), value.clone())).collect();
        let given = plan.json.as_object().into_iter().flatten();
        keys.extend(given.map(|(key, value)| (common(key), value.clone())));
        let mut config: Config = serde_json::from_value(Value::Object(keys))?;
        config.hidden_dropout_prob = plan.dropout.hidden.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = plan.dropout.attention.unwrap_or(config.attention_probs_dropout_prob);
        let own = |key: &'static str| spelled.iter().find(|(_, common)| *common == key).map_or(key, |(own, _)| own);
        config.check(&own)?;
        config.activation = check::activation(own("hidden_act"), &config.hidden_act)?;
        Ok(config)
    }

    /// Width of an attention head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }

    fn check(&self, own: &dyn Fn(&'static str) -> &str) -> Result<()> {
        if let Some(kind @ ("relative_key" | "relative_key_query")) = self.position_embedding_type.as_deref() {
            return Err(Error::input(format!(
                "position_embedding_type \"{kind}\" is not supported, only \"absolute\""
            )));
        }
        if self.is_decoder {
            return Err(Error::input("is_decoder = true: this family is supported as an encoder only"));
        }
        check::sizes(&[
            (own("vocab_size"), self.vocab_size),
            (own("hidden_size"), self.hidden_size),
            (own("num_attention_heads"), self.num_attention_heads),
            (own("intermediate_size"), self.intermediate_size),
            (own("max_position_embeddings"), self.max_position_embeddings),
        ])?;
        let segments = Some((own("type_vocab_size"), self.type_vocab_size)).filter(|(_, count)| *count != 0);
        check::sizes(segments.as_slice())?;
        let heads = (own("num_attention_heads"), self.num_attention_heads);
        check::multiple((own("hidden_size"), self.hidden_size), heads)?;
        check::probabilities(&[
            (own("hidden_dropout_prob"), self.hidden_dropout_prob),
            (own("attention_probs_dropout_prob"), self.attention_probs_dropout_prob),
            (own("classifier_dropout"), self.classifier_dropout.unwrap_or_default()),
        ])
    }
}
