//! The house stays in order: who uses whom, who names which crate, where unsafe code lives, how long a file is.
//!
//! The rules are the tables of `docs/architecture.md`, read here, so that the document and the code cannot part. Rust
//! is read by its tokens alone: comments, strings and test modules do not count.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file in `src`, tests included.
const LONGEST: usize = 400;

#[test]
fn modules_use_only_those_that_they_may() {
    let rules = Rules::read();
    let mut wrong = Vec::new();
    for file in sources().iter().filter(|file| !file.is_test) {
        wrong.extend(foreign_modules(&rules, file));
        wrong.extend(foreign_crates(&rules, file));
    }
    none(&wrong);
}

#[test]
fn modules_stand_in_the_documented_order() {
    let rules = Rules::read();
    let documented: Vec<&str> = rules.users.iter().map(|(user, _)| user.as_str()).filter(|&m| m != "main").collect();
    let lib = read("src/lib.rs");
    let declared: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, documented, "src/lib.rs declares its modules in another order than docs/architecture.md");
    for (at, (user, used)) in rules.users.iter().enumerate() {
        for path in used {
            let earlier = rules.users[..at].iter().any(|(module, _)| *module == path[0]);
            assert!(earlier, "docs/architecture.md: `{user}` may use `{}`, which stands after it", path.join("::"));
        }
    }
}

#[test]
fn unsafe_code_lives_where_it_may() {
    let rules = Rules::read();
    let wrong: Vec<String> = sources().iter().flat_map(|file| unsafe_code(&rules, file)).collect();
    none(&wrong);
    for place in &rules.unsafe_places {
        assert!(root().join(place).exists(), "docs/architecture.md allows unsafe code in {place}, which is not there");
    }
}

/// A copy that another module makes would not be counted, and the host may wait for it.
#[test]
fn copies_between_host_and_device_go_through_one_module() {
    let rules = Rules::read();
    none(
        &sources().iter().filter(|file| !file.is_test).flat_map(|file| device_copies(&rules, file)).collect::<Vec<_>>(),
    );
}

/// docs/gpu.md tells the tolerances that the tests of a device go by.
#[test]
fn tolerances_are_documented() {
    let json: serde_json::Value = serde_json::from_str(&read("tests/gpu/tolerances.json")).unwrap();
    let document = read("docs/gpu.md");
    let mut table = document.lines().skip_while(|line| !line.starts_with("| Device | Type |"));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let columns = cells(table.next().expect("docs/gpu.md has no table | Device | Type | ..."));
    let mut rows = 0;
    for row in table.skip(1).take_while(|line| line.starts_with('|')).map(cells) {
        let wanted = json[&row[0]][&row[1]].as_object().unwrap_or_else(|| panic!("tolerances.json has no {row:?}"));
        assert_eq!(wanted.len(), columns.len() - 2, "{row:?}");
        for (name, value) in columns.iter().zip(&row).skip(2) {
            assert_eq!(wanted[name].as_f64(), value.parse().ok(), "{row:?}: {name}");
        }
        rows += 1;
    }
    assert_eq!(rows, json.as_object().unwrap().values().map(|of| of.as_object().unwrap().len()).sum::<usize>());
}

#[test]
fn files_are_short() {
    let too_long = |file: &Source| {
        let lines = file.text.lines().count();
        (lines > LONGEST).then(|| format!("{}:{lines}: a file has at most {LONGEST} lines: divide it", file.path))
    };
    none(&sources().iter().filter_map(too_long).collect::<Vec<_>>());
}

