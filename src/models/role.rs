//! Task heads, by Hugging Face's class names (`...ForX`).

use serde_json::Value;
use std::fmt;

/// A task head: the part of a model after its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// One vector of logits per text: classes, several labels, or a number.
    SequenceClassification,
    /// Logits for each token.
    TokenClassification,
    /// Start and end of an answer.
    QuestionAnswering,
    /// One logit for each choice.
    MultipleChoice,
    /// Logits over the vocabulary, for masked tokens.
    MaskedLm,
    /// Masked language modeling, and next-sentence (NSP) or sentence-order prediction (SOP).
    PreTraining,
    /// Logits over the vocabulary, for the next token.
    CausalLm,
    /// Logits over the vocabulary for the next token, in an encoder-decoder.
    Seq2Seq,
    /// The hidden states themselves (`AutoModel`), which sentence embeddings pool. Last: other class names end alike.
    Embedding,
}

impl Role {
    pub const ALL: &[Role] = &[
        Role::SequenceClassification,
        Role::TokenClassification,
        Role::QuestionAnswering,
        Role::MultipleChoice,
        Role::MaskedLm,
        Role::PreTraining,
        Role::CausalLm,
        Role::Seq2Seq,
        Role::Embedding,
    ];

    /// The suffixes of Hugging Face's class names, the usual one first.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Role::SequenceClassification => &["ForSequenceClassification"],
            Role::TokenClassification => &["ForTokenClassification"],
            Role::QuestionAnswering => &["ForQuestionAnswering", "ForQuestionAnsweringSimple"],
            Role::MultipleChoice => &["ForMultipleChoice"],
            Role::MaskedLm => &["ForMaskedLM"],
            Role::PreTraining => &["ForPreTraining"],
            Role::CausalLm => &["ForCausalLM", "LMHeadModel"],
            Role::Seq2Seq => &["ForConditionalGeneration", "ForSeq2SeqLM"],
            Role::Embedding => &["Model"],
        }
    }

    /// The usual suffix of a class name: `ForTokenClassification`.
    pub fn ending(self) -> &'static str {
        self.endings()[0]
    }

    /// Returns the task head of a saved model, from `architectures` of its `config.json`.
    pub fn of_config(config: &Value) -> Option<Self> {
        let names = config.get("architectures").and_then(Value::as_array)?;
        let is = |role: &Role, name: &str| role.endings().iter().any(|ending| name.ends_with(ending));
        names.iter().filter_map(Value::as_str).find_map(|name| Role::ALL.iter().copied().find(|role| is(role, name)))
    }
}

impl fmt::Display for Role {
    /// Writes the name in words: `token classification`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::SequenceClassification => "sequence classification",
            Role::TokenClassification => "token classification",
            Role::QuestionAnswering => "question answering",
            Role::MultipleChoice => "multiple choice",
            Role::MaskedLm => "masked language modeling",
            Role::PreTraining => "masked language modeling with next-sentence prediction",
            Role::CausalLm => "causal language modeling",
            Role::Seq2Seq => "sequence to sequence",
            Role::Embedding => "sentence embeddings",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_role_is_read_from_the_class_name() {
        let of = |name: &str| Role::of_config(&json!({"architectures": [name]}));
        assert_eq!(of("XLNetForQuestionAnsweringSimple"), Some(Role::QuestionAnswering));
        assert_eq!(of("GPT2LMHeadModel"), Some(Role::CausalLm));
        assert_eq!(of("T5ForConditionalGeneration"), Some(Role::Seq2Seq));
        assert_eq!(of("BertModel"), Some(Role::Embedding));
        assert_eq!((of("BertForNextSentencePrediction"), Role::of_config(&json!({}))), (None, None));
        for &role in Role::ALL {
            assert_eq!(of(&format!("Any{}", role.ending())), Some(role));
        }
    }
}
