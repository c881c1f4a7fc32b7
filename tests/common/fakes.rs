//! The fake libcuda and libnccl (`tests/fakes`) in a folder from which the loader loads them instead of the real ones.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const BUILD: &str = "cargo build --release -p fake-cuda -p fake-nccl";

/// A folder with `libcuda.so.1` and `libnccl.so.2`.
pub struct Fakes(tempfile::TempDir);

impl Fakes {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(built("cuda"), folder.path().join("libcuda.so.1")).unwrap();
        symlink(built("nccl"), folder.path().join("libnccl.so.2")).unwrap();
        Fakes(folder)
    }

    /// The same, with an NCCL that lacks a function.
    pub fn without(function: &str) -> Self {
        let fakes = Fakes::new();
        let mut library = fs::read(built("nccl")).unwrap();
        let name = [b"\0", function.as_bytes(), b"\0"].concat();
        let places: Vec<usize> =
            (0..library.len() - name.len()).filter(|&at| library[at..].starts_with(&name)).collect();
        assert!(!places.is_empty(), "the fake NCCL has no {function}");
        // Rename it in the symbol table, so that the loader cannot find it.
        places.into_iter().for_each(|at| library[at + function.len()] = b'_');
        fs::remove_file(fakes.path("libnccl.so.2")).unwrap();
        fs::write(fakes.path("libnccl.so.2"), library).unwrap();
        fakes
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a command load them instead of the real libraries.
    pub fn load_in<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let before = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let path = format!("{}:{before}", self.0.path().display());
        command.env("LD_LIBRARY_PATH", path.trim_end_matches(':')).env_remove("TRAINER_NCCL_PATH")
    }
}

/// Returns the path of a fake library in the build folder, next to the folder of this test.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).expect("a test lies in target/PROFILE/deps");
    let library = folder.join(format!("libfake_{name}.so"));
    assert!(library.exists(), "{} does not exist: run `{BUILD}` (as launch/test.sh does)", library.display());
    library
}
