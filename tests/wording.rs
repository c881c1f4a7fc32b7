//! Standard terms: none of the phrases of `tests/wording.txt` appears in the code or in the documentation.

use std::fs;
use std::path::{Path, PathBuf};

/// The files and folders that are searched.
const PLACES: &[&str] = &["src", "docs", "README.md", "CONTRIBUTING.md"];
const EXTENSIONS: &[&str] = &["rs", "md", "cpp", "h"];

#[test]
fn no_phrase_of_the_list_appears() {
    let list = read(&root().join("tests/wording.txt"));
    let phrases = phrases(&list);
    assert!(phrases.len() > 20, "tests/wording.txt has only {} phrases", phrases.len());
    let mut files = Vec::new();
    PLACES.iter().for_each(|place| walk(&root().join(place), &mut files));
    files.sort();
    assert!(files.len() > 50, "only {} files found", files.len());
    let mut found = Vec::new();
    for file in &files {
        let name = file.strip_prefix(root()).unwrap().display();
        let hits = search(&read(file), &phrases);
        found.extend(hits.into_iter().map(|(line, phrase, term)| format!("{name}:{line}: {phrase} -> {term}")));
    }
    assert!(found.is_empty(), "phrases with a standard term ({}):\n  {}", found.len(), found.join("\n  "));
}

#[test]
fn phrases_are_found_across_lines_and_as_whole_words() {
    let list = "# a comment\nend token -> EOS token\nlikeliest -> argmax\n";
    let phrases = phrases(list);
    let text =
        "/// Takes the Likeliest, up to an end\n    /// token. A backend token is fine.\nx(\"the end \\\n  token\")\n";
    let hits: Vec<(usize, &str)> = search(text, &phrases).into_iter().map(|(line, phrase, _)| (line, phrase)).collect();
    assert_eq!(hits, [(1, "end token"), (3, "end token"), (1, "likeliest")]);
}

/// The pairs of phrase and term, one from each line that is not a comment.
fn phrases(list: &str) -> Vec<(&str, &str)> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(" -> ").unwrap_or_else(|| panic!("tests/wording.txt: {line:?} has no ->")))
        .collect()
}

/// The occurrences of phrases in a text: (line, phrase, term).
fn search<'a>(text: &str, phrases: &[(&'a str, &'a str)]) -> Vec<(usize, &'a str, &'a str)> {
    let (joined, starts) = joined(text);
    let mut found = Vec::new();
    for &(phrase, term) in phrases {
        let wanted = phrase.to_lowercase();
        for (at, _) in joined.match_indices(&wanted) {
            let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let (before, after) = (joined[..at].chars().next_back(), joined[at + wanted.len()..].chars().next());
            if !inside(before) && !inside(after) {
                found.push((starts.partition_point(|&start| start <= at), phrase, term));
            }
        }
    }
    found
}

/// The text in small letters on one line, without indentation, comment signs and continuation signs; and where each of
/// its lines starts there.
fn joined(text: &str) -> (String, Vec<usize>) {
    let (mut out, mut starts) = (String::new(), Vec::new());
    for line in text.lines() {
        starts.push(out.len());
        let line = line.trim_start().trim_start_matches(['/', '!', '#', '>']).trim().trim_end_matches('\\').trim_end();
        out.push_str(&line.to_lowercase());
        out.push(' ');
    }
    (out, starts)
}

fn walk(place: &Path, into: &mut Vec<PathBuf>) {
    if place.is_dir() {
        fs::read_dir(place).unwrap().for_each(|entry| walk(&entry.unwrap().path(), into));
    } else if place.extension().is_some_and(|e| EXTENSIONS.iter().any(|known| e == *known)) {
        into.push(place.to_owned());
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
