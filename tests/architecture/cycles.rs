//! Import cycles between files and between folders.
//!
//! A file imports another if a path in it names an item of the other. A re-export (`pub use`) is no import: a path through
//! it leads to the file that defines the item.

use crate::source::{Source, own_path};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

type Path = Vec<String>;
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the import cycles, each as `src/a.rs -> src/b.rs -> src/a.rs`; those of folders as `src/a/ -> src/b/ -> src/a/`.
pub fn cycles(files: &[Source]) -> Vec<String> {
    let files: Vec<&Source> = files.iter().filter(|file| !file.is_test).collect();
    let modules = Modules::new(&files);
    let imports: BTreeSet<(&Path, &Path)> = files.iter().flat_map(|file| modules.imports(file)).collect();
    let path_of: BTreeMap<&Path, &str> = files.iter().map(|file| (&file.module, file.path.as_str())).collect();
    let mut graph = Graph::new();
    for (from, to) in &imports {
        graph.entry(path_of[from].to_owned()).or_default().insert(path_of[to].to_owned());
    }
    let mut found = cycles_of(&graph);
    let folders: BTreeSet<&[String]> =
        files.iter().flat_map(|file| (0..file.module.len()).map(|n| &file.module[..n])).collect();
    for folder in &folders {
        // The entries of a folder: its own module, files, and folders, each with all that is in it.
        let entry = |module: &Path| -> Option<String> {
            let inside = module.strip_prefix(*folder)?;
            let Some(name) = inside.first() else { return Some(path_of[&module].to_owned()) };
            let entry = [*folder, std::slice::from_ref(name)].concat();
            if folders.contains(&entry.as_slice()) {
                return Some(format!("src/{}/", entry.join("/")));
            }
            Some(path_of[&&entry].to_owned())
        };
        let mut graph = Graph::new();
        for (from, to) in &imports {
            if let (Some(from), Some(to)) = (entry(from), entry(to))
                && from != to
            {
                graph.entry(from).or_default().insert(to);
            }
        }
        // A cycle of files alone is in the list.
        found.extend(cycles_of(&graph).into_iter().filter(|cycle| cycle.contains("/ ")));
    }
    found
}

/// The modules of a package, and the names that `use` brings into each.
struct Modules {
    names: BTreeMap<Path, BTreeMap<String, Path>>,
}

impl Modules {
    fn new(files: &[&Source]) -> Self {
        let mut modules = Modules { names: files.iter().map(|file| (file.module.clone(), BTreeMap::new())).collect() };
        for file in files {
            let children = modules.children(file);
            let paths = uses(file).into_iter().flat_map(|(start, ..)| own_path(file, start, &children));
            let names = paths.filter_map(|(_, path)| Some((path.last()?.clone(), path))).collect();
            modules.names.insert(file.module.clone(), names);
        }
        modules
    }

    fn children(&self, file: &Source) -> Vec<String> {
        let inside = self.names.keys().filter_map(|module| module.strip_prefix(file.module.as_slice()));
        inside.filter(|rest| rest.len() == 1).map(|rest| rest[0].clone()).collect()
    }

    /// Returns the imports of a file, from its module to the modules that define what it names.
    fn imports<'a>(&'a self, file: &'a Source) -> Vec<(&'a Path, &'a Path)> {
        let children = self.children(file);
        let exports: Vec<_> = uses(file).into_iter().filter(|(.., exported)| *exported).collect();
        let exported = |i: &usize| exports.iter().any(|(start, end, _)| (*start..*end).contains(i));
        let starts = (0..file.code.len()).filter(|i| !exported(i));
        let paths = starts.flat_map(|i| own_path(file, i, &children));
        let defining = paths.filter_map(|(_, path)| self.defining(path, 0));
        defining.filter(|module| **module != file.module).map(|module| (&file.module, module)).collect()
    }

    /// Returns the module that defines the item of a path, through re-exports.
    fn defining(&self, path: Path, depth: usize) -> Option<&Path> {
        let n = (1..=path.len()).rev().find(|&n| self.names.contains_key(&path[..n]))?;
        let (module, names) = self.names.get_key_value(&path[..n])?;
        match path.get(n).and_then(|name| names.get(name)).filter(|_| depth < 10) {
            Some(target) => self.defining([target.as_slice(), &path[n + 1..]].concat(), depth + 1),
            None => Some(module),
        }
    }
}

