//! A file of synonyms, by the tokens of the words.
//!
//! One set of words per line, separated by commas, each of which may stand for the others; or `word => others`, whose
//! others may stand for the word. Empty lines and lines that begin with `#` are skipped.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// The tokens of a word or phrase within a text, and at its beginning.
pub type Forms = [Vec<u32>; 2];

/// The synonyms of words, by the words' tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synonyms(HashMap<Vec<u32>, Vec<Forms>>);

impl Synonyms {
    /// Reads a file; `forms` tokenizes a word or phrase.
    ///
    /// # Errors
    /// Exit 2: an unreadable file, one that is not UTF-8; a line with an empty word or without synonyms; no synonyms at
    /// all. Those of `forms`.
    pub fn read(path: &Path, forms: impl Fn(&str) -> Result<Forms>) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| super::input::unreadable(path, &e))?;
        let text = String::from_utf8(bytes);
        let text = text.map_err(|_| Error::input(format!("{}: not UTF-8; convert the file", path.display())))?;
        let mut found: HashMap<Vec<u32>, Vec<Forms>> = HashMap::new();
        for (line, row) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
            let row = row.trim();
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            let sets = sets(row).map_err(|why| Error::input(format!("{}:{line}: {why}", path.display())))?;
            for (word, others) in sets {
                let word = forms(word)?;
                let others = others.into_iter().map(&forms).collect::<Result<Vec<_>>>()?;
                for own in if word[0] == word[1] { &word[..1] } else { &word[..] } {
                    let known = found.entry(own.clone()).or_default();
                    let new = others.iter().filter(|other| **other != word && other.iter().all(|ids| !ids.is_empty()));
                    for other in new {
                        if !known.contains(other) {
                            known.push(other.clone());
                        }
                    }
                }
            }
        }
        found.retain(|word, others| !word.is_empty() && !others.is_empty());
        if found.is_empty() {
            let why = "the file has no synonyms: write a set of words per line, separated by commas";
            return Err(Error::input(format!("{}: {why}", path.display())));
        }
        Ok(Synonyms(found))
    }

    /// Returns the synonyms of the word with these tokens.
    pub fn of(&self, word: &[u32]) -> &[Forms] {
        self.0.get(word).map_or(&[], Vec::as_slice)
    }

    /// The largest token id of a synonym.
    pub fn largest_id(&self) -> u32 {
        self.0.values().flatten().flatten().flatten().copied().max().unwrap_or_default()
    }
}

/// Returns the words of a line, each with its synonyms.
fn sets(row: &str) -> Result<Vec<(&str, Vec<&str>)>, String> {
    let list = |text| {
        let words: Vec<&str> = str::split(text, ',').map(str::trim).collect();
        if words.contains(&"") { Err("a word is empty: remove a comma".to_owned()) } else { Ok(words) }
    };
    match row.split_once("=>") {
        Some((words, others)) => {
            let others = list(others)?;
            Ok(list(words)?.into_iter().map(|word| (word, others.clone())).collect())
        }
        None => {
            let words = list(row)?;
            if words.len() < 2 {
                return Err(format!("{row:?} has no synonym: name several words, separated by commas"));
            }
            let others = |i: usize| words[..i].iter().chain(&words[i + 1..]).copied().collect();
            Ok(words.iter().enumerate().map(|(i, word)| (*word, others(i))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens are characters; a word within a text begins with a space.
    fn forms(word: &str) -> Result<Forms> {
        let ids = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
        Ok([ids(&format!(" {word}")), ids(word)])
    }

    fn read(content: &str) -> Result<Synonyms> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.txt");
        std::fs::write(&path, content).unwrap();
        Synonyms::read(&path, forms)
    }

    #[test]
    fn sets_and_directions() {
        let synonyms = read("# a comment\n\nbig, large,big\nsad => not happy\n").unwrap();
        let of = |word: &str| {
            let found = synonyms.of(&forms(word).unwrap()[0]);
            assert_eq!(found, synonyms.of(&forms(word).unwrap()[1]), "both forms");
            found.to_vec()
        };
        assert_eq!(of("big"), [forms("large").unwrap()]);
        assert_eq!(of("large"), [forms("big").unwrap()]);
        assert_eq!(of("sad"), [forms("not happy").unwrap()]);
        assert!(of("not happy").is_empty() && of("other").is_empty());
        assert_eq!(synonyms.largest_id(), u32::from('y'));
    }

    #[test]
    fn errors_name_the_line() {
        let message = |content: &str| read(content).unwrap_err().to_string();
        assert!(
            message("a, b\n\nc\n").ends_with("s.txt:3: \"c\" has no synonym: name several words, separated by commas")
        );
        assert!(message("a, , b\n").ends_with("s.txt:1: a word is empty: remove a comma"));
        assert!(message("a =>\n").ends_with("s.txt:1: a word is empty: remove a comma"));
        assert!(message("# none\n").contains("s.txt: the file has no synonyms"));
        assert!(message("a, a\n").contains("s.txt: the file has no synonyms"));
        assert!(Synonyms::read(Path::new("nowhere"), forms).unwrap_err().to_string().contains("no such file"));
    }
}
