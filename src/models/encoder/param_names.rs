//! The tensors of an encoder in Hugging Face files.

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam, layer};

/// The parameter names of a family's files, full names.
#[derive(Debug)]
pub struct ParamNames {
    /// Prefix of all names except the heads': `bert.`.
    pub prefix: &'static str,
    /// The projection from the embeddings' width to the layers', without the prefix.
    pub widen: &'static str,
    /// Each layer, without the prefix: `encoder.layer.0`.
    pub blocks: Vec<String>,
    /// Within a layer: queries, keys, values, attention's output and its norm.
    pub attention: [&'static str; 5],
    /// Within a layer: the feed-forward layers and their norm.
    pub feed_forward: [&'static str; 3],
    /// Without the prefix if it belongs to a head.
    pub pooler: String,
    /// The task's layer.
    pub classifier: &'static str,
    pub lm_head: LmHeadNames,
    /// The family's own parameters.
    pub own: Vec<HfParam>,
}

/// The layers of the masked-language-model head.
#[derive(Debug)]
pub struct LmHeadNames {
    pub dense: &'static str,
    pub norm: &'static str,
    /// The output layer over the vocabulary.
    pub decoder: &'static str,
    /// The tensor with the bias when the decoder's weight is tied; the decoder's own bias is then the same.
    pub bias: &'static str,
}

impl ParamNames {
    /// Returns BERT's names, for this number of layers.
    pub fn plain(prefix: &'static str, layers: usize, role: Role) -> Self {
        ParamNames {
            prefix,
            widen: "encoder.embedding_hidden_mapping_in",
            blocks: (0..layers).map(|i| format!("encoder.layer.{i}")).collect(),
            attention: [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
            ],
            feed_forward: ["intermediate.dense", "output.dense", "output.LayerNorm"],
            pooler: format!("{prefix}pooler.dense"),
            classifier: if role == Role::QuestionAnswering { "qa_outputs" } else { "classifier" },
            lm_head: LmHeadNames {
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                decoder: "cls.predictions.decoder",
                bias: "cls.predictions",
            },
            own: Vec::new(),
        }
    }

    /// Returns the mapping of a model whose output layer is tied to the input embeddings (`tied`), or else has its own
    /// bias.
    pub fn names(&self, tied: bool) -> HfNames {
        let ParamNames { prefix, widen, blocks, attention, feed_forward, pooler, classifier, lm_head, own } = self;
        let LmHeadNames { dense, norm, decoder, bias } = lm_head;
        let [weight, own_bias, bias] = [format!("{decoder}.weight"), format!("{decoder}.bias"), format!("{bias}.bias")];
        let table = |native: &str, part: &str| {
            HfParam::new(format!("embeddings.{native}.weight"), [format!("embeddings.{part}_embeddings.weight")])
        };
        let words = table("words", "word");
        let (words, bias) = match tied {
            true => (words.also(&[&weight]), HfParam::new("lm_head.bias", [bias]).also(&[&own_bias])),
            false => (words, HfParam::new("lm_head.bias", [own_bias]).or(&bias)),
        };
        let mut params = vec![
            words,
            table("positions", "position"),
            table("segments", "token_type"),
            HfParam::new("lm_head.weight", [weight]).bare(),
            bias.bare(),
        ];
        params.extend(layer("embeddings.norm", &["embeddings.LayerNorm"]));
        params.extend(layer("embeddings.widen", &[widen]));
        for (i, block) in blocks.iter().enumerate() {
            let [q, k, v, out, attention_norm] = attention.map(|part| format!("{block}.{part}"));
            let [up, down, norm] = feed_forward.map(|part| format!("{block}.{part}"));
            let mut add = |native: &str, hf: &[&str]| params.extend(layer(&format!("layer.{i}.{native}"), hf));
            add("attention.qkv", &[&q, &k, &v]);
            add("attention.out", &[&out]);
            add("attention.norm", &[&attention_norm]);
            add("mlp.up", &[&up]);
            add("mlp.down", &[&down]);
            add("mlp.norm", &[&norm]);
        }
        match pooler.strip_prefix(prefix) {
            Some(pooler) => params.extend(layer("pooler", &[pooler])),
            None => params.extend(layer("pooler", &[pooler]).map(HfParam::bare)),
        }
        for (native, hf) in [("classifier", classifier), ("lm_head.dense", dense), ("lm_head.norm", norm)] {
            params.extend(layer(native, &[hf]).map(HfParam::bare));
        }
        params.extend(own.iter().cloned());
        // Legacy names of a norm's scale and shift.
        let legacy = &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
        HfNames { prefix, headless: false, params, legacy }
    }
}
