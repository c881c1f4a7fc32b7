//! The output folder: whether it can be written, is one for all, is large and fast enough.

use super::finding::Finding;
use crate::doctor::facts::{Facts, Folder};
use crate::observe::memory::human;

/// A checkpoint of a small model, at least.
const NEEDED: u64 = 1 << 30;
/// Some of a model of a billion parameters (14 GB each).
const ADVISED: u64 = 20 << 30;
/// Bytes a second.
const SLOW: f64 = 50e6;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let Some(folder) = &facts.folder else { return Vec::new() };
    [failed(folder), not_writable(folder), not_shared(folder), little_space(folder), slow(folder), in_memory(folder)]
        .into_iter()
        .flatten()
        .collect()
}

fn failed(folder: &Folder) -> Option<Finding> {
    let error = folder.error.as_ref()?;
    Some(Finding::problem(
        "folder-failed",
        format!("the look at {} did not come to its end: {error}", folder.named),
        "training writes there, and all ranks wait for it",
        "see on the host of the rank that is named whether the file system answers (`df`, `dmesg`): each access to a \
         server that is gone hangs; and whether that rank is stopped or killed"
            .to_owned(),
    ))
}

fn not_writable(folder: &Folder) -> Option<Finding> {
    // On a host that does not see the folder at all, that is another finding.
    let elsewhere =
        folder.hosts.iter().filter(|host| host.not_seen.is_empty()).find_map(|host| host.write_error.as_ref());
    let error = folder.write_error.as_ref().or(elsewhere)?;
    Some(Finding::problem(
        "folder-not-writable",
        format!("a file cannot be written to {}: {error}", folder.path),
        "rank 0 writes checkpoints and metrics there, and the run ends when it cannot",
        "set output_dir to a folder that you may write to, on a file system that is not mounted read-only".to_owned(),
    ))
}

fn not_shared(folder: &Folder) -> Option<Finding> {
    let blind: Vec<String> = folder
        .hosts
        .iter()
        .filter(|host| !host.not_seen.is_empty())
        .map(|host| {
            let error = host.write_error.as_ref().map_or_else(String::new, |e| format!(" ({e})"));
            format!("{} (rank {}) does not see the file of {}{error}", host.host, host.rank, host.not_seen.join(", "))
        })
        .collect();
    (!blind.is_empty()).then(|| {
        Finding::problem(
            "folder-not-shared",
            format!("{} is not the same folder on all hosts: {}", folder.path, blind.join("; ")),
            "rank 0 writes checkpoints there, and to resume from one every host reads it",
            "set output_dir to a folder on a file system that all hosts mount (NFS, Lustre, ...), and name it by a path \
             that is the same on all; in containers, mount it into each"
                .to_owned(),
        )
    })
}

fn little_space(folder: &Folder) -> Option<Finding> {
    let free = folder.free_bytes.filter(|&free| free < ADVISED)?;
    let seen = format!("{} has {} free", folder.path, human(free));
    let why = "a checkpoint takes 12 to 14 bytes a parameter (12 to 14 GB for a billion), and save_total_limit of them \
               are kept, one more while saving";
    let remedy = "make room, choose another output_dir, or set train.save_total_limit".to_owned();
    Some(match free < NEEDED {
        true => Finding::problem("folder-little-space", seen, why, remedy),
        false => Finding::note("folder-little-space", seen, why, remedy),
    })
}

fn slow(folder: &Folder) -> Option<Finding> {
    let (bytes, seconds) = (folder.written_bytes? as f64, folder.written_seconds?);
    let speed = bytes / seconds.max(1e-9);
    (speed < SLOW).then(|| {
        Finding::warning(
            "folder-slow",
            format!("{} takes {}/s, flushed", folder.path, human(speed as u64)),
            "all ranks wait while a checkpoint is written: 14 bytes a parameter",
            "choose a faster file system, or a larger train.save_steps; comm.timeout_seconds must be longer than a save"
                .to_owned(),
        )
    })
}

fn in_memory(folder: &Folder) -> Option<Finding> {
    folder.file_system.as_deref().filter(|kind| matches!(*kind, "tmpfs" | "ramfs")).map(|kind| {
        Finding::warning(
            "folder-in-memory",
            format!("{} lies in memory ({kind})", folder.path),
            "checkpoints there take memory from training, and are gone after a restart of the host",
            "set output_dir to a folder on a disk".to_owned(),
        )
    })
}
