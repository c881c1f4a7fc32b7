//! XLNet's tensors in Hugging Face files.

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam, layer as named};
use crate::models::xlnet::config::Config;
use crate::nn::attention::AttentionConfig;
use crate::nn::relative_attention::RelativeAttentionConfig;

/// Returns the mapping for a model of this configuration.
pub fn names(config: &Config, role: Role) -> HfNames {
    let hidden = config.layer.attention.hidden;
    let mut params = vec![
        HfParam::new("embeddings.mask", ["mask_emb"]).stored_as(&[1, 1, hidden]),
        HfParam::new("embeddings.words.weight", ["word_embedding.weight"]),
    ];
    for layer in 0..config.layers {
        params.extend(attention(config, layer));
        let parts = [
            ("attention.norm", "rel_attn.layer_norm"),
            ("mlp.up", "ff.layer_1"),
            ("mlp.down", "ff.layer_2"),
            ("mlp.norm", "ff.layer_norm"),
        ];
        let of = |(native, part)| named(&format!("layer.{layer}.{native}"), &[&format!("layer.{layer}.{part}")]);
        params.extend(parts.into_iter().flat_map(of));
    }
    let classifier = match role {
        Role::TokenClassification => "classifier",
        Role::QuestionAnswering => "qa_outputs",
        _ => "logits_proj",
    };
    let heads = [("pooler", "sequence_summary.summary"), ("classifier", classifier)];
    params.extend(heads.into_iter().flat_map(|(native, part)| named(native, &[part])).map(HfParam::bare));
    HfNames { prefix: "transformer.", headless: role == Role::Embedding, params, legacy: &[] }
}

/// The tensors of a layer's attention. The file has matrices as `[hidden, heads, head_dim]`, including the output's,
/// and vectors as `[heads, head_dim]`.
fn attention(config: &Config, layer: usize) -> Vec<HfParam> {
    let RelativeAttentionConfig { hidden, attention: AttentionConfig { heads, head_dim, .. }, .. } =
        config.layer.attention;
    let param = |native: &str, parts: &[&str], shape: &[i64]| {
        let parts = parts.iter().map(|part| format!("layer.{layer}.rel_attn.{part}"));
        HfParam::new(format!("layer.{layer}.attention.{native}"), parts).stored_as(shape)
    };
    let matrix = [hidden, heads, head_dim];
    let vector = [heads, head_dim];
    vec![
        param("qkv.weight", &["q", "k", "v"], &matrix).transposed(),
        param("distances.weight", &["r"], &matrix).transposed(),
        param("out.weight", &["o"], &matrix),
        param("content_bias", &["r_w_bias"], &vector),
        param("distance_bias", &["r_r_bias"], &vector),
        param("segment_bias", &["r_s_bias"], &vector),
        param("segments", &["seg_embed"], &[2, heads, head_dim]),
    ]
}
