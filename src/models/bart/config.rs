//! `config.json` of a BART model, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::encoder_decoder::Stacks;
use crate::models::family::Plan;
use crate::models::{Role, check};
use crate::ops::gated::activation::Activation;
use serde::Deserialize;

/// The part of `config.json` that the model is built from. Defaults are those of `transformers.BartConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: i64,
    pub max_position_embeddings: i64,
    pub d_model: i64,
    pub encoder_layers: usize,
    pub encoder_ffn_dim: i64,
    pub encoder_attention_heads: i64,
    encoder_layerdrop: f64,
    pub decoder_layers: usize,
    pub decoder_ffn_dim: i64,
    pub decoder_attention_heads: i64,
    decoder_layerdrop: f64,
    activation_function: String,
    /// Dropout on embeddings and on the outputs of attention and feed-forward layers.
    pub dropout: f64,
    /// Dropout on attention weights.
    pub attention_dropout: f64,
    /// Dropout on the output of the activation.
    pub activation_dropout: f64,
    /// Dropout before each layer of a classifier.
    pub classifier_dropout: f64,
    pub init_std: f64,
    scale_embedding: bool,
    decoder_start_token_id: Option<i64>,
    is_decoder: bool,
    is_encoder_decoder: bool,
    /// Whether encoder, decoder and language-model head have one embedding matrix. Otherwise each has its own.
    pub tie_word_embeddings: bool,
    #[serde(skip, default = "exact_gelu")]
    pub activation: Activation,
    /// The first token of a decoder that reads the encoder's text.
    #[serde(skip)]
    pub start: i64,
    /// Whether the weight files have a bias of the logits.
    #[serde(skip)]
    pub has_logits_bias: bool,
}

fn exact_gelu() -> Activation {
    Activation::Gelu
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 50265,
            max_position_embeddings: 1024,
            d_model: 1024,
            encoder_layers: 12,
            encoder_ffn_dim: 4096,
            encoder_attention_heads: 16,
            encoder_layerdrop: 0.0,
            decoder_layers: 12,
            decoder_ffn_dim: 4096,
            decoder_attention_heads: 16,
            decoder_layerdrop: 0.0,
            activation_function: "gelu".into(),
            dropout: 0.1,
            attention_dropout: 0.0,
            activation_dropout: 0.0,
            classifier_dropout: 0.0,
            init_std: 0.02,
            scale_embedding: false,
            decoder_start_token_id: Some(2),
            is_decoder: false,
            is_encoder_decoder: true,
            tie_word_embeddings: true,
            activation: exact_gelu(),
            start: 0,
            has_logits_bias: false,
        }
    }
}

impl Config {
    /// Reads and checks the configuration; the plan's dropout overrides the file's.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(plan: &Plan) -> Result<Self> {
        let mut config: Config = serde_json::from_value(plan.json.clone())?;
        config.dropout = plan.dropout.hidden.unwrap_or(config.dropout);
        config.activation_dropout = plan.dropout.hidden.unwrap_or(config.activation_dropout);
        config.attention_dropout = plan.dropout.attention.unwrap_or(config.attention_dropout);
        config.classifier_dropout = plan.dropout.classifier.unwrap_or(config.classifier_dropout);
        config.activation = check::activation("activation_function", &config.activation_function)?;
        config.check()?;
        if plan.role != Role::Seq2Seq {
            config.start = config.start()?;
        }
        config.has_logits_bias = plan.role == Role::Seq2Seq && (plan.stored)("final_logits_bias")?.is_some();
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        if self.is_decoder || !self.is_encoder_decoder {
            return Err(Error::input("is_encoder_decoder = false: BART is supported with encoder and decoder only"));
        }
        for (key, p) in [("encoder_layerdrop", self.encoder_layerdrop), ("decoder_layerdrop", self.decoder_layerdrop)] {
            if p != 0.0 {
                let why = "leaving out layers in training (LayerDrop) is not supported: set it to 0";
                return Err(Error::input(format!("{key} = {p}: {why}")));
            }
        }
        check::sizes(&[
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("d_model", self.d_model),
            ("encoder_layers", self.encoder_layers as i64),
            ("encoder_ffn_dim", self.encoder_ffn_dim),
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_layers", self.decoder_layers as i64),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ])?;
        for heads in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            check::multiple(("d_model", self.d_model), heads)?;
        }
        check::probabilities(&[
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("classifier_dropout", self.classifier_dropout),
        ])
    }

    fn start(&self) -> Result<i64> {
        match self.decoder_start_token_id {
            Some(id) if (0..self.vocab_size).contains(&id) => Ok(id),
            Some(id) => Err(Error::input(format!(
                "decoder_start_token_id = {id}: the vocabulary has {} tokens",
                self.vocab_size
            ))),
            None => Err(Error::input("decoder_start_token_id is null: the decoder's input begins with it")),
        }
    }

    pub fn stacks(&self) -> Stacks {
        Stacks { encoder: self.encoder_layers, decoder: self.decoder_layers }
    }

    /// The factor of token embeddings.
    pub fn embedding_scale(&self) -> f64 {
        if self.scale_embedding { (self.d_model as f64).sqrt() } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::family::DropoutOverrides;
    use crate::nn::ParamBuilder;
    use serde_json::{Value, json};

    fn read(json: Value, role: Role) -> Result<Config> {
        let (stored, mut builder) = (|_: &str| Ok(None), ParamBuilder::new());
        let dropout = DropoutOverrides { hidden: Some(0.3), ..DropoutOverrides::default() };
        Config::read(&Plan { json, dropout, role, stored: &stored, builder: &mut builder })
    }

    #[test]
    fn the_run_overrides_the_dropout_of_layers() {
        let config = read(json!({"attention_dropout": 0.2, "activation_dropout": 0.4}), Role::Seq2Seq).unwrap();
        assert_eq!((config.dropout, config.activation_dropout, config.attention_dropout), (0.3, 0.3, 0.2));
        assert_eq!(config.embedding_scale(), 1.0);
        assert_eq!(read(json!({"scale_embedding": true}), Role::Seq2Seq).unwrap().embedding_scale(), 32.0);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (json, says) in [
            (json!({"encoder_layerdrop": 0.1}), "encoder_layerdrop = 0.1: leaving out layers"),
            (json!({"decoder_layerdrop": 0.5}), "decoder_layerdrop = 0.5: leaving out layers"),
            (json!({"is_encoder_decoder": false}), "is_encoder_decoder = false"),
            (json!({"decoder_layers": 0}), "decoder_layers = 0"),
            (json!({"decoder_attention_heads": 3}), "d_model 1024 is not a multiple of decoder_attention_heads 3"),
            (json!({"activation_function": "mish"}), "activation_function \"mish\" is not known"),
            (json!({"classifier_dropout": 1.0}), "classifier_dropout = 1"),
            (json!({"decoder_start_token_id": null}), "decoder_start_token_id is null"),
            (json!({"decoder_start_token_id": 60000}), "decoder_start_token_id = 60000"),
        ] {
            let message = read(json, Role::SequenceClassification).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        // With targets, the data has the start token.
        read(json!({"decoder_start_token_id": null}), Role::Seq2Seq).unwrap();
    }
}
