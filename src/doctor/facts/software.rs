//! Collects the versions and paths of the libraries that this process uses.

use super::{Library, Libtorch, Program, Software};
use crate::comm::mpi::library_version;
use crate::comm::nccl::probe::{REMEDY, Sharing, beside_libtorch, loaded_file, probe};
use crate::error::Result;
use crate::ffi;
use std::fs::{self, File};
use std::path::Path;
use tch::utils;

impl Software {
    /// Inspects this process. Loads NCCL if it is installed.
    pub fn collect() -> Software {
        let (nccl, nccl_sharing, nccl_error) = match probe() {
            Ok(found) => {
                let path = fs::canonicalize(&found.path).map_or(found.path, |path| path.display().to_string());
                (Some(Library { version: found.version, path }), found.sharing, None)
            }
            // The findings add the remedy.
            Err(e) => {
                let reason = e.to_string().trim_end_matches(REMEDY).trim_end_matches(". ").to_owned();
                (None, Sharing::Unwanted, Some(reason))
            }
        };
        Software {
            trainer: program(),
            libtorch: libtorch(),
            mpi: Library {
                version: one_line(&library_version()),
                path: loaded_file("libmpi.so").or_else(|| loaded_file("libmpi")).unwrap_or_default(),
            },
            nccl,
            nccl_sharing,
            nccl_error,
            nccl_beside_libtorch: beside_libtorch().map(|path| path.display().to_string()),
            kernels: (tch::Cuda::device_count() > 0)
                .then(|| ffi::kernels::state(0).unwrap_or_else(|e| format!("not usable: {e}"))),
            driver: fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| kernel_driver(&text)),
        }
    }
}

fn program() -> Program {
    let path = std::env::current_exe().unwrap_or_default();
    Program {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        digest: digest(&path).unwrap_or_default(),
        path: path.display().to_string(),
    }
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn libtorch() -> Libtorch {
    // None for a relocatable build, which accepts any libtorch of its version.
    let built_with = option_env!("TRAINER_LIBTORCH_FOLDER").map(|folder| {
        let file = Path::new(folder).join("libtorch_cpu.so");
        // The loader reports the real path, without links.
        fs::canonicalize(&file).unwrap_or(file).display().to_string()
    });
    Libtorch {
        version: ffi::libtorch_version(),
        path: loaded_file("libtorch_cpu.so").unwrap_or_default(),
        built_with: built_with.unwrap_or_default(),
        // Query the runtime version only in a CUDA build; other builds throw.
        cuda: utils::has_cudart().then(utils::version_cudart).map(|v| format!("{}.{}", v / 1000, v % 1000 / 10)),
    }
}

/// Returns the version, such as "580.65.06", from the text of the NVIDIA kernel module.
fn kernel_driver(text: &str) -> Option<String> {
    let line = text.lines().next()?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_owned)
}

/// Returns the first part of an MPI library's version text: "Open MPI v4.1.4, package: ...".
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().split(", package").next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_texts_are_parsed() {
        let nvidia =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (a@b)  Sun\nGCC";
        assert_eq!(kernel_driver(nvidia).as_deref(), Some("580.65.06"));
        assert_eq!(
            one_line("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4"),
            "Open MPI v4.1.4"
        );
        assert_eq!(one_line("MPICH Version:      4.0.2\nMPICH Release date: x\n"), "MPICH Version:      4.0.2");
    }

    #[test]
    fn this_process_is_inspected() {
        let libtorch = libtorch();
        assert!(libtorch.version.starts_with("2."), "{libtorch:?}");
        assert!(libtorch.path.contains("libtorch_cpu.so"), "{libtorch:?}");
        assert_eq!(program().digest.len(), 32);
    }
}
