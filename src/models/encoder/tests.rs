//! What the reference values do not cover: the places of dropout, and which configurations are read or refused.

use super::{Config, Design, Encoder};
use crate::error::Result;
use crate::models::family::{DropoutOverrides, Plan};
use crate::models::{Backbone, Role, albert, bert, distilbert, roberta};
use crate::nn::ParamBuilder;
use serde_json::{Value, json};

fn read(model_type: &str, plan: &Plan) -> Result<(Config, Design)> {
    match model_type {
        "bert" => bert::design(plan),
        "distilbert" => distilbert::design(plan),
        "albert" => albert::design(plan),
        _ => roberta::design(plan),
    }
}

fn build(model_type: &str, json: Value, role: Role, dropout: DropoutOverrides) -> Result<Encoder> {
    let builder = &mut ParamBuilder::new();
    let plan = Plan { json, dropout, role, stored: &|_| Ok(None), builder };
    Ok(Encoder::new(read(model_type, &plan)?, plan))
}

/// Returns a small model with these entries in its `config.json`.
fn small(model_type: &str, mut entries: Value, role: Role) -> Result<Encoder> {
    let [hidden, heads, intermediate, layers] = match model_type {
        "distilbert" => ["dim", "n_heads", "hidden_dim", "n_layers"],
        _ => ["hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers"],
    };
    for (key, size) in [("vocab_size", 9), (hidden, 8), (heads, 2), (intermediate, 5), (layers, 3)] {
        _ = entries.as_object_mut().unwrap().entry(key).or_insert(size.into());
    }
    build(model_type, entries, role, DropoutOverrides::default())
}

/// Dropout on attention's output, on the feed-forward output, before the pooler, before the task's layer.
fn dropouts(encoder: &Encoder) -> [f64; 4] {
    let Encoder { design, head_dropout, .. } = encoder;
    let before = design.pooler_dropout.map_or(0.0, |_| *head_dropout);
    [design.attended_dropout, design.mlp_dropout, before, *head_dropout]
}

#[test]
fn dropout_is_where_transformers_has_it() {
    use Role::{MaskedLm, MultipleChoice, PreTraining, QuestionAnswering, SequenceClassification, TokenClassification};
    let bert_keys = json!({"hidden_dropout_prob": 0.1, "classifier_dropout": 0.2});
    let bare = json!({"hidden_dropout_prob": 0.1, "classifier_dropout": null});
    let distilbert_keys = json!({"dropout": 0.1, "qa_dropout": 0.3, "seq_classif_dropout": 0.4});
    let albert_keys = json!({"hidden_dropout_prob": 0.1, "classifier_dropout_prob": 0.2});
    let wanted: [(&str, &Value, Role, [f64; 4]); 21] = [
        ("bert", &bert_keys, SequenceClassification, [0.1, 0.1, 0.0, 0.2]),
        ("bert", &bare, SequenceClassification, [0.1, 0.1, 0.0, 0.1]),
        ("bert", &bert_keys, MultipleChoice, [0.1, 0.1, 0.0, 0.2]),
        ("bert", &bert_keys, TokenClassification, [0.1, 0.1, 0.0, 0.2]),
        ("bert", &bert_keys, QuestionAnswering, [0.1, 0.1, 0.0, 0.0]),
        ("bert", &bert_keys, PreTraining, [0.1, 0.1, 0.0, 0.0]),
        ("roberta", &bert_keys, SequenceClassification, [0.1, 0.1, 0.2, 0.2]),
        ("roberta", &bert_keys, TokenClassification, [0.1, 0.1, 0.0, 0.2]),
        ("roberta", &bert_keys, MultipleChoice, [0.1, 0.1, 0.0, 0.1]),
        ("roberta", &bert_keys, QuestionAnswering, [0.1, 0.1, 0.0, 0.0]),
        ("roberta", &bert_keys, MaskedLm, [0.1, 0.1, 0.0, 0.0]),
        ("distilbert", &distilbert_keys, SequenceClassification, [0.0, 0.1, 0.0, 0.4]),
        ("distilbert", &distilbert_keys, MultipleChoice, [0.0, 0.1, 0.0, 0.4]),
        ("distilbert", &distilbert_keys, TokenClassification, [0.0, 0.1, 0.0, 0.1]),
        ("distilbert", &distilbert_keys, QuestionAnswering, [0.0, 0.1, 0.0, 0.3]),
        ("distilbert", &distilbert_keys, MaskedLm, [0.0, 0.1, 0.0, 0.0]),
        ("albert", &albert_keys, SequenceClassification, [0.1, 0.0, 0.0, 0.2]),
        ("albert", &albert_keys, TokenClassification, [0.1, 0.0, 0.0, 0.2]),
        ("albert", &albert_keys, MultipleChoice, [0.1, 0.0, 0.0, 0.2]),
        ("albert", &albert_keys, PreTraining, [0.1, 0.0, 0.0, 0.2]),
        ("albert", &albert_keys, QuestionAnswering, [0.1, 0.0, 0.0, 0.0]),
    ];
    for (family, keys, role, wanted) in wanted {
        let encoder = small(family, keys.clone(), role).unwrap();
        assert_eq!(dropouts(&encoder), wanted, "{}", encoder.architecture());
        // The run's setting takes precedence, if the family has this dropout.
        let dropout = DropoutOverrides { hidden: Some(0.7), attention: Some(0.8), classifier: Some(0.9) };
        let asked = build(family, encoder.config_json().clone(), role, dropout).unwrap();
        let replaced = [0.7, 0.7, 0.9, 0.9].iter().zip(wanted).map(|(&p, was)| if was > 0.0 { p } else { 0.0 });
        assert_eq!(dropouts(&asked).to_vec(), replaced.collect::<Vec<_>>(), "{}", encoder.architecture());
        assert_eq!(asked.config.attention_probs_dropout_prob, 0.8);
    }
}

