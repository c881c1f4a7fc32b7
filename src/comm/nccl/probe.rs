//! Finds the NCCL library, and reports if it is missing, too old or incomplete.

use crate::comm::ffi::library::Library;
use crate::comm::ffi::nccl::Nccl;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Environment variable with NCCL's file or folder.
pub const PATH_VARIABLE: &str = "TRAINER_NCCL_PATH";
/// NCCL's variable that allows several ranks per GPU, and the first version with it, in NCCL's numbering.
const SHARING_VARIABLE: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
const SHARES_FROM: i32 = 23000;
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// End of every error message of [`probe`].
pub const REMEDY: &str = "Install NCCL (for example the pip package nvidia-nccl-cu13), and set \
                      TRAINER_NCCL_PATH to the folder of libnccl.so.2 if the loader does not find it";

/// The NCCL of this machine.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Version such as "2.29.7".
    pub version: String,
    pub path: String,
    /// Whether it could create a unique id, which needs a network interface but no GPU.
    pub unique_id: bool,
    pub sharing: Sharing,
}

/// Whether several ranks may share a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sharing {
    /// Not requested.
    #[default]
    Unwanted,
    /// Requested, but not supported by this NCCL.
    TooOld,
    Allowed,
}

impl Sharing {
    /// Determines it from the environment and NCCL's version.
    fn new(wanted: bool, version: i32) -> Sharing {
        match wanted {
            false => Sharing::Unwanted,
            true if version < SHARES_FROM => Sharing::TooOld,
            true => Sharing::Allowed,
        }
    }

    /// Returns the remedy for more ranks than GPUs.
    pub fn remedy(self) -> &'static str {
        match self {
            Sharing::TooOld => {
                "start one rank per GPU: NCCL_MULTI_RANK_GPU_ENABLE, which lets ranks share one, needs NCCL 2.30 or \
                 newer, and this one is older"
            }
            _ => {
                "start one rank per GPU, or let ranks share GPUs with NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL 2.30 or \
                 newer; for tests only, because they share memory and compute time)"
            }
        }
    }
}

/// Whether the environment allows ranks to share GPUs.
pub fn wants_sharing() -> bool {
    std::env::var(SHARING_VARIABLE).is_ok_and(|value| value.trim().parse::<i64>().is_ok_and(|n| n != 0))
}

/// Finds NCCL; needs no GPU.
///
/// # Errors
/// If it is missing or lacks a function that we call; the message has the remedy.
pub fn probe() -> Result<Probe> {
    let Found { nccl, version, path, sharing } = load()?;
    Ok(Probe { version: dotted(version), path, unique_id: nccl.unique_id().is_ok(), sharing })
}

/// A usable library.
pub(super) struct Found {
    pub nccl: Arc<Nccl>,
    pub version: i32,
    pub path: String,
    pub sharing: Sharing,
}

pub(super) fn load() -> Result<Found> {
    let chosen = std::env::var(PATH_VARIABLE).ok().filter(|path| !path.is_empty());
    load_from(&candidates(chosen.as_deref()))
}

/// Loads the first library that can be loaded, and checks that it has all functions.
fn load_from(candidates: &[String]) -> Result<Found> {
    let mut reasons = Vec::new();
    for candidate in candidates {
        let library = match Library::open(candidate) {
            Ok(library) => library,
            Err(reason) => {
                reasons.push(reason);
                continue;
            }
        };
        let path = loaded_file("libnccl.so").filter(|_| !candidate.contains('/')).unwrap_or_else(|| candidate.clone());
        let nccl = Nccl::load(library).map_err(|missing| {
            Error::input(format!("{path} lacks the NCCL functions {}. {REMEDY}", missing.join(", ")))
        })?;
        let version = nccl.version()?;
        let sharing = Sharing::new(wants_sharing(), version);
        return Ok(Found { nccl: Arc::new(nccl), version, path, sharing });
    }
    Err(Error::input(format!("NCCL was not found ({}). {REMEDY}", reasons.join("; "))))
}

/// Returns the paths to try: only the user's if set; otherwise the loader's, and next to libtorch as pip installs it.
fn candidates(chosen: Option<&str>) -> Vec<String> {
    let in_folder = |folder: PathBuf| NAMES.map(|name| folder.join(name).display().to_string());
    match chosen {
        Some(path) if Path::new(path).is_dir() => in_folder(path.into()).to_vec(),
        Some(path) => vec![path.to_string()],
        None => NAMES.map(str::to_string).into_iter().chain(folders_beside_libtorch().flat_map(in_folder)).collect(),
    }
}

/// Returns the folders in which pip installs NCCL.
fn folders_beside_libtorch() -> impl Iterator<Item = PathBuf> {
    let libtorch = loaded_file("libtorch_cpu.so").and_then(|file| Some(Path::new(&file).parent()?.to_path_buf()));
    libtorch.into_iter().flat_map(|lib| [lib.join("../../nvidia/nccl/lib"), lib])
}

/// Returns the NCCL next to libtorch, if there is one, whether or not it is used.
pub fn beside_libtorch() -> Option<PathBuf> {
    let files = folders_beside_libtorch().flat_map(|folder| NAMES.map(|name| folder.join(name)));
    files.filter_map(|file| std::fs::canonicalize(file).ok()).next()
}

/// Returns the path of a loaded library whose name starts with `name`.
pub fn loaded_file(name: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find_map(|path| {
        let file = Path::new(path).file_name()?.to_str()?;
        file.starts_with(name).then(|| path.to_string())
    })
}

/// Formats NCCL's version number.
fn dotted(version: i32) -> String {
    format!("{}.{}.{}", version / 10000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absence_and_strangers_are_errors_with_a_remedy() {
        let nothing = load_from(&candidates(Some("/nowhere/libnccl.so.2"))).err().unwrap().to_string();
        assert!(nothing.contains("NCCL was not found") && nothing.contains("/nowhere/libnccl.so.2"), "{nothing}");
        let folder = tempfile::tempdir().unwrap();
        let empty = load_from(&candidates(folder.path().to_str())).err().unwrap().to_string();
        assert!(empty.contains("libnccl.so.2") && empty.contains("TRAINER_NCCL_PATH"), "{empty}");
        let stranger = load_from(&["libc.so.6".to_string()]).err().unwrap().to_string();
        assert!(stranger.contains("lacks the NCCL functions ncclGetVersion, ncclGetUniqueId"), "{stranger}");
    }

    #[test]
    fn versions_read_like_versions() {
        assert_eq!(dotted(22907), "2.29.7");
    }

    #[test]
    fn ranks_share_gpus_where_that_is_wanted_and_possible() {
        assert_eq!(Sharing::new(false, 23007), Sharing::Unwanted);
        assert_eq!(Sharing::new(true, 22809), Sharing::TooOld);
        assert_eq!(Sharing::new(true, 23000), Sharing::Allowed);
        assert!(Sharing::TooOld.remedy().contains("2.30 or newer, and this one is older"));
        assert!(Sharing::Unwanted.remedy().contains("NCCL_MULTI_RANK_GPU_ENABLE=1"));
    }

    #[test]
    fn looks_beside_libtorch() {
        let places = candidates(None);
        assert_eq!(places[..2], NAMES.map(str::to_string));
        assert!(places.iter().any(|place| place.ends_with("nvidia/nccl/lib/libnccl.so.2")), "{places:?}");
    }
}
