//! Models that have some of the layers of a folder's model: their `config.json`, and which of its tensors are theirs.

use crate::error::{Error, Result};
use crate::models::Backbone;
use crate::models::hf_names::{HfNames, HfParam};
use serde_json::{Value, json};

/// The keys of `config.json` with a number of layers, of all families.
const COUNTS: &[&str] = &["num_hidden_layers", "n_layers", "n_layer", "num_layers", "num_decoder_layers"];

/// The layers that a model keeps of a folder's.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As the folder counts them, ascending.
    layers: Vec<usize>,
    /// The mapping of the folder's whole model.
    whole: HfNames,
    /// Whether all layers have the same weights.
    shared: bool,
}

impl Kept {
    /// Keeps these layers, ascending and not empty, of the model `whole` with this `config.json`; of an encoder-decoder
    /// in both stacks. Also returns the `config.json` of the model that has only these.
    ///
    /// # Errors
    /// Exit 2: a layer that the model does not have, groups of shared layers, no number of layers in `config.json`.
    pub fn of(json: Value, whole: &dyn Backbone, layers: &[usize]) -> Result<(Self, Value)> {
        let is = |family: &str| json.get("model_type").and_then(Value::as_str) == Some(family);
        let shared = is("albert");
        let number = |key: &str| json.get(key).and_then(Value::as_u64).map(|number| number as usize);
        if shared && number("num_hidden_groups").is_some_and(|groups| groups > 1) {
            return Err(Error::input(
                "model.layers: num_hidden_groups is above 1: the layers of a group share weights, and which are in a \
                 group follows from their number; remove model.layers",
            ));
        }
        let layer_blocks = whole.blocks() - 1;
        let depth = match whole.decoder_block() {
            0 if shared => layer_blocks / number("inner_group_num").unwrap_or(1).max(1),
            0 => layer_blocks,
            between => (between - 1).min(layer_blocks - between),
        };
        if let Some(beyond) = layers.iter().find(|layer| **layer >= depth) {
            let stacks = if whole.decoder_block() > 0 { " in both stacks" } else { "" };
            return Err(Error::input(format!(
                "model.layers: there is no layer {beyond}: the model has {depth} layers{stacks}, counted from 0"
            )));
        }
        if is("modernbert") && layers[0] > 0 {
            return Err(Error::input(
                "model.layers: the first layer of a ModernBERT has no norm before its attention, others have one: keep \
                 layer 0",
            ));
        }
        let config = config(json, layers, depth)?;
        Ok((Kept { layers: layers.to_vec(), whole: whole.hf_names(), shared }, config))
    }

    /// Returns the mapping by which the weights are read from the folder; `own` is that of the model with these layers.
    pub fn stored(&self, own: &HfNames) -> HfNames {
        let param = |param: &HfParam| HfParam {
            native: param.native.clone(),
            ..self.whole.of(&self.native_in_folder(&param.native)).clone()
        };
        HfNames { params: own.params.iter().map(param).collect(), ..own.clone() }
    }

    /// Whether a tensor of the folder belongs to a layer that is not kept.
    pub fn leaves_out(&self, name: &str) -> bool {
        let name = self.whole.normalised(name);
        let dropped = |param: &&HfParam| layer_of(&param.native).is_some_and(|(_, n, _)| !self.layers.contains(&n));
        !self.shared && self.whole.params.iter().filter(dropped).any(|param| self.whole.exported(param).contains(&name))
    }

    fn native_in_folder(&self, native: &str) -> String {
        match layer_of(native) {
            Some((stack, layer, rest)) if !self.shared => format!("{stack}.{}.{rest}", self.layers[layer]),
            _ => native.to_owned(),
        }
    }
}

/// Divides the native name of a layer's parameter: `encoder`, 3, `mlp.up.weight`.
fn layer_of(native: &str) -> Option<(&str, usize, &str)> {
    let (stack, rest) = native.split_once('.')?;
    let (number, rest) = rest.split_once('.')?;
    Some((stack, number.parse().ok()?, rest))
}

