//! `trainer cache`

use crate::data::cache;
use crate::data::cache_folder::{self, Entry, State};
use crate::error::{Context, Error, Result};
use crate::observe;
use crate::observe::memory::human;
use crate::observe::rank_of_environment;
use crate::observe::table::table;
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: u64 = 24 * 60 * 60;
/// Columns of the names of data files, so that a line fits in 80.
const NAME: usize = 20;

/// `trainer cache`
#[derive(Debug, Args)]
pub struct CacheArgs {
    /// Folder of the token cache, as data.cache_dir [default: trainer/tokens in the user's cache folder].
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<PathBuf>,
    /// Remove all files that no process uses or writes.
    #[arg(long)]
    clear: bool,
    /// With --clear: only files that were not used for this many days.
    #[arg(long, value_name = "DAYS", requires = "clear")]
    unused_days: Option<u64>,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Lists the token cache, or removes files from it.
///
/// # Errors
/// Exit 2: no folder, or an unreadable one. Exit 1: a file that cannot be removed.
pub fn run(args: &CacheArgs) -> Result<()> {
    // Rank 0 does all the work.
    if rank_of_environment() != 0 {
        return Ok(());
    }
    let folder = cache::folder(args.cache_dir.as_deref());
    let folder = folder.ok_or_else(|| Error::input("neither XDG_CACHE_HOME nor HOME is set: give --cache-dir"))?;
    let mut entries = cache_folder::list(&folder)?;
    let mut failed = Vec::new();
    if args.clear {
        let unused = Duration::from_secs(args.unused_days.unwrap_or(0).saturating_mul(DAY));
        let (removed, mut kept): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| cache_folder::is_unused_for(entry, unused));
        entries = Vec::new();
        for entry in removed {
            match cache_folder::remove(&entry) {
                None => entries.push(entry),
                Some(why) => {
                    failed.push(format!("{}: not removed: {why}", entry.path.display()));
                    kept.push(entry);
                }
            }
        }
        let (n, bytes) = (entries.len(), human(total(&entries)));
        if !args.json {
            let left = format!("{} left, {}", files(kept.len()), human(total(&kept)));
            observe::print(&format!("{}: {} removed, {bytes}; {left}\n", folder.display(), files(n)));
        }
    }
    if args.json {
        let list: Vec<Value> = entries.iter().map(described).collect();
        let name = if args.clear { "removed" } else { "files" };
        let all = json!({"folder": folder.display().to_string(), "bytes": total(&entries), name: list});
        observe::print(&(serde_json::to_string_pretty(&all).context("--json")? + "\n"));
    } else if !args.clear {
        observe::print(&listed(&folder, &entries));
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::other(failed.join("\n"))) }
}

fn files(n: usize) -> String {
    format!("{n} file{}", if n == 1 { "" } else { "s" })
}

fn total(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.bytes).sum()
}

fn listed(folder: &Path, entries: &[Entry]) -> String {
    let head = format!("{}: {}, {}\n", folder.display(), files(entries.len()), human(total(entries)));
    if entries.is_empty() {
        return head;
    }
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    head + &table(&["Data", "Task", "Tokens", "Size", "Last use"], &rows) + "\n"
}

fn row(entry: &Entry) -> Vec<String> {
    let (data, task, tokens) = match &entry.content {
        Some(content) => (name(&content.origin.files), content.task.to_owned(), count(content.tokens)),
        None if entry.path.extension().is_some_and(|extension| extension == "tmp") => {
            (String::new(), "(incomplete)".into(), String::new())
        }
        None => (String::new(), "(of another version)".into(), String::new()),
    };
    let used = match entry.state {
        State::InUse => "in use".into(),
        _ => match days(entry.last_used) {
            0 => "today".into(),
            days => format!("{days} d ago"),
        },
    };
    vec![data, task, tokens, human(entry.bytes), used]
}

/// Formats a number in few columns: `123`, `4.5 M`.
fn count(n: usize) -> String {
    match n as f64 {
        ..1e6 => n.to_string(),
        n @ ..1e9 => format!("{:.1} M", n / 1e6),
        n => format!("{:.1} G", n / 1e9),
    }
}

/// Full days since this time.
fn days(time: SystemTime) -> u64 {
    time.elapsed().map_or(0, |elapsed| elapsed.as_secs() / DAY)
}

/// Returns the first of the files with its folder, the start left out where it is too long, and the number of others.
fn name(files: &[String]) -> String {
    let Some(first) = files.first() else { return String::new() };
    let last_two: Vec<&str> = first.rsplit('/').take(2).collect();
    let name: String = last_two.into_iter().rev().collect::<Vec<_>>().join("/");
    let others = if files.len() > 1 { format!(" +{}", files.len() - 1) } else { String::new() };
    let (length, room) = (name.chars().count(), NAME - others.len());
    let name =
        if length > room { format!("…{}", name.chars().skip(length + 1 - room).collect::<String>()) } else { name };
    name + &others
}

fn described(entry: &Entry) -> Value {
    let state = match entry.state {
        State::Ready => "ready",
        State::InUse => "in use",
        State::OtherVersion => "other version",
        State::Unfinished => "incomplete",
    };
    let seconds = entry.last_used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut all =
        json!({"path": entry.path.display().to_string(), "bytes": entry.bytes, "state": state, "last_used": seconds});
    if let Some(content) = &entry.content {
        all["task"] = content.task.into();
        all["examples"] = content.examples.into();
        all["tokens"] = content.tokens.into();
        all["data"] = json!(content.origin.files);
        all["tokenizer"] = json!(content.origin.tokenizer);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_in_their_column() {
        let name = |files: &[&str]| name(&files.iter().map(|&file| file.to_owned()).collect::<Vec<_>>());
        assert_eq!(name(&[]), "");
        assert_eq!([999_999, 1_270_000, 3_000_000_000].map(count), ["999999", "1.3 M", "3.0 G"]);
        assert_eq!(name(&["/data/bbc/train.jsonl"]), "bbc/train.jsonl");
        assert_eq!(name(&["/a/0123456789/train.jsonl", "/a/b"]), "…6789/train.jsonl +1");
        assert_eq!(name(&["/a/0123456789/train.jsonl", "/a/b"]).chars().count(), NAME);
    }
}
