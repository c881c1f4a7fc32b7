//! The documentation holds together: links and anchors resolve, every page is listed, and what it tells people to type
//! is understood by the program.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use trainer::cli::Cli;
use trainer::config::Config;
use trainer::launch::sweep::Sweep;

/// What a configuration cannot do without: the override for each, and how a file sets it.
const REQUIRED: &[(&str, &str)] = &[
    ("output_dir=runs/x", "output_dir = "),
    ("model.path=m", "\npath = "),
    ("task.kind=sequence-classification", "\nkind = "),
    ("data.train=train.jsonl", "\ntrain = \""),
    ("data.eval=eval.jsonl", "\neval = "),
];

#[test]
fn links_and_anchors_resolve() {
    let mut wrong = Vec::new();
    let mut anchors_of: HashMap<PathBuf, HashSet<String>> = HashMap::new();
    let mut links = 0;
    for page in pages() {
        let folder = root().join(&page.path);
        let folder = folder.parent().unwrap();
        for (line, target) in page.links() {
            links += 1;
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { root().join(&page.path) } else { folder.join(path) };
            let Ok(file) = file.canonicalize() else {
                wrong.push(format!("{}:{line}: {target}: no such file", page.path));
                continue;
            };
            if !anchor.is_empty() {
                let anchors = anchors_of.entry(file).or_insert_with_key(|file| Page::read(file).anchors());
                if !anchors.contains(anchor) {
                    wrong.push(format!("{}:{line}: {target}: no such heading", page.path));
                }
            }
        }
    }
    assert!(links > 100, "only {links} links found");
    none(&wrong);
}

#[test]
fn every_page_is_in_the_summary_and_in_the_index() {
    for list in ["docs/SUMMARY.md", "docs/index.md"] {
        let listed: HashSet<String> =
            Page::read(&root().join(list)).links().into_iter().map(|(_, link)| link).collect();
        for page in pages() {
            let Some(name) = page.path.strip_prefix("docs/") else { continue };
            let is_list = ["SUMMARY.md", "index.md"].contains(&name);
            assert!(is_list || listed.contains(name), "{list} does not list {name}");
        }
    }
}

#[test]
fn the_front_page_fits_on_two_screens() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: at most 150; move details to docs/");
}

#[test]
fn command_lines_parse() {
    let (mut wrong, mut commands) = (Vec::new(), 0);
    for page in pages() {
        for (line, text) in page.command_lines() {
            let result = check_line(&text);
            commands += result.as_ref().unwrap_or(&0);
            if let Err(problem) = result {
                wrong.push(format!("{}:{line}: {}: {problem}", page.path, text.trim()));
            }
        }
    }
    assert!(commands > 50, "only {commands} commands found");
    none(&wrong);
}

#[test]
fn configurations_parse() {
    let (mut wrong, mut configurations) = (Vec::new(), 0);
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "toml") {
            configurations += 1;
            let text = format!("\n{}", block.text);
            if text.contains("\n[parameters]") {
                if let Err(problem) = Sweep::parse(&text, &page.path) {
                    wrong.push(format!("{}:{}: {problem}", page.path, block.line));
                }
                continue;
            }
            let missing = REQUIRED.iter().filter(|(_, set)| !text.contains(set)).map(|(key, _)| (*key).to_owned());
            if let Err(problem) = Config::parse(&text, &page.path, &missing.collect::<Vec<_>>()) {
                wrong.push(format!("{}:{}: {problem}", page.path, block.line));
            }
        }
    }
    assert!(configurations > 3, "only {configurations} configurations found");
    none(&wrong);
}

