//! The tensors of an encoder in Hugging Face files.

use crate::models::Role;
use crate::models::hf_names::{HfNames, HfParam, layer};

/// How the files of a family call the layers of an encoder, whole names.
#[derive(Debug)]
pub struct Spelling {
    /// Before all but the heads: `bert.`.
    pub prefix: &'static str,
    /// Each block, without the prefix: `encoder.layer.0`.
    pub blocks: Vec<String>,
    /// Within a block: queries, keys, values, attention's output and its norm.
    pub attention: [&'static str; 5],
    /// Within a block: the feed-forward part's layers and its norm.
    pub feed_forward: [&'static str; 3],
    /// Without the prefix where it is one of the heads.
    pub pooler: String,
    /// The task's own layer.
    pub classifier: &'static str,
    pub lm_head: LmSpelling,
}

/// The layers of the head of a masked language model.
#[derive(Debug)]
pub struct LmSpelling {
    pub dense: &'static str,
    pub norm: &'static str,
    /// The layer of the vocabulary.
    pub decoder: &'static str,
    /// What has the bias when the decoder's weight is tied; the decoder's own is then the same.
    pub bias: &'static str,
}

impl Spelling {
    /// As in BERT, for so many layers.
    pub fn plain(prefix: &'static str, layers: usize, role: Role) -> Self {
        Spelling {
            prefix,
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
            lm_head: LmSpelling {
                dense: "cls.predictions.transform.dense",
                norm: "cls.predictions.transform.LayerNorm",
                decoder: "cls.predictions.decoder",
                bias: "cls.predictions",
            },
        }
    }

    /// The map of a model whose head's decoder is the table of words where it is `tied`, and else has a bias of its own.
    pub fn names(&self, tied: bool) -> HfNames {
        let Spelling { prefix, blocks, attention, feed_forward, pooler, classifier, lm_head } = self;
        let LmSpelling { dense, norm, decoder, bias } = lm_head;
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
        params.extend(layer("embeddings.widen", &["encoder.embedding_hidden_mapping_in"]));
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
        // As old files spell a norm's scale and shift.
        let legacy = &[("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
        HfNames { prefix, params, legacy }
    }
}
