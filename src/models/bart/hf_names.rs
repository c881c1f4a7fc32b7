//! BART's tensors in Hugging Face files.

use crate::models::Role;
use crate::models::bart::Config;
use crate::models::hf_names::{HfNames, HfParam, layer};

/// Returns the mapping for a model of this configuration.
pub fn names(config: &Config, role: Role) -> HfNames {
    const SHARED: &str = "shared.weight";
    let of = |stack: &str| format!("{stack}.embed_tokens.weight");
    let words = |stack: &str| format!("{stack}.embeddings.words.weight");
    let head = "lm_head.weight";
    let mut params = if config.tie_word_embeddings {
        let copies = ["encoder", "decoder"].map(of);
        let mut aliases = [copies.clone(), copies.map(|name| format!("model.{name}"))].concat();
        aliases.extend((role == Role::Seq2Seq).then(|| head.to_owned()));
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        vec![HfParam::new(words("encoder"), [SHARED]).also(&aliases)]
    } else {
        // transformers 4 wrote one matrix for encoder and decoder even so.
        let own = |stack| HfParam::new(words(stack), [of(stack)]).or("model.shared.weight");
        vec![own("encoder"), own("decoder"), HfParam::new("shared", [SHARED]), HfParam::new(head, [head]).bare()]
    };
    let bias = HfParam::new("logits_bias", ["final_logits_bias"]).stored_as(&[1, config.vocab_size]);
    params.push(bias.bare());
    for (stack, layers) in [("encoder", config.encoder_layers), ("decoder", config.decoder_layers)] {
        params.push(HfParam::new(
            format!("{stack}.embeddings.positions.weight"),
            [format!("{stack}.embed_positions.weight")],
        ));
        params.extend(layer(&format!("{stack}.embeddings.norm"), &[&format!("{stack}.layernorm_embedding")]));
        for i in 0..layers {
            let mut add = |native: &str, parts: &[&str]| {
                let parts: Vec<String> = parts.iter().map(|part| format!("{stack}.layers.{i}.{part}")).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                params.extend(layer(&format!("{stack}.{i}.{native}"), &parts));
            };
            add("attention.qkv", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]);
            add("attention.out", &["self_attn.out_proj"]);
            add("attention.norm", &["self_attn_layer_norm"]);
            if stack == "decoder" {
                add("cross.query", &["encoder_attn.q_proj"]);
                add("cross.key_value", &["encoder_attn.k_proj", "encoder_attn.v_proj"]);
                add("cross.out", &["encoder_attn.out_proj"]);
                add("cross.norm", &["encoder_attn_layer_norm"]);
            }
            add("mlp.up", &["fc1"]);
            add("mlp.down", &["fc2"]);
            add("mlp.norm", &["final_layer_norm"]);
        }
    }
    let classifier = if role == Role::QuestionAnswering { "qa_outputs" } else { "classification_head.out_proj" };
    for (native, part) in [("pooler", "classification_head.dense"), ("classifier", classifier)] {
        params.extend(layer(native, &[part]).map(HfParam::bare));
    }
    HfNames { prefix: "model.", headless: false, params, legacy: &[] }
}
