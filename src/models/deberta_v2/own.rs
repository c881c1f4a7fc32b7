//! The keys of `config.json` that BERT does not have, as transformers 4 and 5 write them.

use crate::error::{Error, Result};
use crate::models::check;
use crate::models::encoder::Config;
use crate::models::family::Plan;
use crate::nn::convolution::ConvolutionConfig;
use crate::nn::disentangled_attention::PositionTerms;
use crate::nn::relative_positions::RelativeConfig;
use serde::Deserialize;

/// Defaults are those of `transformers.DebertaV2Config`, or what its model has without the key.
///
/// Without effect, as in transformers: `z_steps`.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub struct Own {
    pub embedding_size: Option<i64>,
    pub position_biased_input: bool,
    relative_attention: bool,
    max_relative_positions: i64,
    position_buckets: i64,
    pos_att_type: Option<Terms>,
    share_att_key: bool,
    norm_rel_ebd: String,
    attention_head_size: Option<i64>,
    pub conv_kernel_size: i64,
    conv_groups: i64,
    conv_act: String,
    pooler_hidden_size: Option<i64>,
    pub pooler_hidden_act: String,
    pub pooler_dropout: f64,
    pub cls_dropout: Option<f64>,
    /// Whether the masked-language-model head is that of BERT.
    pub legacy: bool,
}

/// `["c2p", "p2c"]` or `"c2p|p2c"`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Terms {
    Line(String),
    List(Vec<String>),
}

impl Default for Own {
    fn default() -> Self {
        Own {
            embedding_size: None,
            position_biased_input: true,
            relative_attention: false,
            max_relative_positions: -1,
            position_buckets: -1,
            pos_att_type: None,
            share_att_key: false,
            norm_rel_ebd: "none".into(),
            attention_head_size: None,
            conv_kernel_size: 0,
            conv_groups: 1,
            conv_act: "tanh".into(),
            pooler_hidden_size: None,
            pooler_hidden_act: "gelu".into(),
            pooler_dropout: 0.0,
            cls_dropout: None,
            legacy: true,
        }
    }
}

impl Own {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// Exit 2, naming the key.
    pub fn read(plan: &Plan, config: &Config) -> Result<Self> {
        let own: Own = serde_json::from_value(plan.json.clone())?;
        let width = own.embedding_size.unwrap_or(config.hidden_size);
        check::sizes(&[("embedding_size", width)])?;
        let dropout = own.cls_dropout.unwrap_or_default();
        check::probabilities(&[("pooler_dropout", own.pooler_dropout), ("cls_dropout", dropout)])?;
        let only = |key: &str, value: i64, supported: i64| match value == supported {
            true => Ok(()),
            false => Err(Error::input(format!("{key} = {value} is not supported, only {supported}"))),
        };
        only("attention_head_size", own.attention_head_size.unwrap_or(config.head_dim()), config.head_dim())?;
        only("pooler_hidden_size", own.pooler_hidden_size.unwrap_or(config.hidden_size), config.hidden_size)?;
        only("conv_groups", own.conv_groups, 1)?;
        if !own.legacy && width != config.hidden_size {
            return Err(Error::input(format!(
                "legacy = false with embedding_size = {width}: that head is as wide as the layers, {}",
                config.hidden_size
            )));
        }
        Ok(own)
    }

    /// Returns the terms of the scores that depend on relative positions.
    ///
    /// # Errors
    /// Exit 2: an unknown one.
    pub fn terms(&self) -> Result<PositionTerms> {
        let names: Vec<String> = match &self.pos_att_type {
            None => Vec::new(),
            Some(Terms::Line(line)) => line.to_lowercase().split('|').map(|name| name.trim().to_owned()).collect(),
            Some(Terms::List(list)) => list.clone(),
        };
        if let Some(other) = names.iter().find(|name| !["c2p", "p2c", ""].contains(&name.as_str())) {
            return Err(Error::input(format!("pos_att_type \"{other}\" is not supported, only \"c2p\" and \"p2c\"")));
        }
        let has = |term: &str| names.iter().any(|name| name == term);
        Ok(PositionTerms { to_position: has("c2p"), to_content: has("p2c"), shared: self.share_att_key })
    }

