//! The output folder: whether it is writable, shared by all hosts, large and fast enough.

use super::finding::Finding;
use crate::doctor::facts::{Facts, Folder};
use crate::observe::memory::human;

/// Bytes for a checkpoint of a small model.
const NEEDED: u64 = 1 << 30;
/// Bytes for a few checkpoints of a model with 1e9 parameters (14 GB each).
const ADVISED: u64 = 20 << 30;
/// Bytes per second below which a folder is slow.
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
        format!("checking {} did not finish: {error}", folder.named),
        "training writes there while all ranks wait",
        "check on the host of the named rank whether the file system responds (`df`, `dmesg`; every access to an \
         unreachable server hangs), and whether that rank is stopped or killed"
            .to_owned(),
    ))
}

fn not_writable(folder: &Folder) -> Option<Finding> {
    // A host that does not see the folder has another finding.
    let elsewhere =
        folder.hosts.iter().filter(|host| host.not_seen.is_empty()).find_map(|host| host.write_error.as_ref());
    let error = folder.write_error.as_ref().or(elsewhere)?;
    Some(Finding::problem(
        "folder-not-writable",
        format!("cannot write a file to {}: {error}", folder.path),
        "rank 0 writes checkpoints and metrics there; the run ends if it cannot",
        "set output_dir to a writable folder on a file system that is not mounted read-only".to_owned(),
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
            "rank 0 writes checkpoints there, and every host reads them to resume",
            "set output_dir to a folder on a file system that all hosts mount (NFS, Lustre, ...), with the same path \
             on each; in containers, mount it into each"
                .to_owned(),
        )
    })
}

fn little_space(folder: &Folder) -> Option<Finding> {
    let free = folder.free_bytes.filter(|&free| free < ADVISED)?;
    let seen = format!("{} has {} free", folder.path, human(free));
    let why = "a checkpoint needs 12 to 14 bytes per parameter (12 to 14 GB for 1e9 parameters); save_total_limit of \
               them are kept, and one more while saving";
    let remedy = "free some space, choose another output_dir, or set train.save_total_limit".to_owned();
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
            format!("writing to {} reaches {}/s, flushed", folder.path, human(speed as u64)),
            "all ranks wait while a checkpoint is written (14 bytes per parameter)",
            "use a faster file system or a larger train.save_steps; comm.timeout_seconds must be longer than a save"
                .to_owned(),
        )
    })
}

fn in_memory(folder: &Folder) -> Option<Finding> {
    folder.file_system.as_deref().filter(|kind| matches!(*kind, "tmpfs" | "ramfs")).map(|kind| {
        Finding::warning(
            "folder-in-memory",
            format!("{} is in memory ({kind})", folder.path),
            "checkpoints there use memory that training needs, and are lost when the host restarts",
            "set output_dir to a folder on a disk".to_owned(),
        )
    })
}
