//! `config.json` of a BERT model, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::registry::DropoutOverrides;
use crate::nn::blocks::Activation;
use serde::Deserialize;
use serde_json::Value;

/// The part of `config.json` that the model is built from. Defaults are those of `transformers.BertConfig`.
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
    pub type_vocab_size: i64,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub classifier_dropout: Option<f64>,
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
            tie_word_embeddings: true,
            position_embedding_type: None,
            is_decoder: false,
            activation: exact_gelu(),
        }
    }
}

impl Config {
    /// Reads and checks the configuration; `dropout` replaces what it says of dropout.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(json: &Value, dropout: DropoutOverrides) -> Result<Self> {
        let mut config: Config = serde_json::from_value(json.clone())?;
        let hidden_act = config.hidden_act.as_str();
        config.activation = Activation::from_name(hidden_act)
            .ok_or_else(|| Error::input(format!("hidden_act \"{hidden_act}\" is not known")))?;
        if config.hidden_size % config.num_attention_heads.max(1) != 0 || config.num_attention_heads < 1 {
            return Err(Error::input(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                config.hidden_size, config.num_attention_heads
            )));
        }
        if let Some(kind @ ("relative_key" | "relative_key_query")) = config.position_embedding_type.as_deref() {
            return Err(Error::input(format!(
                "position_embedding_type \"{kind}\" is not supported, only \"absolute\""
            )));
        }
        if config.is_decoder {
            return Err(Error::input("is_decoder = true: BERT is supported as an encoder only"));
        }
        config.hidden_dropout_prob = dropout.hidden.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = dropout.attention.unwrap_or(config.attention_probs_dropout_prob);
        config.classifier_dropout = dropout.classifier.or(config.classifier_dropout);
        config.check_ranges()?;
        Ok(config)
    }

    fn check_ranges(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((key, value)) = sizes.into_iter().find(|(_, value)| !(1..1 << 31).contains(value)) {
            return Err(Error::input(format!("{key} = {value}: a size from 1 to 2^31 is wanted")));
        }
        let dropouts = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.head_dropout()),
        ];
        if let Some((key, p)) = dropouts.into_iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
            return Err(Error::input(format!("{key} = {p}: a probability from 0 up and below 1 is wanted")));
        }
        Ok(())
    }

    /// The dropout before a classifier: transformers falls back to the hidden one.
    pub fn head_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }
}