#[test]
fn defaults_are_those_of_transformers() {
    let sizes = |model_type: &str| {
        let (json, builder) = (json!({"model_type": model_type}), &mut ParamBuilder::new());
        let (dropout, role) = (DropoutOverrides::default(), Role::MultipleChoice);
        let plan = Plan { json, dropout, role, stored: &|_| Ok(None), builder };
        let (config, design) = read(model_type, &plan).unwrap();
        let Config { vocab_size, hidden_size, num_attention_heads, intermediate_size, .. } = config;
        let dropouts = [config.hidden_dropout_prob, config.attention_probs_dropout_prob, design.head_dropout.unwrap()];
        ([vocab_size, hidden_size, num_attention_heads, intermediate_size], design.layers.len(), dropouts)
    };
    assert_eq!(sizes("bert"), ([30522, 768, 12, 3072], 12, [0.1, 0.1, 0.1]));
    assert_eq!(sizes("roberta"), ([50265, 768, 12, 3072], 12, [0.1, 0.1, 0.1]));
    assert_eq!(sizes("camembert"), ([30522, 768, 12, 3072], 12, [0.1, 0.1, 0.1]));
    assert_eq!(sizes("distilbert"), ([30522, 768, 12, 3072], 6, [0.1, 0.1, 0.2]));
    assert_eq!(sizes("albert"), ([30000, 4096, 64, 16384], 12, [0.0, 0.0, 0.1]));
}

/// Configurations as written by transformers 4 and by later versions.
#[test]
fn old_and_new_files_are_read() {
    let old = json!({"torch_dtype": "float32", "position_embedding_type": "absolute", "classifier_dropout": null,
        "gradient_checkpointing": false, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1});
    let new = json!({"dtype": "float32", "is_decoder": false, "max_position_embeddings": 514, "type_vocab_size": 1});
    for entries in [old, new] {
        let encoder = small("roberta", entries, Role::MaskedLm).unwrap();
        assert_eq!((encoder.max_length(), encoder.segments()), (Some(512), usize::MAX));
    }
    let told_apart = small("roberta", json!({"type_vocab_size": 2}), Role::MaskedLm).unwrap();
    assert_eq!(
        (told_apart.segments(), small("bert", json!({"type_vocab_size": 1}), Role::MaskedLm).unwrap().segments()),
        (2, 1)
    );
    let albert = json!({"attention_probs_dropout_prob": 0, "down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0,
        "num_hidden_groups": 1, "num_memory_blocks": 0, "hidden_dropout_prob": 0, "classifier_dropout_prob": 0.1});
    let encoder = small("albert", albert, Role::PreTraining).unwrap();
    assert_eq!((encoder.max_length(), encoder.segments(), encoder.blocks()), (Some(512), 2, 4));
    let distilbert = json!({"sinusoidal_pos_embds": false, "tie_weights_": true, "activation": "gelu"});
    let encoder = small("distilbert", distilbert, Role::MaskedLm).unwrap();
    assert_eq!((encoder.max_length(), encoder.segments(), encoder.blocks()), (Some(512), usize::MAX, 4));
}

#[test]
fn mistakes_are_told_by_the_familys_keys() {
    let mistakes: [(&str, Value, &str); 10] = [
        ("bert", json!({"hidden_act": "quick"}), "hidden_act \"quick\" is not known"),
        ("bert", json!({"position_embedding_type": "relative_key"}), "position_embedding_type \"relative_key\""),
        ("bert", json!({"is_decoder": true}), "is_decoder = true"),
        ("roberta", json!({"pad_token_id": null}), "pad_token_id is null"),
        ("roberta", json!({"max_position_embeddings": 2}), "max_position_embeddings = 2 leaves no position"),
        ("distilbert", json!({"n_heads": 3}), "dim 8 is not a multiple of n_heads 3"),
        ("distilbert", json!({"dropout": 1.0}), "dropout = 1: expected a probability"),
        ("distilbert", json!({"hidden_dim": 0}), "hidden_dim = 0: expected a size"),
        ("albert", json!({"classifier_dropout_prob": -0.1}), "classifier_dropout_prob = -0.1: expected a probability"),
        ("albert", json!({"num_hidden_groups": 4}), "num_hidden_groups = 4"),
    ];
    for (family, entries, wanted) in mistakes {
        let message = small(family, entries, Role::TokenClassification).unwrap_err().to_string();
        assert!(message.starts_with(wanted), "{message}");
    }
}

#[test]
fn layers_of_a_group_are_one() {
    let layers = |groups: usize, inner: usize| {
        let entries = json!({"num_hidden_groups": groups, "inner_group_num": inner, "num_hidden_layers": 5});
        small("albert", entries, Role::MaskedLm).unwrap().design.layers
    };
    assert_eq!(layers(1, 1), [0; 5]);
    assert_eq!(layers(2, 1), [0, 0, 0, 1, 1]);
    assert_eq!(layers(2, 2), [0, 1, 0, 1, 0, 1, 2, 3, 2, 3]);
    assert_eq!(layers(5, 1), [0, 1, 2, 3, 4]);
}
