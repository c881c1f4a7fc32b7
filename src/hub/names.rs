//! Names of files in model folders.

/// The files that determine a tokenizer and its chat template, in any folder.
pub const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tiktoken.model",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
];
