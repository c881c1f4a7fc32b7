//! Settings of the model: where it comes from and which of its weights are trained.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::choice::ModelInit;
use crate::config::keys::{DefaultValue, Entries, FROM_0_BELOW_1, Key, Section, parse, section};
use crate::config::problems::Problems;
use crate::config::value::Value;

section! {
    /// `[model]`: the model that is fine-tuned.
    ModelConfig in "model" {
        /// Hugging Face model folder. It contains `config.json`, `*.safetensors`, and `tokenizer.json`. Or a model on
        /// the Hugging Face Hub, `org/name` or `org/name@revision`, which is downloaded
        /// ([more](model-folders.md#models-on-the-hub)).
        path: PathBuf;
        /// Source of the initial weights. `pretrained`: the weight files in `path`. `random`: newly initialized from
        /// the seed and the parameter name, as specified by `config.json`; `path` then needs no `*.safetensors`
        /// ([more](large-models.md#training-from-scratch)).
        init: ModelInit = ModelInit::Pretrained;
        /// Layers that the model keeps of the folder's. A list of their numbers, counted from 0, in ascending order,
        /// such as `[0, 2, 4]`: the model has only these, renumbered, and the number of layers in its `config.json` is
        /// theirs. In an encoder-decoder, of both stacks ([more](distillation.md#students-with-fewer-layers)).
        layers: Option<Vec<usize>> => "all layers";
        /// Weights that are trained; others are frozen. A list of patterns for Hugging Face parameter names, where
        /// `*` matches any characters and `?` one character; of layer ranges such as `"layers.8-11"`, counted from 0;
        /// and of `"head"`, the task head. `["*.bias", "head"]` trains biases and the head only
        /// ([more](fine-tuning.md#choosing-what-is-trained)).
        train: Option<Vec<String>> => "all weights";
        /// Weights that are not trained. A list like that of `train`, such as `["bert.embeddings.*"]`. With both, what
        /// matches `freeze` is frozen even if it matches `train`. Frozen weights have no gradient and no optimizer
        /// state. A pattern that matches nothing is an error ([more](large-models.md#freezing-weights)).
        freeze: Vec<String> = Vec::new();
        /// Dropout after embeddings and inside layers.
        hidden_dropout_prob: Option<f64> => "the value in `config.json`", FROM_0_BELOW_1;
        /// Dropout of attention probabilities.
        attention_probs_dropout_prob: Option<f64> => "the value in `config.json`", FROM_0_BELOW_1;
        /// Dropout before the head.
        classifier_dropout: Option<f64> => "the value in `config.json`", FROM_0_BELOW_1;
    }
}
