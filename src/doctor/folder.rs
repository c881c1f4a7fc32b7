//! Checks the output folder: its disk, and whether all hosts see the same folder.

use super::facts::{Folder, FolderHost, Host};
use super::gather::gather;
use crate::comm::Collective;
use crate::error::Result;
use crate::machine::disk;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Large enough to exceed small caches.
const BYTES: u64 = 64 << 20;
/// Time limit for writing and flushing, which a disk exceeds if it takes longer for 4 MiB: far below the timeout of the
/// other ranks, which wait.
const TIME_LIMIT: Duration = Duration::from_secs(3);
/// A host may see another host's new file a little later: number of attempts, and the pause between them.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// The result of a host's first rank.
#[derive(Serialize, Deserialize)]
struct Part {
    write_error: Option<String>,
    not_seen: Vec<usize>,
}

/// Measures the folder's disk on rank 0. The first rank of each host writes a file, and all these ranks look for all
/// files. `hosts` are the hosts with their lowest ranks. Leaves nothing in the folder. On an error, `folder` has the
/// facts so far.
///
/// # Errors
/// Errors of the collectives. Errors of the disk are facts.
pub fn check(comm: &dyn Collective, named: &Path, hosts: &[(Host, usize)], folder: &mut Folder) -> Result<()> {
    folder.named = named.display().to_string();
    let mine = disk::nearest_existing(named).display().to_string();
    // If the folder does not exist yet, all ranks check where rank 0 would create it.
    let chosen = comm.broadcast_bytes(mine.into_bytes(), 0, "the output folder")?;
    let path = PathBuf::from(String::from_utf8_lossy(&chosen).into_owned());
    (folder.path, folder.file_system) = (path.display().to_string(), disk::kind(&path));
    let id = comm.broadcast_bytes(std::process::id().to_string().into_bytes(), 0, "the output folder")?;
    let id = String::from_utf8_lossy(&id).into_owned();
    if comm.is_main() {
        measure(folder, &path.join(format!(".trainer-doctor-{id}-speed")));
    }
    comm.barrier("measuring the disk")?;
    if hosts.len() > 1 {
        folder.hosts = shared(comm, &path, &id, hosts)?;
    }
    Ok(())
}

fn measure(folder: &mut Folder, file: &Path) {
    // Some file systems report no size.
    if let Some(space) = disk::space(Path::new(&folder.path)).ok().filter(|space| space.total > 0) {
        (folder.total_bytes, folder.free_bytes) = (Some(space.total), Some(space.free));
    }
    write(folder, file);
}

fn write(folder: &mut Folder, file: &Path) {
    // Do not fill the disk.
    let bytes = folder.free_bytes.map_or(BYTES, |free| BYTES.min(free / 4));
    match disk::write_speed(file, bytes, TIME_LIMIT) {
        Ok(written) if bytes == BYTES => {
            (folder.written_bytes, folder.written_seconds) = (Some(written.bytes), Some(written.seconds));
        }
        // For a few bytes, the time is only that of the flush.
        Ok(_) => {}
        Err(e) => folder.write_error = Some(e.to_string()),
    }
}

fn shared(comm: &dyn Collective, path: &Path, id: &str, hosts: &[(Host, usize)]) -> Result<Vec<FolderHost>> {
    let file = |host: usize| path.join(format!(".trainer-doctor-{id}-host-{host}"));
    let mine = hosts.iter().position(|(_, rank)| *rank == comm.rank());
    let written = mine.map(|host| fs::write(file(host), &hosts[host].0.name));
    let write_error = written.and_then(Result::err).map(|e| format!("{}: {e}", path.display()));
    let compared = || {
        let parts = gather(comm, &Part { write_error, not_seen: Vec::new() }, "files of the hosts")?;
        let there: Vec<usize> = (0..hosts.len()).filter(|&host| parts[hosts[host].1].write_error.is_none()).collect();
        let unseen = if mine.is_some() { unseen(&there, hosts, file) } else { Vec::new() };
        Ok((parts, gather(comm, &Part { write_error: None, not_seen: unseen }, "what the hosts see")?))
    };
    let compared: Result<(Vec<Part>, Vec<Part>)> = compared();
    // Also remove the file when a rank is late.
    if let Some(host) = mine {
        _ = fs::remove_file(file(host));
    }
    let (parts, seen) = compared?;
    let name = |&host: &usize| hosts[host].0.name.clone();
    Ok(hosts
        .iter()
        .map(|(host, rank)| FolderHost {
            host: host.name.clone(),
            rank: *rank,
            write_error: parts[*rank].write_error.clone(),
            not_seen: seen[*rank].not_seen.iter().map(name).collect(),
        })
        .collect())
}

/// Returns the hosts whose files cannot be read here, or contain another host's name.
fn unseen(there: &[usize], hosts: &[(Host, usize)], file: impl Fn(usize) -> PathBuf) -> Vec<usize> {
    let seen = |host: usize| fs::read_to_string(file(host)).is_ok_and(|text| text == hosts[host].0.name);
    let mut missing = there.to_vec();
    for _ in 0..ATTEMPTS {
        missing.retain(|&host| !seen(host));
        if missing.is_empty() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::solo::Solo;
    use crate::comm::threads;

    fn host(name: &str) -> Host {
        Host { name: name.into(), boot: String::new() }
    }

    #[test]
    fn one_host_has_nothing_to_share() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("runs/later");
        let mut found = Folder::default();
        check(&Solo::new(tch::Device::Cpu), &named, &[(host("a"), 0)], &mut found).unwrap();
        assert_eq!(found.path, folder.path().display().to_string());
        assert!(found.written_bytes.is_some_and(|bytes| bytes > 0) && found.write_error.is_none(), "{found:?}");
        assert!(found.hosts.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_space_no_speed_is_measured() {
        let place = tempfile::tempdir().unwrap();
        for (free, tells) in [(Some(0), false), (Some(1 << 20), false), (Some(1 << 40), true), (None, true)] {
            let mut folder = Folder { free_bytes: free, ..Folder::default() };
            write(&mut folder, &place.path().join("file"));
            assert_eq!((folder.written_bytes.is_some(), folder.written_seconds.is_some()), (tells, tells), "{free:?}");
            assert_eq!(folder.write_error, None);
        }
    }

    #[test]
    fn nothing_stays_when_a_rank_is_late() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = [(host("a"), 0), (host("b"), 1)];
        // The other rank never takes part.
        let group = threads::group(2, Duration::from_millis(200));
        assert!(shared(&*group[0], folder.path(), "test", &hosts).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn hosts_see_each_other_in_one_folder_only() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let hosts = [(host("a"), 0), (host("b"), 1)];
        let group = threads::group(2, Duration::from_secs(60));
        for (places, not_seen) in [([0, 0], [vec![], vec![]]), ([0, 1], [vec!["b"], vec!["a"]])] {
            let found: Vec<Vec<FolderHost>> = std::thread::scope(|scope| {
                let each = |rank: usize| {
                    let (comm, path) = (group[rank].clone(), folders[places[rank]].path());
                    let hosts = &hosts;
                    scope.spawn(move || shared(&*comm, path, "test", hosts).unwrap())
                };
                [0, 1].map(each).into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(found[0], found[1]);
            let seen: Vec<Vec<String>> = found[0].iter().map(|host| host.not_seen.clone()).collect();
            assert_eq!(seen, not_seen);
            assert!(folders.iter().all(|folder| fs::read_dir(folder.path()).unwrap().count() == 0));
        }
    }
}