    /// Returns the embeddings of relative positions, if there are any.
    ///
    /// # Errors
    /// Exit 2: buckets that no distance fills.
    pub fn relative(&self, config: &Config) -> Result<Option<RelativeConfig>> {
        if !self.relative_attention {
            return Ok(None);
        }
        let farthest = match self.max_relative_positions {
            ..1 => config.max_position_embeddings,
            farthest => farthest,
        };
        let buckets = Some(self.position_buckets).filter(|buckets| *buckets > 0);
        let span = buckets.unwrap_or(farthest);
        check::sizes(&[("max_relative_positions", farthest), ("position_buckets", span)])?;
        if buckets.is_some() && (span < 2 || farthest - 1 <= span / 2) {
            return Err(Error::input(format!(
                "position_buckets = {span}, max_relative_positions = {farthest}: at least 2 buckets are wanted, and a \
                 distance above half of them"
            )));
        }
        let normalizes = self.norm_rel_ebd.to_lowercase().split('|').any(|kind| kind.trim() == "layer_norm");
        Ok(Some(RelativeConfig {
            hidden: config.hidden_size,
            span,
            max_distance: buckets.map(|_| farthest),
            norm: normalizes.then_some(config.layer_norm_eps),
            dropout: config.hidden_dropout_prob,
            std: config.initializer_range,
        }))
    }

