//! `config.json` of a T5 model, as transformers 4 and 5 write it.

use crate::error::{Error, Result};
use crate::models::check;
use crate::models::family::Plan;
use crate::ops::gated::activation::Activation;
use serde::Deserialize;
use serde_json::{Value, json};

/// The part of `config.json` that the model is built from. Defaults are those of `transformers.T5Config`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    pub vocab_size: i64,
    pub d_model: i64,
    /// Width of a head.
    pub d_kv: i64,
    pub d_ff: i64,
    pub num_layers: usize,
    num_decoder_layers: Option<usize>,
    pub num_heads: i64,
    pub relative_attention_num_buckets: i64,
    pub relative_attention_max_distance: i64,
    /// Dropout everywhere except on attention weights.
    pub dropout_rate: f64,
    pub layer_norm_epsilon: f64,
    pub initializer_factor: f64,
    feed_forward_proj: String,
    tie_word_embeddings: Option<bool>,
    scale_decoder_outputs: Option<bool>,
    model_type: String,
    is_decoder: bool,
    is_encoder_decoder: bool,
    /// Dropout on attention weights.
    #[serde(skip)]
    pub attention_dropout: f64,
    #[serde(skip, default = "relu")]
    pub activation: Activation,
    /// Whether the feed-forward layer is gated.
    #[serde(skip)]
    pub gated: bool,
    /// Whether the head is tied to the input embeddings.
    #[serde(skip)]
    pub tied: bool,
}

fn relu() -> Activation {
    Activation::Relu
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_decoder_layers: None,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            feed_forward_proj: "relu".into(),
            tie_word_embeddings: None,
            scale_decoder_outputs: None,
            model_type: "t5".into(),
            is_decoder: false,
            is_encoder_decoder: true,
            attention_dropout: 0.0,
            activation: relu(),
            gated: false,
            tied: true,
        }
    }
}

/// The model type of mT5, which has other defaults and never scales the head's input.
const MT5: &str = "mt5";

impl Config {
    /// Reads and checks the configuration; the plan's dropout overrides its dropout.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(plan: &Plan) -> Result<Self> {
        let mut config: Config = serde_json::from_value(with_defaults(plan.json.clone()))?;
        (config.gated, config.activation) = config.feed_forward()?;
        let rate = config.dropout_rate;
        config.attention_dropout = plan.dropout.attention.unwrap_or(rate);
        config.dropout_rate = plan.dropout.hidden.unwrap_or(rate);
        config.check()?;
        config.tied = config.is_tied(plan)?;
        Ok(config)
    }

    /// Parses `relu`, `gated-gelu` and the like: whether it is gated, and the activation.
    fn feed_forward(&self) -> Result<(bool, Activation)> {
        let name = self.feed_forward_proj.as_str();
        let activation = match name {
            // A name of the approximation from before transformers distinguished the two.
            "gated-gelu" => Some(Activation::GeluTanh),
            _ => Activation::from_name(name.strip_prefix("gated-").unwrap_or(name)),
        };
        let refuse = || Error::input(format!("feed_forward_proj \"{name}\" is not known"));
        Ok((name.starts_with("gated-"), activation.ok_or_else(refuse)?))
    }

    /// As in transformers 5: the head is tied to the input embeddings unless the weight files have a different one.
    /// Without weight files, `tie_word_embeddings` decides.
    fn is_tied(&self, plan: &Plan) -> Result<bool> {
        let tables = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
        let mut table = None;
        for name in tables {
            table = table.or((plan.stored)(name)?);
        }
        Ok(match (table, (plan.stored)("lm_head.weight")?) {
            (Some(table), Some(head)) => table.kind() == head.kind() && table.size() == head.size() && table == head,
            (None, None) => self.tie_word_embeddings != Some(false),
            _ => true,
        })
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: String| Err(Error::input(why));
        if self.is_decoder || !self.is_encoder_decoder {
            return refuse("is_encoder_decoder = false: T5 is supported with encoder and decoder only".into());
        }
        check::sizes(&[
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_heads", self.num_heads),
            ("num_layers", self.num_layers as i64),
            ("num_decoder_layers", self.decoder_layers() as i64),
        ])?;
        let (buckets, distance) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        if buckets < 4 || distance <= buckets / 2 {
            return refuse(format!(
                "relative_attention_num_buckets = {buckets}, relative_attention_max_distance = {distance}: at least 4 \
                 buckets are wanted, and a distance above half of them"
            ));
        }
        check::probabilities(&[("dropout_rate", self.dropout_rate), ("dropout_rate", self.attention_dropout)])
    }

    /// Number of layers of the decoder; by default that of the encoder.
    pub fn decoder_layers(&self) -> usize {
        self.num_decoder_layers.unwrap_or(self.num_layers)
    }

    /// The scale of the head's input. Version 1.0 (tied head) scales by `d_model^-0.5`, version 1.1 does not scale;
    /// newer files have `scale_decoder_outputs`.
    pub fn output_scale(&self) -> f64 {
        let scales = self.scale_decoder_outputs.unwrap_or(self.tie_word_embeddings != Some(false));
        if scales && self.model_type != MT5 { (self.d_model as f64).powf(-0.5) } else { 1.0 }
    }

    /// Prefix of Hugging Face's class names.
    pub fn class(&self) -> &'static str {
        if self.model_type == MT5 { "MT5" } else { "T5" }
    }
}

