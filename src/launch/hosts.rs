//! The hosts named by the user, with their numbers of ranks.

use crate::error::{Context, Error, Result};
use std::fs;
use std::path::Path;

/// A host and its number of ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    /// Number of ranks: one per GPU.
    pub slots: usize,
}

/// Parses `--hosts`: `a:8,b:8`.
///
/// # Errors
/// Exit 2, with the invalid entry.
pub fn parse(text: &str) -> Result<Vec<Host>> {
    all_different(text.split(',').map(host).collect::<Result<_>>()).context("--hosts")
}

/// Reads a host file: one host per line, `a slots=8` or `a:8`; `#` starts a comment.
///
/// # Errors
/// Exit 2, with the file and the invalid line.
pub fn read(file: &Path) -> Result<Vec<Host>> {
    let text = fs::read_to_string(file).input_context(format!("--hostfile {}", file.display()))?;
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split('#').next().unwrap_or_default().trim()));
    let hosts = lines.filter(|(_, line)| !line.is_empty()).map(|(at, line)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let one = match words[..] {
            [word] => host(word),
            [name, slots] => match slots.strip_prefix("slots=") {
                Some(slots) => host(&format!("{name}:{slots}")),
                None => Err(expected(line)),
            },
            _ => Err(expected(line)),
        };
        one.context(format!("{}:{at}", file.display()))
    });
    let hosts = all_different(hosts.collect()).context("--hostfile")?;
    if hosts.is_empty() {
        return Err(Error::input(format!("--hostfile {}: no hosts found", file.display())));
    }
    Ok(hosts)
}

fn host(word: &str) -> Result<Host> {
    let (name, slots) = word.trim().rsplit_once(':').ok_or_else(|| expected(word))?;
    let slots = slots.parse().ok().filter(|&slots: &usize| slots > 0).ok_or_else(|| expected(word))?;
    if name.contains(':') {
        return Err(Error::input(format!(
            "found {word:?}: mpirun does not accept IPv6 addresses here; add a name for the host to /etc/hosts"
        )));
    }
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
    // A name that looks like an option would be parsed by mpirun as one.
    if !is_name(name) || name.starts_with('-') {
        return Err(expected(word));
    }
    Ok(Host { name: name.to_owned(), slots })
}

fn expected(found: &str) -> Error {
    Error::input(format!("found {found:?}, expected a host and its number of ranks (GPUs), such as node1:8"))
}

fn all_different(hosts: Result<Vec<Host>>) -> Result<Vec<Host>> {
    let hosts = hosts?;
    for (at, host) in hosts.iter().enumerate() {
        if hosts[..at].iter().any(|other| other.name == host.name) {
            return Err(Error::input(format!("{} is listed twice: list it once, with all its ranks", host.name)));
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(hosts: &[(&str, usize)]) -> Vec<Host> {
        hosts.iter().map(|&(name, slots)| Host { name: name.into(), slots }).collect()
    }

    #[test]
    fn on_the_command_line() {
        assert_eq!(parse("a:8,node-2.cluster:4").unwrap(), named(&[("a", 8), ("node-2.cluster", 4)]));
        assert_eq!(parse("10.0.0.1:1, b:2").unwrap(), named(&[("10.0.0.1", 1), ("b", 2)]));
        for (wrong, message) in [
            ("a", "--hosts: found \"a\", expected a host and its number of ranks (GPUs), such as node1:8"),
            ("fe80::2:2", "found \"fe80::2:2\": mpirun does not accept IPv6 addresses"),
            ("a:0", "found \"a:0\""),
            ("a:8,", "found \"\""),
            ("a:x", "found \"a:x\""),
            ("-x:2", "found \"-x:2\""),
            ("a:1,b:1,a:2", "--hosts: a is listed twice"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.to_string().contains(message) && error.kind().exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, "# ours\na slots=8\n\n b:4   # the old one\n").unwrap();
        assert_eq!(read(&path).unwrap(), named(&[("a", 8), ("b", 4)]));
        for (text, message) in [
            ("a slots=8\nb\n", "hosts:2: found \"b\""),
            ("a slots=many\n", "hosts:1: found \"a:many\""),
            ("a 8\n", "hosts:1: found \"a 8\""),
            ("a:1\na slots=1\n", "a is listed twice"),
            ("# nothing\n", "no hosts found"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err();
            assert!(error.to_string().contains(message) && error.kind().exit_code() == 2, "{error}");
        }
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("No such file"));
    }
}
