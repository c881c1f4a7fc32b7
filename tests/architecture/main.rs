//! Architecture rules: which modules and crates a module may use, import cycles, where unsafe code may be, the length of
//! a file.
//!
//! The rules are the tables of `docs/architecture.md`, read here, so that document and code cannot disagree. Rust is
//! read as tokens: comments, strings and test modules do not count.

mod cycles;
mod source;

use source::{Source, none, own_paths, read, root, sources, tokens};

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
            assert!(
                earlier,
                "docs/architecture.md: `{user}` may use `{}`, which is declared after it",
                path.join("::")
            );
        }
    }
}

#[test]
fn unsafe_code_lives_where_it_may() {
    let rules = Rules::read();
    let wrong: Vec<String> = sources().iter().flat_map(|file| unsafe_code(&rules, file)).collect();
    none(&wrong);
    for place in &rules.unsafe_places {
        assert!(
            root().join(place).exists(),
            "docs/architecture.md allows unsafe code in {place}, which does not exist"
        );
    }
}

/// No file imports itself through others, and no folder.
#[test]
fn imports_have_no_cycles() {
    none(&cycles::cycles(&sources()));
}

/// A copy that another module makes would not be counted, and the host may wait for it.
#[test]
fn copies_between_host_and_device_go_through_one_module() {
    let rules = Rules::read();
    none(
        &sources().iter().filter(|file| !file.is_test).flat_map(|file| device_copies(&rules, file)).collect::<Vec<_>>(),
    );
}

/// The tolerances in docs/gpu.md are those that the device tests use.
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

/// A violation is found, with its line, in every syntax that Rust has for it.
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
        let file = Source::new(path, text);
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
    assert_eq!(lines("src/data/a.rs", "use super::tch::Tensor;").len(), 0, "a module of this package");
}

// -------------------------------------------------------------------------------------------------------- the rules

struct Rules {
    /// Each module with the paths that it may use, in the order of the document.
    users: Vec<(String, Vec<Vec<String>>)>,
    /// Each restricted crate, with the modules that may name it.
    crates: Vec<(String, Vec<String>)>,
    /// Files, and folders with a trailing slash.
    unsafe_places: Vec<String>,
    /// Files and folders that may copy between host and device.
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

/// Returns the rows of the first table below a heading: the words in backticks of the first two columns, and the whole row.
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

/// Returns the paths to modules of this package that the file's module may not use.
fn foreign_modules(rules: &Rules, file: &Source) -> Vec<String> {
    let user = &file.module[0];
    let Some((_, allowed)) = rules.users.iter().find(|(module, _)| module == user) else {
        return vec![format!("{}:1: module `{user}` is not in the table of docs/architecture.md", file.path)];
    };
    let may = |path: &[String]| path.is_empty() || path[0] == *user || allowed.iter().any(|a| path.starts_with(a));
    let complain = |(line, path): (usize, Vec<String>)| {
        let path = path.join("::");
        format!("{}:{line}: `{user}` may not use `{path}` (allowed modules: docs/architecture.md)", file.path)
    };
    own_paths(file).into_iter().filter(|(_, path)| !may(path)).map(complain).collect()
}

/// Returns the paths to crates that the file's module may not name.
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

/// Returns whether a file is one of these, or in one of these folders.
fn within(places: &[String], file: &Source) -> bool {
    places.iter().any(|place| file.path == *place || (place.ends_with('/') && file.path.starts_with(place.as_str())))
}

/// Returns the calls of tensor methods that copy to another device or make the host wait, on a value or by the type.
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
    // `Vec::try_from`, `Vec::<f32>::try_from`: the values of a tensor.
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
        .map(|(line, _)| format!("{}:{line}: unsafe code is not allowed here (docs/architecture.md)", file.path))
        .collect()
}