/// The defaults of `transformers.MT5Config` that differ from T5's.
fn with_defaults(mut json: Value) -> Value {
    let defaults = [
        ("vocab_size", json!(250112)),
        ("d_ff", json!(1024)),
        ("num_layers", json!(8)),
        ("num_heads", json!(6)),
        ("feed_forward_proj", json!("gated-gelu")),
    ];
    let is_mt5 = json.get("model_type").and_then(Value::as_str) == Some(MT5);
    if let Some(map) = json.as_object_mut().filter(|_| is_mt5) {
        for (key, value) in defaults {
            map.entry(key).or_insert(value);
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Role;
    use crate::models::family::DropoutOverrides;
    use crate::nn::ParamBuilder;
    use tch::{Device, Kind, Tensor};

    /// Reads a configuration with weight files that hold these tensors, each filled with this number.
    fn read(json: Value, stored: &[(&str, f64)]) -> Result<Config> {
        let stored = |name: &str| {
            let found = stored.iter().find(|(stored, _)| *stored == name);
            Ok(found.map(|(_, value)| Tensor::full([2, 2], *value, (Kind::Float, Device::Cpu))))
        };
        let dropout = DropoutOverrides { hidden: Some(0.3), ..DropoutOverrides::default() };
        Config::read(&Plan { json, dropout, role: Role::Seq2Seq, stored: &stored, builder: &mut ParamBuilder::new() })
    }

    #[test]
    fn the_files_say_whether_the_head_is_tied() {
        let tied = |json, stored: &[(&str, f64)]| read(json, stored).unwrap().tied;
        let (own, shared) = (json!({"tie_word_embeddings": false}), json!({"tie_word_embeddings": true}));
        assert_eq!([tied(json!({}), &[]), tied(shared.clone(), &[]), tied(own.clone(), &[])], [true, true, false]);
        let differ = [("shared.weight", 1.0), ("lm_head.weight", 2.0)];
        let same = [("encoder.embed_tokens.weight", 1.0), ("lm_head.weight", 1.0)];
        for json in [own, shared] {
            assert!(!tied(json.clone(), &differ));
            assert!(tied(json.clone(), &same) && tied(json.clone(), &same[1..]) && tied(json, &differ[..1]));
        }
    }

    #[test]
    fn the_output_is_scaled_as_its_version_was() {
        let scale = |json| read(json, &[]).unwrap().output_scale();
        let (kept, none) = (1.0 / 4.0, 1.0);
        assert_eq!(scale(json!({"d_model": 16})), kept);
        assert_eq!(scale(json!({"d_model": 16, "tie_word_embeddings": false})), none);
        assert_eq!(scale(json!({"d_model": 16, "tie_word_embeddings": true, "scale_decoder_outputs": false})), none);
        assert_eq!(scale(json!({"d_model": 16, "tie_word_embeddings": false, "scale_decoder_outputs": true})), kept);
        assert_eq!(scale(json!({"d_model": 16, "model_type": "mt5", "scale_decoder_outputs": true})), none);
    }

    #[test]
    fn defaults_follow_the_model_type_and_the_encoder() {
        let t5 = read(json!({"model_type": "t5", "num_layers": 3, "num_decoder_layers": null}), &[]).unwrap();
        assert_eq!((t5.decoder_layers(), t5.d_ff, t5.gated, t5.activation), (3, 2048, false, Activation::Relu));
        assert_eq!((t5.dropout_rate, t5.attention_dropout, t5.class()), (0.3, 0.1, "T5"));
        let mt5 = read(json!({"model_type": "mt5", "num_heads": 2}), &[]).unwrap();
        assert_eq!((mt5.num_heads, mt5.d_ff, mt5.gated, mt5.activation), (2, 1024, true, Activation::GeluTanh));
        let silu = read(json!({"feed_forward_proj": "gated-silu"}), &[]).unwrap();
        assert_eq!((silu.gated, silu.activation), (true, Activation::Silu));
        assert_eq!(read(json!({"feed_forward_proj": "gelu"}), &[]).unwrap().activation, Activation::Gelu);
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (json, says) in [
            (json!({"feed_forward_proj": "gated-mish"}), "feed_forward_proj \"gated-mish\" is not known"),
            (json!({"is_encoder_decoder": false}), "is_encoder_decoder = false"),
            (json!({"num_decoder_layers": 0}), "num_decoder_layers = 0"),
            (json!({"relative_attention_max_distance": 16}), "a distance above half of them"),
            (json!({"relative_attention_num_buckets": 2}), "at least 4 buckets"),
            (json!({"dropout_rate": 1.0, "d_kv": 0}), "d_kv = 0: expected a size"),
        ] {
            let message = read(json, &[]).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
