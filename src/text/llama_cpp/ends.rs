//! The tokens that end a text in llama.cpp: those that a file names, and those with certain texts.

use super::vocabulary::Vocabulary;

/// The keys for tokens that end a text.
const KEYS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];
/// The texts of tokens that end a text in llama.cpp whatever a file says (`special_eog_ids` in its `llama-vocab.cpp`).
const TEXTS: &[&str] = &[
    "</s>",
    "<eos>",
    "[EOS]",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// The tokens that end a text, as a file names them.
pub struct Ends {
    pub keys: Vec<(&'static str, u32)>,
    /// Where llama.cpp ends a text and this program does not, or the reverse.
    pub notes: Vec<String>,
}

/// Describes the tokens that end a text. `ends` begins with the EOS token; `are_set` tells whether they are from the
/// settings of generation, so that a text ends at them here too.
pub fn describe(ends: &[u32], are_set: bool, tokens: &[String], vocabulary: &Vocabulary) -> Ends {
    let text = |id: &u32| tokens[*id as usize].as_str();
    let mut ordered = ends.to_vec();
    if ordered.len() > KEYS.len() {
        // Those that llama.cpp knows need no key.
        ordered[1..].sort_by_key(|id| TEXTS.contains(&text(id)));
    }
    let mut notes = Vec::new();
    if !are_set {
        notes.push(format!(
            "llama.cpp ends a text at {:?}; config.json and generation_config.json have no eos_token_id, so that \
             trainer predict ends it at no token",
            text(&ends[0])
        ));
    }
    let quoted = |texts: Vec<&str>| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let left: Vec<&str> = ordered.iter().skip(KEYS.len()).map(text).filter(|text| !TEXTS.contains(text)).collect();
    if !left.is_empty() {
        let count = KEYS.len();
        notes.push(format!("llama.cpp does not end a text at {}: a file names {count} tokens", quoted(left)));
    }
    let more = |text: &&&str| vocabulary.ids.get(**text).is_some_and(|id| !ends.contains(id));
    let more: Vec<&str> = TEXTS.iter().filter(more).copied().collect();
    if !more.is_empty() {
        notes.push(format!(
            "llama.cpp also ends a text at {}: it knows such tokens by name, whatever eos_token_id says",
            quoted(more)
        ));
    }
    Ends { keys: KEYS.into_iter().zip(ordered).collect(), notes }
}
