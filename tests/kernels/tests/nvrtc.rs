//! All kernels compile with NVRTC, for every element type. No GPU is needed.
//!
//! `TRAINER_TEST_NVRTC` names the folder of `libnvrtc.so`; without it, NVRTC is searched for as the program does, and
//! the tests are skipped if there is none.

use kernel_tests::{compile, compile_source};
use std::path::Path;

/// The folders to search; `None` if there is no NVRTC, which a test may then say.
fn folders() -> Option<String> {
    if let Ok(folder) = std::env::var("TRAINER_TEST_NVRTC") {
        assert!(Path::new(&folder).is_dir(), "TRAINER_TEST_NVRTC = {folder} is no folder");
        return Some(folder);
    }
    let libtorch = env!("KERNELS_LIBTORCH");
    let folders = format!("{libtorch}/../../nvidia/cu13/lib:{libtorch}");
    match compile_source(&folders, "extern \"C\" __global__ void nothing() {}") {
        Ok(()) => Some(folders),
        Err(reason) => {
            assert!(reason.starts_with("NVRTC was not found"), "{reason}");
            eprintln!("SKIPPED: {reason}. Set TRAINER_TEST_NVRTC to the folder of libnvrtc.so");
            None
        }
    }
}

fn compiles_for(architecture: &str) {
    let Some(folders) = folders() else { return };
    for element in 0..3 {
        let found = compile(&folders, element, architecture, "").unwrap_or_else(|e| panic!("element {element}: {e}"));
        assert!(found.starts_with("NVRTC 1") && !found.contains("without"), "{found}");
    }
}

#[test]
fn kernels_compile_for_sm_80() {
    compiles_for("sm_80");
}

#[test]
fn kernels_compile_for_sm_90() {
    compiles_for("sm_90");
}

#[test]
fn a_compiled_file_is_used_again_and_an_error_has_the_log() {
    let Some(folders) = folders() else { return };
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    compile(&folders, 1, "sm_80", cache).unwrap();
    let files: Vec<_> = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let before = std::fs::metadata(&files[0]).unwrap().modified().unwrap();
    compile(&folders, 1, "sm_80", cache).unwrap();
    assert_eq!(std::fs::metadata(&files[0]).unwrap().modified().unwrap(), before);

    let error = compile_source(&folders, "extern \"C\" __global__ void wrong() {\n  nonsense;\n}").unwrap_err();
    assert!(error.contains("do not compile") && error.contains("\"nonsense\" is undefined"), "{error}");
    let error = compile(&folders, 1, "sm_12345", "").unwrap_err();
    assert!(error.contains("gpu-architecture"), "{error}");
}
