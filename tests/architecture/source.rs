//! Source files as tokens.

use std::fs;
use std::path::{Path, PathBuf};

/// A token and its line.
pub type Token = (usize, String);

pub struct Source {
    /// Relative to the package's folder: `src/nn/ctx.rs`.
    pub path: String,
    pub text: String,
    /// `["nn", "ctx"]`; `["lib"]` for the root.
    pub module: Vec<String>,
    /// The tokens, without those of test modules.
    pub code: Vec<Token>,
    /// Test modules in files of their own.
    test_modules: Vec<String>,
    pub is_test: bool,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        let (code, test_modules) = without_tests(tokens(text));
        Source { path: path.to_owned(), text: text.to_owned(), module, code, test_modules, is_test: false }
    }
}

/// Returns all files of `src` except lib.rs, which only declares modules.
pub fn sources() -> Vec<Source> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(&entry, into);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                into.push(entry);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&root().join("src"), &mut paths);
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    let names = paths.iter().map(relative).filter(|path| path != "src/lib.rs");
    let mut all: Vec<Source> = names.map(|path| Source::new(&path, &read(&path))).collect();
    let joined = |file: &Source, name: &String| [file.module.as_slice(), std::slice::from_ref(name)].concat();
    let tests: Vec<Vec<String>> =
        all.iter().flat_map(|file| file.test_modules.iter().map(|name| joined(file, name))).collect();
    all.iter_mut().for_each(|file| file.is_test = tests.iter().any(|test| file.module.starts_with(test)));
    assert!(all.len() > 50, "only {} files found", all.len());
    all
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "broken rules ({}):\n  {}", wrong.len(), wrong.join("\n  "));
}

// -------------------------------------------------------------------------------------------------------- the tokens

/// Splits Rust source into words, `::`, and single signs, without comments, strings, characters and lifetime ticks.
pub fn tokens(text: &str) -> Vec<Token> {
    let c: Vec<char> = text.chars().collect();
    let at = |i: usize| c.get(i).copied().unwrap_or('\0');
    let is_word = |ch: char| ch.is_alphanumeric() || ch == '_';
    let (mut out, mut line, mut i) = (Vec::new(), 1, 0);
    while i < c.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => i += c[i..].iter().take_while(|&&ch| ch != '\n').count(),
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= c.len() {
                        break;
                    }
                }
            }
            '"' => i = after_quoted(&c, i),
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => i = after_quoted(&c, i),
            ':' if at(i + 1) == ':' => {
                out.push((line, "::".to_owned()));
                i += 2;
            }
            ch if is_word(ch) => {
                i += c[i..].iter().take_while(|&&ch| is_word(ch)).count();
                let word: String = c[start..i].iter().collect();
                let hashes = c[i..].iter().take_while(|&&ch| ch == '#').count();
                match word.as_str() {
                    "r" | "br" | "cr" if at(i + hashes) == '"' => i = after_raw_string(&c, i + hashes + 1, hashes),
                    _ => out.push((line, word)),
                }
            }
            ch => {
                if !ch.is_whitespace() {
                    out.push((line, ch.to_string()));
                }
                i += 1;
            }
        }
        line += c[start..i.min(c.len())].iter().filter(|&&ch| ch == '\n').count();
    }
    out
}

fn after_quoted(c: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < c.len() && c[i] != c[start] {
        i += if c[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn after_raw_string(c: &[char], start: usize, hashes: usize) -> usize {
    let ends = |&i: &usize| c[i] == '"' && c[i + 1..].iter().take(hashes).filter(|&&ch| ch == '#').count() == hashes;
    (start..c.len()).find(ends).map_or(c.len(), |i| i + 1 + hashes)
}

/// Removes what is under `#[cfg(test)]`; returns the names of test modules that have files of their own.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let is =
        |i: usize, words: &[&str]| words.iter().enumerate().all(|(k, w)| tokens.get(i + k).is_some_and(|t| t.1 == *w));
    let (mut code, mut modules, mut i) = (Vec::new(), Vec::new(), 0);
    while i < tokens.len() {
        if !is(i, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            code.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += 7;
        let mut depth = 0;
        while let Some((_, sign)) = tokens.get(i) {
            match sign.as_str() {
                "mod" if depth == 0 && is(i + 2, &[";"]) => modules.push(tokens[i + 1].1.clone()),
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            i += 1;
            if depth == 0 && matches!(sign.as_str(), ";" | "}") {
                break;
            }
        }
    }
    (code, modules)
}

/// Returns the paths into this package, from its root, with their lines; `super` and `self` resolved, groups expanded.
pub fn own_paths(file: &Source) -> Vec<(usize, Vec<String>)> {
    (0..file.code.len()).flat_map(|i| own_path(file, i, &[])).collect()
}

/// Returns the paths into this package of the path or group that begins at token `i`; relative ones begin with one of
/// `children`, the names of the file's submodules.
pub fn own_path(file: &Source, i: usize, children: &[String]) -> Vec<(usize, Vec<String>)> {
    let t = &file.code;
    let mut out = Vec::new();
    let inside = i > 0 && t[i - 1].1 == "::";
    if inside || t.get(i + 1).is_none_or(|next| next.1 != "::") {
        return out;
    }
    match t[i].1.as_str() {
        "crate" => _ = follow(t, i + 2, Vec::new(), &mut out),
        "trainer" if file.module == ["main"] => _ = follow(t, i + 2, Vec::new(), &mut out),
        "self" | "super" => _ = follow(t, i, file.module.clone(), &mut out),
        word if children.iter().any(|child| child == word) => _ = follow(t, i, file.module.clone(), &mut out),
        _ => {}
    }
    out
}

/// Reads one path or group of paths from token `i` on; returns where it ends.
fn follow(t: &[Token], i: usize, mut path: Vec<String>, out: &mut Vec<(usize, Vec<String>)>) -> usize {
    let Some((line, word)) = t.get(i) else { return i };
    match word.as_str() {
        "{" => {
            let mut i = i + 1;
            while let Some((_, word)) = t.get(i) {
                i = match word.as_str() {
                    "}" => return i + 1,
                    "," => i + 1,
                    "as" => i + 2,
                    _ => follow(t, i, path.clone(), out).max(i + 1),
                };
            }
            i
        }
        word if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
            match word {
                "self" => {}
                "super" => _ = path.pop(),
                _ => path.push(word.to_owned()),
            }
            if t.get(i + 1).is_some_and(|next| next.1 == "::") {
                return follow(t, i + 2, path, out);
            }
            out.push((*line, path));
            i + 1
        }
        // `*`, or `<` of a generic argument
        _ => {
            out.push((*line, path));
            i + 1
        }
    }
}