/// What the rules forbid is found, with its line, in each of the ways in which Rust can spell it.
#[test]
fn violations_are_found() {
    let rules = Rules {
        users: vec![
            ("error".into(), vec![]),
            ("data".into(), vec![]),
            ("nn".into(), vec![vec!["error".into()], vec!["data".into(), "ragged".into()]]),
            ("train".into(), vec![]),
            ("ffi".into(), vec![]),
        ],
        crates: vec![("tch".into(), vec!["nn".into()])],
        unsafe_places: vec!["src/nn/raw.rs".into()],
        copy_places: vec!["src/ffi/transfer.rs".into()],
    };
    let lines = |path: &str, text: &str| -> Vec<String> {
        let file = Source::new(path.into(), text.into());
        let mut all = foreign_modules(&rules, &file);
        all.extend(foreign_crates(&rules, &file));
        all.extend(unsafe_code(&rules, &file));
        all.extend(device_copies(&rules, &file));
        all
    };
    let fine = "use crate::error::Error; // crate::train\nuse crate::data::ragged::{A, B};\nuse super::ctx;\n\
                fn f<'a>() { \"crate::train\"; r#\"unsafe\"#; 'x'; '\\''; tch::f(); }\n\
                fn g() { copies::to_device(x, device); u32::try_from(n); }\n\
                #[cfg(test)]\nmod tests {\n use crate::train::x;\n fn f() { x.double_value(&[]); }\n}\n";
    assert_eq!(lines("src/nn/a.rs", fine), [""; 0]);
    for (text, line) in [
        ("\nuse crate::train::Trainer;", 2),
        ("use crate::{\n  error::Error,\n  train,\n};", 3),
        ("use super::super::train;", 1),
        ("fn f() {\n\n crate::train::run() }", 3),
        ("use crate::data;", 1),
        ("use crate::data::{ragged::A, batch::Batch};", 1),
        ("use crate::nowhere::A;", 1),
        ("/* /* */ */\n#[cfg(test)]\nmod tests { use crate::train::a; }\nuse crate::train::b;", 4),
        ("fn f() { unsafe { g() } }", 1),
        ("fn f() {\n x.to_device(Device::Cpu) }", 2),
        ("fn f() { tch::Tensor::f_to_device(&x, device) }", 1),
        ("fn f() { f(&x).double_value(&[]) }", 1),
        ("fn f() -> Vec<f32> { Vec::try_from(x).unwrap() }", 1),
        ("fn f() { Vec::<f32>::try_from(x).unwrap() }", 1),
        ("fn f() { f64::try_from(x).unwrap() }", 1),
    ] {
        let found = lines("src/nn/a.rs", text);
        assert!(found.len() == 1 && found[0].starts_with(&format!("src/nn/a.rs:{line}: ")), "{text}: {found:?}");
    }
    assert_eq!(lines("src/nn/raw.rs", "unsafe fn f() {}"), [""; 0]);
    assert_eq!(lines("src/ffi/transfer.rs", "fn f() { x.f_to_device(Device::Cpu) }"), [""; 0]);
    assert_eq!(lines("src/data/a.rs", "fn f(t: &tch::Tensor) {}").len(), 1);
    assert_eq!(lines("src/data/a.rs", "use ::tch::Tensor;").len(), 1);
    assert_eq!(lines("src/data/a.rs", "use super::tch::Tensor;").len(), 0, "a module of ours");
}

// -------------------------------------------------------------------------------------------------------- the rules

struct Rules {
    /// Each module with the paths that it may use, in the order of the document.
    users: Vec<(String, Vec<Vec<String>>)>,
    /// Each crate that not everybody names, with the modules that do.
    crates: Vec<(String, Vec<String>)>,
    /// Files, and folders with a slash at the end.
    unsafe_places: Vec<String>,
    /// Those that may copy between host and device.
    copy_places: Vec<String>,
}

impl Rules {
    fn read() -> Self {
        let document = read("docs/architecture.md");
        let mut users: Vec<(String, Vec<Vec<String>>)> = Vec::new();
        for (cells, text) in table(&document, "### Modules") {
            let mut used: Vec<Vec<String>> = cells.iter().skip(1).map(|path| split(path)).collect();
            if text.contains("| everything above |") {
                used = users.iter().map(|(module, _)| vec![module.clone()]).collect();
            }
            users.push((cells[0].clone(), used));
        }
        let crates = table(&document, "### Crates").map(|(cells, _)| (cells[0].clone(), cells[1..].to_vec())).collect();
        let unsafe_places = table(&document, "### Unsafe code").map(|(cells, _)| cells[0].clone()).collect();
        let copy_places =
            table(&document, "### Copies between host and device").map(|(cells, _)| cells[0].clone()).collect();
        Rules { users, crates, unsafe_places, copy_places }
    }
}