/// Returns `config.json` with these of `depth` layers.
fn config(mut json: Value, layers: &[usize], depth: usize) -> Result<Value> {
    let map = json.as_object_mut().filter(|map| COUNTS.iter().any(|key| map.contains_key(*key)));
    let Some(map) = map else {
        let keys = COUNTS[..COUNTS.len() - 1].join(", ");
        return Err(Error::input(format!("model.layers: the file has none of {keys}: add the number of layers")));
    };
    // Every n-th layer of a ModernBERT attends to the whole sequence; of those that are kept only a list can say which.
    if map.get("model_type").is_some_and(|kind| kind == "modernbert")
        && map.get("layer_types").is_none_or(Value::is_null)
    {
        let every = map.get("global_attn_every_n_layers").and_then(Value::as_u64).unwrap_or(3).max(1);
        let kind = |layer: u64| if layer % every == 0 { "full_attention" } else { "sliding_attention" };
        map.insert("layer_types".into(), (0..depth as u64).map(kind).collect());
    }
    for key in COUNTS {
        map.get_mut(*key).into_iter().for_each(|count| *count = json!(layers.len()));
    }
    if let Some(Value::Array(kinds)) = map.get_mut("layer_types")
        && kinds.len() == depth
    {
        *kinds = layers.iter().map(|&layer| kinds[layer].clone()).collect();
    }
    // Qwen's first layers without a sliding window.
    if let Some(first) = map.get("max_window_layers").and_then(Value::as_u64) {
        let kept = layers.iter().filter(|&&layer| (layer as u64) < first).count();
        map.insert("max_window_layers".into(), json!(kept));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::family::{DropoutOverrides, Plan};
    use crate::models::{Role, registry};
    use crate::nn::ParamBuilder;
    use std::path::Path;

    fn backbone(json: Value, role: Role) -> Box<dyn Backbone> {
        let (stored, mut builder) = (|_: &str| Ok(None), ParamBuilder::new());
        let plan = Plan { json, dropout: DropoutOverrides::default(), role, stored: &stored, builder: &mut builder };
        registry::backbone(Path::new("folder"), plan).unwrap()
    }

    /// Keeps layers of a model with this configuration; returns the new configuration and the tensors of the folder by
    /// native name.
    fn kept(json: Value, role: Role, layers: &[usize]) -> Result<(Value, HfNames, Kept)> {
        let whole = backbone(json.clone(), role);
        let (kept, config) = Kept::of(json, whole.as_ref(), layers)?;
        let stored = kept.stored(&backbone(config.clone(), role).hf_names());
        Ok((config, stored, kept))
    }

    #[test]
    fn every_family_keeps_its_layers() {
        let small = json!({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 8});
        let bert = |model_type: &str| {
            let mut json = small.clone();
            json["model_type"] = json!(model_type);
            json
        };
        let t5 = json!({"model_type": "t5", "d_model": 8, "d_kv": 4, "num_heads": 2, "num_layers": 4,
                        "num_decoder_layers": 5});
        let gpt2 = json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 4});
        let distilbert = json!({"model_type": "distilbert", "dim": 8, "n_heads": 2, "n_layers": 4});
        let xlnet = json!({"model_type": "xlnet", "d_model": 8, "n_head": 2, "n_layer": 4, "d_inner": 8});
        let classes = Role::SequenceClassification;
        for (json, role, key, native, tensor) in [
            (bert("bert"), classes, "num_hidden_layers", "layer.1.mlp.up.weight", "bert.encoder.layer.3.intermediate"),
            (bert("roberta"), classes, "num_hidden_layers", "layer.0.mlp.up.bias", "roberta.encoder.layer.1."),
            (distilbert, classes, "n_layers", "layer.1.mlp.up.weight", "distilbert.transformer.layer.3.ffn.lin1"),
            (xlnet, classes, "n_layer", "layer.1.mlp.up.weight", "transformer.layer.3.ff.layer_1"),
            (gpt2, Role::CausalLm, "n_layer", "layer.0.mlp.up.weight", "transformer.h.1.mlp.c_fc"),
            (bert("llama"), Role::CausalLm, "num_hidden_layers", "layer.1.mlp.up.weight", "model.layers.3.mlp.gate"),
            (t5.clone(), Role::Seq2Seq, "num_layers", "encoder.1.mlp.down.weight", "encoder.block.3.layer.1."),
            (t5.clone(), Role::Seq2Seq, "num_decoder_layers", "decoder.0.cross.out.weight", "decoder.block.1.layer.1."),
            // Its only copy is in the first layer of the file.
            (t5, Role::Seq2Seq, "num_layers", "encoder.bias.weight", "encoder.block.0.layer.0.SelfAttention.relative"),
        ] {
            let (config, stored, kept) = kept(json.clone(), role, &[1, 3]).unwrap();
            assert_eq!(config[key], 2, "{json}");
            let found = stored.exported(stored.of(native));
            assert!(found[0].starts_with(tensor), "{native}: {found:?}");
            let dropped = tensor.replace('3', "2").replace("block.1", "block.2").replace("h.1", "h.2");
            let whole = kept.whole.params.iter().flat_map(|param| kept.whole.exported(param));
            for name in whole.filter(|name| name.starts_with(&dropped)) {
                assert_eq!(kept.leaves_out(&name), dropped != tensor && !found.contains(&name), "{name}");
            }
            assert!(!kept.leaves_out(&found[0]) && !kept.leaves_out("another"));
        }
    }

    #[test]
    fn layers_that_share_weights_have_one_tensor() {
        let json = json!({"model_type": "albert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4,
                          "intermediate_size": 8, "embedding_size": 4});
        let (config, stored, kept) = kept(json.clone(), Role::SequenceClassification, &[2, 3]).unwrap();
        assert_eq!(config["num_hidden_layers"], 2);
        let found = stored.exported(stored.of("layer.0.mlp.up.weight"));
        assert_eq!(found, ["albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"]);
        assert!(!kept.leaves_out(&found[0]));
        let mut groups = json;
        groups["num_hidden_groups"] = json!(2);
        let whole = backbone(groups.clone(), Role::SequenceClassification);
        let refused = Kept::of(groups, whole.as_ref(), &[0]).unwrap_err().to_string();
        assert!(refused.contains("num_hidden_groups is above 1"), "{refused}");
    }

    #[test]
    fn layers_of_a_modernbert_keep_their_windows() {
        let json = json!({"model_type": "modernbert", "hidden_size": 8, "num_attention_heads": 2,
                          "num_hidden_layers": 4, "intermediate_size": 8, "global_attn_every_n_layers": 2});
        let (config, stored, own) = kept(json.clone(), Role::SequenceClassification, &[0, 2, 3]).unwrap();
        assert_eq!(config["layer_types"], json!(["full_attention", "full_attention", "sliding_attention"]));
        assert_eq!(stored.exported(stored.of("layer.2.mlp.up.weight")), ["model.layers.3.mlp.Wi.weight"]);
        assert!(own.leaves_out("model.layers.1.attn.Wo.weight") && !own.leaves_out("model.layers.2.attn.Wo.weight"));
        let refused = kept(json, Role::SequenceClassification, &[1, 2]).err().unwrap().to_string();
        assert!(refused.contains("keep layer 0"), "{refused}");
    }

    #[test]
    fn lists_of_layers_are_shortened_too() {
        let kinds = json!(["full_attention", "sliding_attention", "full_attention", "sliding_attention"]);
        let config = |more: Value| {
            let mut json = json!({"num_hidden_layers": 4});
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config(json, &[0, 3], 4).unwrap()
        };
        assert_eq!(
            config(json!({"layer_types": kinds}))["layer_types"],
            json!(["full_attention", "sliding_attention"])
        );
        assert_eq!(config(json!({"max_window_layers": 2}))["max_window_layers"], 1);
        assert_eq!(config(json!({})), json!({"num_hidden_layers": 2}));
    }

    #[test]
    fn a_layer_beyond_the_last_is_refused() {
        let json = json!({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "n_layer": 4});
        let refused = kept(json, Role::CausalLm, &[1, 4]).unwrap_err().to_string();
        assert_eq!(refused, "model.layers: there is no layer 4: the model has 4 layers, counted from 0");
        let t5 = json!({"model_type": "t5", "d_model": 8, "d_kv": 4, "num_heads": 2, "num_layers": 4,
                        "num_decoder_layers": 2});
        let refused = kept(t5, Role::Seq2Seq, &[2]).unwrap_err().to_string();
        assert!(refused.ends_with("there is no layer 2: the model has 2 layers in both stacks, counted from 0"));
        assert!(config(json!({}), &[0], 2).unwrap_err().to_string().contains("none of num_hidden_layers, n_layers"));
    }
}