/// Returns the `use` declarations of a file: the token of the path, that of the semicolon, and whether it is a re-export.
fn uses(file: &Source) -> Vec<(usize, usize, bool)> {
    let word = |i: usize| file.code.get(i).map_or("", |token| token.1.as_str());
    let all = (0..file.code.len()).filter(|&i| word(i) == "use");
    let declaration = |i: usize| {
        let end = (i..file.code.len()).find(|&end| word(end) == ";").unwrap_or(file.code.len());
        (i + 1, end, i > 0 && matches!(word(i - 1), "pub" | ")"))
    };
    all.map(declaration).collect()
}

/// Returns a shortest cycle through each node, leaving out nodes that a cycle in the list has.
fn cycles_of(graph: &Graph) -> Vec<String> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for start in graph.keys() {
        if seen.contains(start) {
            continue;
        }
        let mut before: BTreeMap<&String, &String> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        'search: while let Some(node) = queue.pop_front() {
            for next in graph.get(node).into_iter().flatten() {
                if next == start {
                    let mut cycle = vec![start.clone(), node.clone()];
                    while let Some(previous) = before.get(&cycle[cycle.len() - 1]) {
                        cycle.push((*previous).clone());
                    }
                    cycle.reverse();
                    seen.extend(cycle.iter().cloned());
                    found.push(cycle.join(" -> "));
                    break 'search;
                }
                if !before.contains_key(next) {
                    before.insert(next, node);
                    queue.push_back(next);
                }
            }
        }
    }
    found
}

#[test]
fn cycles_are_found() {
    let of = |files: &[(&str, &str)]| -> Vec<String> {
        cycles(&files.iter().map(|(path, text)| Source::new(path, text)).collect::<Vec<_>>())
    };
    let a = ("src/a.rs", "use crate::b::B;\n#[cfg(test)]\nmod tests { use crate::c::C; }\npub struct A;");
    let [b, c] = [("src/b.rs", "use super::c;"), ("src/c.rs", "pub struct C;")];
    assert_eq!(of(&[a, b, c]), [""; 0]);
    let c = ("src/c.rs", "fn c() { crate::a::A }");
    assert_eq!(of(&[a, b, c]), ["src/a.rs -> src/b.rs -> src/c.rs -> src/a.rs"]);
    // Re-exports are no imports, and are followed to the definition.
    let module = ("src/m/mod.rs", "mod x;\nmod y;\npub use x::X;\npub(super) use self::y::{Y};");
    let [x, y] = [("src/m/x.rs", "use super::Y;"), ("src/m/y.rs", "pub struct Y;")];
    assert_eq!(of(&[module, x, y]), [""; 0]);
    assert_eq!(of(&[module, x, ("src/m/y.rs", "use crate::m::X;")]), ["src/m/x.rs -> src/m/y.rs -> src/m/x.rs"]);
    // A module and its submodule.
    let module = ("src/m/mod.rs", "mod x;\nuse x::X;\npub struct M;");
    assert_eq!(of(&[module, ("src/m/x.rs", "use super::M;")]), ["src/m/mod.rs -> src/m/x.rs -> src/m/mod.rs"]);
    // Folders whose files have no cycle.
    let [p, q] = [("src/p/one.rs", "use crate::q::one::Q;"), ("src/q/two.rs", "use crate::p::two::P;")];
    let others = [("src/p/two.rs", ""), ("src/q/one.rs", "")];
    assert_eq!(of(&[p, q, others[0], others[1]]), ["src/p/ -> src/q/ -> src/p/"]);
}