/// The rows of the first table below a heading: the words in backticks of its first two columns, and the whole row.
fn table<'a>(document: &'a str, heading: &str) -> impl Iterator<Item = (Vec<String>, &'a str)> {
    let rest = document.lines().skip_while(move |line| *line != heading).skip(1);
    let rows: Vec<&str> =
        rest.skip_while(|line| !line.starts_with("| `")).take_while(|line| line.starts_with("| `")).collect();
    assert!(!rows.is_empty(), "docs/architecture.md has no table below {heading:?}");
    rows.into_iter().map(|row| {
        let columns = row.split('|').skip(1).take(2);
        (columns.flat_map(|column| column.split('`').skip(1).step_by(2)).map(str::to_owned).collect(), row)
    })
}

fn split(path: &str) -> Vec<String> {
    path.split("::").map(str::to_owned).collect()
}

/// Paths to modules of ours that this file's module may not use.
fn foreign_modules(rules: &Rules, file: &Source) -> Vec<String> {
    let user = &file.module[0];
    let Some((_, allowed)) = rules.users.iter().find(|(module, _)| module == user) else {
        return vec![format!("{}:1: module `{user}` is not in the table of docs/architecture.md", file.path)];
    };
    let may = |path: &[String]| path.is_empty() || path[0] == *user || allowed.iter().any(|a| path.starts_with(a));
    let complain = |(line, path): (usize, Vec<String>)| {
        let path = path.join("::");
        format!("{}:{line}: `{user}` may not use `{path}` (who may use whom: docs/architecture.md)", file.path)
    };
    own_paths(file).into_iter().filter(|(_, path)| !may(path)).map(complain).collect()
}

/// Paths to crates that this file's module may not name.
fn foreign_crates(rules: &Rules, file: &Source) -> Vec<String> {
    const KEYWORDS: &[&str] = &["use", "in", "return", "as", "dyn", "impl", "mut", "else", "match", "if"];
    let t = &file.code;
    let word = |i: usize| t[i].1.starts_with(|c: char| c.is_alphanumeric()) && !KEYWORDS.contains(&t[i].1.as_str());
    let first = |i: usize| i == 0 || t[i - 1].1 != "::" || i == 1 || !(word(i - 2) || t[i - 2].1 == ">");
    let paths = (0..t.len().saturating_sub(1)).filter(|&i| t[i + 1].1 == "::" && first(i));
    let foreign = |name: &str| rules.crates.iter().any(|(of, users)| of == name && !users.contains(&file.module[0]));
    let complain = |i: usize| {
        let (line, name) = &t[i];
        let user = &file.module[0];
        format!("{}:{line}: `{user}` may not name the crate `{name}` (docs/architecture.md)", file.path)
    };
    paths.filter(|&i| foreign(&t[i].1)).map(complain).collect()
}

/// Whether a file is one of these, or in one of these folders.
fn within(places: &[String], file: &Source) -> bool {
    places.iter().any(|place| file.path == *place || (place.ends_with('/') && file.path.starts_with(place.as_str())))
}

