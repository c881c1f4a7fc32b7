//! The files of a model folder that a trained model keeps: those of the tokenizer, and `generation_config.json`.

use crate::checkpoint::export::GENERATION_FILE;
use crate::error::{Error, Result};
use crate::text::tokenizer::Tokenizer;
use std::path::Path;

/// Returns the names that such files may have.
pub fn names() -> impl Iterator<Item = &'static str> {
    Tokenizer::FILES.iter().copied().chain([GENERATION_FILE])
}

/// Returns the names of those in a folder.
///
/// # Errors
/// The folder has no tokenizer.
pub fn of_folder(folder: &Path) -> Result<Vec<&'static str>> {
    let found: Vec<&str> = names().filter(|name| folder.join(name).exists()).collect();
    if !found.iter().any(|name| Tokenizer::is_vocabulary(name)) {
        return Err(Error::other(format!("{}: the tokenizer of the initial model is missing", folder.display())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_keeps_its_tokenizer_and_how_it_generates() {
        let dir = tempfile::tempdir().unwrap();
        let write = |names: &[&str]| names.iter().for_each(|name| std::fs::write(dir.path().join(name), "x").unwrap());
        write(&["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json", "merges.txt"]);
        let message = of_folder(dir.path()).unwrap_err().to_string();
        assert!(message.ends_with("the tokenizer of the initial model is missing"), "{message}");
        write(&["vocab.json", "chat_template.jinja"]);
        let mut found = of_folder(dir.path()).unwrap();
        found.sort_unstable();
        let wanted =
            ["chat_template.jinja", "generation_config.json", "merges.txt", "tokenizer_config.json", "vocab.json"];
        assert_eq!(found, wanted);
    }
}