/// What is wrong is found, and what is right passes.
#[test]
fn the_checks_find_mistakes() {
    for (line, commands) in [
        ("trainer train run.toml learning_rate=3e-5 --resume auto # a comment", 1),
        ("cat x | mpirun -n 2 target/release/trainer predict --model m --input - > out.jsonl", 1),
        ("docker run image trainer trainer launch -n 2 run.toml && trainer doctor", 2),
        ("launch/setup.sh && cargo build", 0),
    ] {
        assert_eq!(check_line(line), Ok(commands), "{line}");
    }
    for line in [
        "trainer train run.toml --lr 3e-5",
        "trainer train run.toml learning_rat=3e-5",
        "mpirun -n 2 trainer launch --resume",
        "trainer trian run.toml",
    ] {
        assert!(check_line(line).is_err(), "{line}");
    }
    let page = Page::new(
        "x.md",
        "# A `b` C_d: e\n\n## A\n<a id=\"old\"></a>\n## A\n[one](y.md#a) and [two\nlines](z.md), `[no](code)`\n\n```sh\n\
         [no](block)\na \\\n  b\n```\n",
    );
    let found: Vec<(usize, String)> = page.links();
    assert_eq!(found, [(6, "y.md#a".to_owned()), (7, "z.md".to_owned())]);
    assert_eq!(page.anchors(), ["a-b-c_d-e", "a", "old", "a-1"].map(str::to_owned).into());
    assert_eq!(page.command_lines(), [(10, "[no](block)".to_owned()), (11, "a  b".to_owned())]);
}

// ------------------------------------------------------------------------------------------------ command lines

/// Parses each `trainer` command of a shell line, and its settings; returns how many there are.
fn check_line(line: &str) -> Result<usize, String> {
    let words = shell_words::split(line).map_err(|e| e.to_string())?;
    let is_program = |word: &str| word == "trainer" || word.ends_with("/trainer");
    let first = words.iter().position(|word| !word.contains('=')).unwrap_or(0);
    let mut commands = 0;
    for (i, word) in words.iter().enumerate().filter(|(_, word)| is_program(word)) {
        let Some(next) = words.get(i + 1) else { continue };
        if is_subcommand(next) {
            let end = |word: &String| matches!(word.as_str(), "|" | "||" | "&&" | ";" | "&") || word.starts_with('>');
            let command = words[i + 1..].iter().take_while(|word| !end(word));
            check_command(command.filter(|word| !word.starts_with('$') && *word != "...").cloned().collect())?;
            commands += 1;
        } else if i == first && !next.starts_with('-') {
            return Err(format!("no command {next:?} of {word}"));
        }
    }
    Ok(commands)
}

fn is_subcommand(word: &str) -> bool {
    static NAMES: LazyLock<HashSet<String>> =
        LazyLock::new(|| Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect());
    NAMES.contains(word)
}

/// One command, from its subcommand on.
fn check_command(words: Vec<String>) -> Result<(), String> {
    match Cli::try_parse_from(std::iter::once("trainer".to_owned()).chain(words.iter().cloned())) {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {}
        Err(e) => return Err(e.to_string().trim().replace('\n', " ")),
    }
    // An option takes the word after it: `--env NAME=VALUE` is no setting.
    let setting = |pair: &[String]| pair[1].contains('=') && ![&pair[0], &pair[1]].iter().any(|w| w.starts_with('-'));
    let flags = ["--all", "--measure", "--print-config", "--dry-run", "--slurm", "--json"];
    let words: Vec<String> = words.into_iter().filter(|word| !flags.contains(&word.as_str())).collect();
    let settings: Vec<String> = words.windows(2).filter(|pair| setting(pair)).map(|pair| pair[1].clone()).collect();
    let held_out = settings.iter().any(|word| word.contains("eval_split="));
    let missing = REQUIRED.iter().map(|(key, _)| (*key).to_owned());
    let missing = missing.filter(|key| !(held_out && key.starts_with("data.eval=")));
    let all: Vec<String> = missing.chain(settings).collect();
    Config::parse("", "documents", &all).map(drop).map_err(|e| e.to_string())
}

// ----------------------------------------------------------------------------------------------------- the pages

/// A code block: fenced, or indented by four spaces.
struct Block {
    line: usize,
    /// The first word after the fence; empty for an indented block.
    language: String,
    text: String,
}

struct Page {
    /// From the package's folder.
    path: String,
    /// The lines, empty within code blocks.
    prose: Vec<String>,
    blocks: Vec<Block>,
}

