//! T5's tensors in Hugging Face files.

use crate::models::hf_names::{HfNames, HfParam};
use crate::models::t5::Config;

/// Returns the mapping for a model of this configuration.
pub fn names(config: &Config) -> HfNames {
    let copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    let words = HfParam::new("words.weight", ["shared.weight"]).also(&copies);
    let head = "lm_head.weight";
    let mut params = match config.tied {
        true => vec![words.also(&[head])],
        false => vec![words, HfParam::new(head, [head])],
    };
    let mut add = |native: String, parts: &[String]| {
        params.push(HfParam::new(format!("{native}.weight"), parts.iter().map(|part| format!("{part}.weight"))));
    };
    for (stack, layers) in [("encoder", config.num_layers), ("decoder", config.decoder_layers())] {
        let first = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias");
        add(format!("{stack}.bias"), &[first]);
        for i in 0..layers {
            let attentions = [("attention", "SelfAttention"), ("cross", "EncDecAttention")];
            let attentions = if stack == "encoder" { &attentions[..1] } else { &attentions };
            for (part, (native, theirs)) in attentions.iter().enumerate() {
                let native = format!("{stack}.{i}.{native}");
                let layer = format!("{stack}.block.{i}.layer.{part}");
                add(format!("{native}.norm"), &[format!("{layer}.layer_norm")]);
                add(format!("{native}.query"), &[format!("{layer}.{theirs}.q")]);
                add(format!("{native}.key_value"), &["k", "v"].map(|kind| format!("{layer}.{theirs}.{kind}")));
                add(format!("{native}.out"), &[format!("{layer}.{theirs}.o")]);
            }
            let (native, layer) = (format!("{stack}.{i}.mlp"), format!("{stack}.block.{i}.layer.{}", attentions.len()));
            let up: &[&str] = if config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
            let up: Vec<String> = up.iter().map(|kind| format!("{layer}.DenseReluDense.{kind}")).collect();
            add(format!("{native}.norm"), &[format!("{layer}.layer_norm")]);
            add(format!("{native}.up"), &up);
            add(format!("{native}.down"), &[format!("{layer}.DenseReluDense.wo")]);
        }
        add(format!("{stack}.norm"), &[format!("{stack}.final_layer_norm")]);
    }
    HfNames { prefix: "", headless: false, params, legacy: &[] }
}
