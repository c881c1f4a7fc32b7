//! The tensors of ModernBERT in Hugging Face files.

use crate::models::hf_names::{HfNames, HfParam, layer};

/// Returns the mapping for this number of layers. `head` is the native name of the layers before the output layer;
/// `tied` if the output layer has the input embeddings; `headless` for a model without a head.
pub fn names(layers: usize, head: &str, tied: bool, headless: bool) -> HfNames {
    let words = HfParam::new("embeddings.words.weight", ["embeddings.tok_embeddings.weight"]);
    let mut params = vec![if tied { words.also(&["decoder.weight"]) } else { words }];
    let mut add = |native: &str, hf: &str| params.extend(layer(native, &[hf]));
    add("embeddings.norm", "embeddings.norm");
    for i in 0..layers {
        for (native, hf) in [
            ("attention.norm", "attn_norm"),
            ("attention.qkv", "attn.Wqkv"),
            ("attention.out", "attn.Wo"),
            ("mlp.norm", "mlp_norm"),
            ("mlp.up", "mlp.Wi"),
            ("mlp.down", "mlp.Wo"),
        ] {
            add(&format!("layer.{i}.{native}"), &format!("layers.{i}.{hf}"));
        }
    }
    add("norm", "final_norm");
    let of_head = [("dense", "head.dense"), ("norm", "head.norm")].map(|(part, hf)| (format!("{head}.{part}"), hf));
    let outputs = [("lm_head", "decoder"), ("classifier", "classifier")].map(|(native, hf)| (native.to_owned(), hf));
    for (native, hf) in of_head.into_iter().chain(outputs) {
        params.extend(layer(&native, &[hf]).map(HfParam::bare));
    }
    HfNames { prefix: "model.", headless, params, legacy: &[] }
}