impl Page {
    fn read(file: &Path) -> Self {
        let path = file.strip_prefix(root().canonicalize().unwrap()).or(file.strip_prefix(root())).unwrap_or(file);
        Page::new(
            path.to_str().unwrap(),
            &fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())),
        )
    }

    fn new(path: &str, text: &str) -> Self {
        let (mut prose, mut blocks) = (Vec::new(), Vec::<Block>::new());
        let (mut fence, mut after_blank) = (false, true);
        let mut indented = false;
        for (i, line) in text.lines().enumerate() {
            let inner = line.trim_start();
            let mut kept = "";
            if let Some(language) = inner.strip_prefix("```") {
                fence = !fence;
                if fence {
                    let language = language.split([' ', ',']).next().unwrap_or("").to_owned();
                    blocks.push(Block { line: i + 2, language, text: String::new() });
                }
            } else if fence {
                blocks.last_mut().unwrap().text += &format!("{line}\n");
            } else if line.starts_with("    ") && (after_blank || indented) && !inner.is_empty() {
                if !indented {
                    blocks.push(Block { line: i + 1, language: String::new(), text: String::new() });
                }
                indented = true;
                blocks.last_mut().unwrap().text += &format!("{line}\n");
            } else {
                indented = indented && inner.is_empty();
                if indented {
                    blocks.last_mut().unwrap().text += "\n";
                }
                kept = line;
            }
            after_blank = inner.is_empty();
            prose.push(kept.to_owned());
        }
        Page { path: path.to_owned(), prose, blocks }
    }

    /// The targets of links, with the line on which each ends.
    fn links(&self) -> Vec<(usize, String)> {
        let mut out = Vec::new();
        for (i, line) in self.prose.iter().enumerate() {
            let line = without_code(line);
            for (at, _) in line.match_indices("](") {
                let rest = &line[at + 2..];
                if let Some(end) = rest.find(')') {
                    out.push((i + 1, rest[..end].to_owned()));
                }
            }
        }
        out
    }

    /// The anchors of headings, as GitHub and mdBook make them, and those of `<a id="...">`.
    fn anchors(&self) -> HashSet<String> {
        let (mut out, mut seen) = (HashSet::new(), HashMap::<String, usize>::new());
        for line in &self.prose {
            if let Some(title) = line.strip_prefix('#') {
                let title = title.trim_start_matches('#').trim().to_lowercase();
                let title: String = title.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c)).collect();
                let slug = title.replace(' ', "-");
                let count = seen.entry(slug.clone()).or_default();
                out.insert(if *count == 0 { slug } else { format!("{slug}-{count}") });
                *count += 1;
            }
            out.extend(line.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
        out
    }

    /// Lines of shell: those of `sh` blocks, and of others those with a `trainer` command. Continued lines are one.
    fn command_lines(&self) -> Vec<(usize, String)> {
        let mut out: Vec<(usize, String)> = Vec::new();
        for block in self.blocks.iter().filter(|block| ["sh", ""].contains(&block.language.as_str())) {
            let mut continued = false;
            for (i, line) in block.text.lines().enumerate() {
                let text = line.trim_end_matches('\\').trim_end();
                match out.last_mut() {
                    Some((_, before)) if continued => before.push_str(text),
                    _ if block.language == "sh" || starts_a_command(text) => {
                        out.push((block.line + i, text.to_owned()))
                    }
                    _ => continue,
                }
                continued = line.ends_with('\\');
            }
        }
        out
    }
}

/// Whether a line of a block without a language runs the program, so that its output is not taken for commands.
fn starts_a_command(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let program = words.iter().position(|word| *word == "trainer" || word.ends_with("/trainer"));
    program.is_some_and(|i| words.get(i + 1).is_some_and(|next| is_subcommand(next)))
}

/// A line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// README.md, CONTRIBUTING.md, CHANGELOG.md, the pages of docs and what they say of the reference values.
fn pages() -> Vec<Page> {
    let mut files: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/reference/README.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    files.sort();
    files.iter().map(|file| Page::read(file)).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "problems in the documentation ({}):\n  {}", wrong.len(), wrong.join("\n  "));
}