/// Methods of tensors that copy to another device, or make the host wait for numbers: called on a value or by the type.
fn device_copies(rules: &Rules, file: &Source) -> Vec<String> {
    const COPIES: &[&str] = &[
        "to_device",
        "to_device_",
        "to_kind_device",
        "double_value",
        "int64_value",
        "copy_data",
        "pin_memory",
        "cuda",
        "item",
    ];
    const READ: &[&str] = &["Vec", "f32", "f64", "bool"];
    if within(&rules.copy_places, file) {
        return Vec::new();
    }
    let word = |i: usize| file.code.get(i).map_or("", |t| t.1.as_str());
    // `Vec::try_from`, `Vec::<f32>::try_from`: of a tensor, its numbers.
    let names_tensors = rules.crates.iter().any(|(of, users)| of == "tch" && users.contains(&file.module[0]));
    let read = |i: usize| {
        let of = if i > 5 && word(i - 2) == ">" { i - 6 } else { i.saturating_sub(2) };
        names_tensors && word(i) == "try_from" && READ.contains(&word(of))
    };
    let copies = |i: usize| {
        let own = word(i).strip_prefix("f_").unwrap_or(word(i));
        let of_tensor = i > 0 && (word(i - 1) == "." || (word(i - 1) == "::" && i > 1 && word(i - 2) == "Tensor"));
        COPIES.contains(&own) && of_tensor && word(i + 1) == "("
    };
    let complain = |i: usize| {
        let (line, name) = &file.code[i];
        format!(
            "{}:{line}: `{name}`: copies between host and device go through `ffi::transfer` (docs/architecture.md)",
            file.path
        )
    };
    (0..file.code.len()).filter(|&i| copies(i) || read(i)).map(complain).collect()
}

fn unsafe_code(rules: &Rules, file: &Source) -> Vec<String> {
    if within(&rules.unsafe_places, file) {
        return Vec::new();
    }
    let found = tokens(&file.text).into_iter().filter(|(_, word)| word == "unsafe");
    found
        .map(|(line, _)| format!("{}:{line}: unsafe code may not stand here (docs/architecture.md)", file.path))
        .collect()
}

// ------------------------------------------------------------------------------------------------------ the sources

/// A token and its line.
type Token = (usize, String);

struct Source {
    /// From the package's folder: `src/nn/ctx.rs`.
    path: String,
    text: String,
    /// `["nn", "ctx"]`; `["lib"]` for the root.
    module: Vec<String>,
    /// The tokens, without those of test modules.
    code: Vec<Token>,
    /// Modules in files of their own that only tests have.
    test_modules: Vec<String>,
    is_test: bool,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        let (code, test_modules) = without_tests(tokens(&text));
        Source { path, text, module, code, test_modules, is_test: false }
    }
}

/// All of `src`, except its root, which only declares.
fn sources() -> Vec<Source> {
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
    let mut all: Vec<Source> = names.map(|path| Source::new(path.clone(), read(&path))).collect();
    let joined = |file: &Source, name: &String| [file.module.as_slice(), std::slice::from_ref(name)].concat();
    let tests: Vec<Vec<String>> =
        all.iter().flat_map(|file| file.test_modules.iter().map(|name| joined(file, name))).collect();
    all.iter_mut().for_each(|file| file.is_test = tests.iter().any(|test| file.module.starts_with(test)));
    assert!(all.len() > 50, "only {} files found", all.len());
    all
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "broken rules ({}):\n  {}", wrong.len(), wrong.join("\n  "));
}

// -------------------------------------------------------------------------------------------------------- the tokens

/// Words, `::`, and every other sign by itself; no comments, no strings, no characters, no lifetimes' ticks.
fn tokens(text: &str) -> Vec<Token> {
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

/// Takes out what stands under `#[cfg(test)]`; names the test modules that have files of their own.
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

/// The paths into this package, from its root, with their lines; `super` and `self` resolved, groups taken apart.
fn own_paths(file: &Source) -> Vec<(usize, Vec<String>)> {
    let t = &file.code;
    let mut out = Vec::new();
    for i in 0..t.len().saturating_sub(1) {
        let inside = i > 0 && t[i - 1].1 == "::";
        let base = match t[i].1.as_str() {
            "crate" => Vec::new(),
            "trainer" if file.module == ["main"] => Vec::new(),
            "self" | "super" => file.module.clone(),
            _ => continue,
        };
        if t[i + 1].1 == "::" && !inside {
            let from = if matches!(t[i].1.as_str(), "self" | "super") { i } else { i + 2 };
            follow(t, from, base, &mut out);
        }
    }
    out
}

/// Reads one path, or one group of paths, from `i` on; returns where it ends.
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