    /// Returns the convolution of the first layer, if there is one.
    ///
    /// # Errors
    /// Exit 2: an even kernel, an unknown activation.
    pub fn convolution(&self, config: &Config) -> Result<Option<ConvolutionConfig>> {
        let kernel = self.conv_kernel_size;
        if kernel <= 0 {
            return Ok(None);
        }
        if kernel % 2 == 0 {
            return Err(Error::input(format!("conv_kernel_size = {kernel} is even: only odd sizes are supported")));
        }
        Ok(Some(ConvolutionConfig {
            hidden: config.hidden_size,
            kernel,
            activation: check::activation("conv_act", &self.conv_act)?,
            dropout: config.hidden_dropout_prob,
            norm_eps: config.layer_norm_eps,
            std: config.initializer_range,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Role;
    use crate::models::deberta_v2::{Relative, design};
    use crate::models::encoder::Design;
    use crate::models::family::DropoutOverrides;
    use crate::nn::ParamBuilder;
    use serde_json::{Value, json};
    use tch::{Device, Kind, Tensor};

    type Parts = (Config, Design, Option<Relative>);

    fn read(json: Value, role: Role, dropout: DropoutOverrides, stored: &str) -> Result<Parts> {
        let stored = |name: &str| Ok((name == stored).then(|| Tensor::zeros([1], (Kind::Float, Device::Cpu))));
        design(&Plan { json, dropout, role, stored: &stored, builder: &mut ParamBuilder::new() })
    }

    fn plain(json: Value) -> Result<(Design, Option<Relative>)> {
        let parts = read(json, Role::TokenClassification, DropoutOverrides::default(), "");
        parts.map(|(_, design, relative)| (design, relative))
    }

    /// The configuration of the published models of version 3, and the defaults.
    #[test]
    fn published_configurations_are_read() {
        let v3 = json!({"relative_attention": true, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
            "share_att_key": true, "pos_att_type": "p2c|c2p", "max_relative_positions": -1, "hidden_size": 768,
            "num_attention_heads": 12, "position_biased_input": false, "type_vocab_size": 0});
        let (design, relative) = plain(v3).unwrap();
        let (relative, terms) = relative.unwrap();
        assert_eq!((relative.span, relative.max_distance, relative.norm), (256, Some(512), Some(1e-7)));
        assert_eq!(terms, PositionTerms { to_position: true, to_content: true, shared: true });
        assert_eq!((design.scale, design.first_position, design.embedding), (1.0 / 192f64.sqrt(), None, None));
        let (design, relative) = plain(json!({})).unwrap();
        assert!(relative.is_none() && design.convolution.is_none());
        assert_eq!((design.scale, design.first_position, design.layers.len()), (0.125, Some(0), 24));
        let (_, relative) = plain(json!({"relative_attention": true, "pos_att_type": ["c2p"]})).unwrap();
        let (relative, terms) = relative.unwrap();
        assert_eq!((relative.span, relative.max_distance, relative.norm), (512, None, None));
        assert_eq!(terms, PositionTerms { to_position: true, to_content: false, shared: false });
    }

    #[test]
    fn dropout_is_where_transformers_has_it() {
        let json = json!({"hidden_dropout_prob": 0.1, "cls_dropout": 0.2, "pooler_dropout": 0.3});
        let of = |json: &Value, role| {
            let (_, design, _) = read(json.clone(), role, DropoutOverrides::default(), "").unwrap();
            (design.pooler_dropout, design.head_dropout)
        };
        for role in [Role::SequenceClassification, Role::MultipleChoice] {
            assert_eq!(of(&json, role), (Some(0.3), Some(0.2)));
            assert_eq!(of(&json!({"hidden_dropout_prob": 0.1}), role), (None, Some(0.1)));
        }
        assert_eq!(of(&json, Role::TokenClassification), (None, Some(0.1)));
        assert_eq!(of(&json, Role::QuestionAnswering), (None, None));
        let more = json!({"relative_attention": true, "pos_att_type": "c2p", "conv_kernel_size": 3});
        let dropout = DropoutOverrides { hidden: Some(0.7), ..DropoutOverrides::default() };
        let (_, design, relative) = read(more, Role::TokenClassification, dropout, "").unwrap();
        assert_eq!((relative.unwrap().0.dropout, design.convolution.unwrap().dropout), (0.7, 0.7));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_its_key() {
        for (json, why) in [
            (json!({"pos_att_type": "c2p|p2p"}), "pos_att_type \"p2p\" is not supported, only \"c2p\" and \"p2c\""),
            (json!({"conv_kernel_size": 4}), "conv_kernel_size = 4 is even"),
            (json!({"conv_kernel_size": 3, "conv_groups": 2}), "conv_groups = 2 is not supported, only 1"),
            (json!({"conv_kernel_size": 3, "conv_act": "snake"}), "conv_act \"snake\" is not known"),
            (json!({"pooler_hidden_act": "snake"}), "pooler_hidden_act \"snake\" is not known"),
            (json!({"pooler_hidden_size": 7}), "pooler_hidden_size = 7 is not supported, only 1536"),
            (json!({"attention_head_size": 7}), "attention_head_size = 7 is not supported, only 64"),
            (json!({"embedding_size": 0}), "embedding_size = 0"),
            (json!({"type_vocab_size": -1}), "type_vocab_size = -1"),
            (json!({"pooler_dropout": 1.0}), "pooler_dropout = 1"),
            (
                json!({"relative_attention": true, "position_buckets": 1}),
                "position_buckets = 1, max_relative_positions",
            ),
            (
                json!({"relative_attention": true, "position_buckets": 256, "max_relative_positions": 129}),
                "129: at least",
            ),
            (json!({"legacy": false, "embedding_size": 8}), "legacy = false with embedding_size = 8"),
        ] {
            let message = plain(json.clone()).unwrap_err().to_string();
            assert!(message.contains(why), "{json}: {message}");
        }
    }

    #[test]
    fn the_head_is_that_of_the_weights() {
        let masked = |json, stored| read(json, Role::MaskedLm, DropoutOverrides::default(), stored);
        let message = masked(json!({}), "lm_predictions.lm_head.bias").unwrap_err().to_string();
        assert!(message.contains("add \"legacy\": false"), "{message}");
        for (json, stored, dense) in [
            (json!({"legacy": false}), "lm_predictions.lm_head.bias", "lm_predictions.lm_head.dense"),
            (json!({}), "cls.predictions.bias", "cls.predictions.transform.dense"),
            (json!({}), "", "cls.predictions.transform.dense"),
        ] {
            assert_eq!(masked(json, stored).unwrap().1.param_names.lm_head.dense, dense);
        }
        let untied = json!({"legacy": false, "tie_word_embeddings": false});
        assert!(masked(untied, "").unwrap().0.tie_word_embeddings);
    }
}
