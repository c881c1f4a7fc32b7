use super::*;
use crate::models::family::DropoutOverrides;
use crate::models::{Backbone, Role};
use serde_json::json;

fn build(mut json: Value, role: Role) -> Result<Vec<(String, bool)>> {
    for (key, size) in
        [("hidden_size", 8), ("num_attention_heads", 2), ("intermediate_size", 5), ("num_hidden_layers", 3)]
    {
        json[key] = size.into();
    }
    let mut builder = ParamBuilder::new();
    let plan = Plan { json, dropout: DropoutOverrides::default(), role, stored: &|_| Ok(None), builder: &mut builder };
    assert_eq!(encoder(plan)?.max_length(), Some(510));
    Ok(builder.finish().into_iter().map(|spec| (spec.name, spec.trainable)).collect())
}

/// What no task head computes with has no gradient in transformers, and so no weight decay.
#[test]
fn projections_for_global_tokens_are_trained_where_there_are_any() {
    use Role::{MaskedLm, MultipleChoice, QuestionAnswering, SequenceClassification, TokenClassification};
    for (role, wanted) in [
        (SequenceClassification, true),
        (QuestionAnswering, true),
        (MultipleChoice, true),
        (TokenClassification, false),
        (MaskedLm, false),
    ] {
        let params = build(json!({}), role).unwrap();
        let global: Vec<_> = params.iter().filter(|(name, _)| name.contains(".global.")).collect();
        assert!(global.len() == 12 && global.iter().all(|(_, trainable)| *trainable == wanted), "{role}: {global:?}");
        assert!(params.iter().all(|(name, trainable)| *trainable || name.contains(".global.")), "{role}");
    }
}

#[test]
fn windows_are_one_for_all_layers_or_a_list() {
    assert_eq!(windows(&json!({}), 2).unwrap(), [512, 512]);
    assert_eq!(windows(&json!({"attention_window": 8}), 2).unwrap(), [8, 8]);
    assert_eq!(windows(&json!({"attention_window": [8, 4]}), 2).unwrap(), [8, 4]);
    for (window, wanted) in [
        (json!(7), "attention_window = 7: expected an even number"),
        (json!([8, 0]), "attention_window = 0"),
        (json!([8]), "attention_window has 1 values for num_hidden_layers = 2"),
        (json!("wide"), "attention_window: expected an integer"),
        (json!([8, 0.5]), "attention_window: expected an integer"),
    ] {
        let message = windows(&json!({"attention_window": window}), 2).unwrap_err().to_string();
        assert!(message.starts_with(wanted), "{message}");
    }
    let message = build(json!({"sep_token_id": null}), Role::MultipleChoice).unwrap_err().to_string();
    assert!(message.starts_with("sep_token_id is no token id"), "{message}");
    build(json!({"sep_token_id": null}), Role::SequenceClassification).unwrap();
}

/// A question, two separators, a context and a separator; a sequence without separators; one that ends with both.
#[test]
fn global_tokens_are_those_of_transformers() {
    let (ids, lengths) = ([0, 9, 8, 2, 2, 7, 6, 2, 0, 5, 0, 9, 2, 2], [8, 2, 4]);
    for (tokens, wanted) in [
        (GlobalTokens::None, [0..0, 0..0, 0..0]),
        (GlobalTokens::First, [0..1, 0..1, 0..1]),
        (GlobalTokens::BeforeSeparator(2), [0..3, 0..0, 0..2]),
        (GlobalTokens::AfterSeparators(2), [5..8, 0..0, 0..0]),
    ] {
        assert_eq!(tokens.of(&ids, &lengths), wanted, "{tokens:?}");
    }
}
