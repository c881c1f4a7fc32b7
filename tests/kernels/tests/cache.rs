//! The cache of compiled kernels, and NVRTC that is missing.

use kernel_tests::{cache_folder, cache_name, cached, compile};
use std::{env, fs};

#[test]
fn a_name_depends_on_everything_that_determines_the_result() {
    let name = cache_name("source", 1, "sm_90", "13.0");
    assert!(name.len() == 46 && name.ends_with(".cubin"), "{name}");
    assert_eq!(name, cache_name("source", 1, "sm_90", "13.0"));
    for other in [
        cache_name("sourcf", 1, "sm_90", "13.0"),
        cache_name("source", 2, "sm_90", "13.0"),
        cache_name("source", 1, "sm_80", "13.0"),
        cache_name("source", 1, "sm_90", "13.1"),
    ] {
        assert_ne!(name, other);
    }
}

#[test]
fn a_file_is_written_once_and_again_if_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new/kernels");
    let (folder, file) = (folder.to_str().unwrap(), folder.join("x.cubin"));
    assert_eq!(cached(folder, "x.cubin", None), Err("compiled".into()), "nothing is there");
    assert!(!file.exists(), "an error leaves nothing");
    assert_eq!(cached(folder, "x.cubin", Some("first\nline")).unwrap(), "first\nline");
    assert_eq!(cached(folder, "x.cubin", None).unwrap(), "first\nline");
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&[][..], &whole[..20], &whole[..whole.len() - 1], &flipped, &[&whole[..], b"x"].concat()] {
        fs::write(&file, damaged).unwrap();
        assert_eq!(cached(folder, "x.cubin", None), Err("compiled".into()), "{damaged:?}");
        assert_eq!(cached(folder, "x.cubin", Some("first\nline")).unwrap(), "first\nline");
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
    let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["x.cubin"], "no temporary file stays");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_no_error() {
    for folder in ["", "/proc/nowhere", "/dev/null/x"] {
        assert_eq!(cached(folder, "x.cubin", Some("result")).unwrap(), "result");
        assert_eq!(cached(folder, "x.cubin", None), Err("compiled".into()));
    }
}

/// Changes the environment, so it is the only test here that reads it.
#[test]
fn the_folder_is_in_the_users_cache() {
    let with = |cache: Option<&str>, home: Option<&str>| {
        for (name, value) in [("XDG_CACHE_HOME", cache), ("HOME", home)] {
            // SAFETY: no other thread of this process reads or writes the environment.
            unsafe {
                match value {
                    Some(value) => env::set_var(name, value),
                    None => env::remove_var(name),
                }
            }
        }
        cache_folder()
    };
    assert_eq!(with(Some("/a"), Some("/b")), "/a/trainer/kernels");
    assert_eq!(with(Some("relative"), Some("/b")), "/b/.cache/trainer/kernels");
    assert_eq!(with(None, Some("/b")), "/b/.cache/trainer/kernels");
    assert_eq!(with(None, None), "");
}

#[test]
fn a_library_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("libnvrtc.so.13"), "no library").unwrap();
    let folders = folder.path().to_str().unwrap();
    match compile(folders, 0, "sm_90", "") {
        Err(error) => assert!(error.contains("NVRTC was not found") && error.contains(folders), "{error}"),
        // The loader knows another one.
        Ok(found) => assert!(!found.contains(folders), "{found}"),
    }
}
