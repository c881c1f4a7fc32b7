use super::*;
use crate::checkpoint::formats::{bundle, table};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/formats")
}

fn open(name: &str) -> FileBytes {
    FileBytes::open(&folder().join(name)).unwrap()
}

fn message(name: &str) -> String {
    tensors(&open(name)).unwrap_err().to_string()
}

/// Row-major bytes, dtype and shape of all tensors.
fn values(file: &FileBytes, tensors: &[(String, Stored)]) -> Vec<(String, Vec<u8>, String)> {
    let each = tensors.iter().map(|(name, stored)| {
        let bytes = stored.elements(file, 0..stored.count()).unwrap().0.into_owned();
        (name.clone(), bytes, format!("{:?} {:?}", stored.dtype, stored.shape))
    });
    each.collect()
}

#[test]
fn every_container_holds_what_torch_load_gives() {
    let expected = fs::read(folder().join("torch/expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    for name in ["zip", "legacy", "protocol-4"] {
        let file = open(&format!("torch/{name}.bin"));
        let found = tensors(&file).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (tensor, bytes, form) in values(&file, &found) {
            let wanted = expected.tensor(&tensor).unwrap();
            assert_eq!(form, format!("{:?} {:?}", wanted.dtype(), wanted.shape()), "{name}: {tensor}");
            assert_eq!(bytes, wanted.data(), "{name}: {tensor}");
        }
        let of = |tensor: &str| found.iter().find(|(name, _)| name == tensor).unwrap().1.clone();
        assert_eq!(of("tied.a"), of("tied.b"), "{name}: one storage");
    }
}

#[test]
fn a_pickle_that_calls_something_is_refused_by_name() {
    for (name, says) in [
        ("calls-system", "posix.system"),
        ("calls-legacy", "posix.system"),
        ("calls-eval", "builtins.eval"),
        ("calls-object", "__main__.Object"),
    ] {
        let message = message(&format!("torch/{name}.bin"));
        assert!(message.contains(&format!("this pickle has {says}, which no dict of tensors has")), "{message}");
        assert!(message.contains("nothing of it was executed"), "{message}");
    }
    assert!(!Path::new("executed-by-a-pickle").exists());
    assert!(message("torch/nested.bin").contains("model is not a tensor but has others in it: save only the weights"));
    assert!(message("torch/list.bin").contains("it has no dict of tensors"));
}

/// Every opcode that is not read is refused by its name.
#[test]
fn other_opcodes_are_refused_by_name() {
    for (opcode, says) in [(b'i', "INST"), (b'o', "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT1"), (0xff, "0xff")] {
        let refusal = Pickle::default().read(&[0x80, 2, opcode], 0).unwrap_err();
        assert_eq!(refusal, Refusal::Unknown(format!("opcode {says}")));
    }
}

/// Texts and lists that are used again and again need no memory each time.
#[test]
fn repeated_values_need_little_memory() {
    let mut bytes = b"\x80\x02X".to_vec();
    bytes.extend_from_slice(&60_000u32.to_le_bytes());
    bytes.extend_from_slice(&[b'a'; 60_000]);
    bytes.extend_from_slice(b"q\x00]q\x01");
    // A list within itself, many times.
    (0..50_000).for_each(|_| bytes.extend_from_slice(b"h\x01a"));
    // A dict with the same long name for each of many values.
    bytes.extend_from_slice(b"}(");
    (0..50_000).for_each(|_| bytes.extend_from_slice(b"h\x00N"));
    bytes.extend_from_slice(b"u.");
    let mut pickle = Pickle::default();
    let (root, end) = pickle.read(&bytes, 0).unwrap();
    assert_eq!((root, end), (Value::Dict(0), bytes.len()));
    assert_eq!((pickle.lists[0].len(), pickle.dicts[0].len()), (50_000, 50_000));
}

/// What a reader does with a damaged file: an error, or tensors within the file; no panic.
fn check(path: &Path, bytes: &[u8], read: impl Fn(&FileBytes) -> Result<Vec<(String, Stored)>>) {
    fs::write(path, bytes).unwrap();
    let file = FileBytes::open(path).unwrap();
    if let Ok(tensors) = read(&file) {
        let total: usize = tensors.iter().map(|(_, stored)| stored.count() * stored.width()).sum();
        assert!(total <= tensors.len() * bytes.len());
        values(&file, &tensors);
    }
}

/// Changes a file in every way that is tried: cut at each of many places, and with many bytes changed.
fn damage(original: &[u8], path: &Path, read: impl Fn(&FileBytes) -> Result<Vec<(String, Stored)>> + Copy) {
    for length in (0..original.len()).step_by(original.len().div_ceil(150)) {
        check(path, &original[..length], read);
    }
    for (i, at) in (0..original.len()).step_by(original.len().div_ceil(900)).enumerate() {
        let mut bytes = original.to_vec();
        bytes[at] ^= [0x01, 0x80, 0xff][i % 3];
        check(path, &bytes, read);
    }
}

#[test]
fn damaged_files_are_errors_or_tensors_within_the_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["zip", "legacy", "protocol-4"] {
        let original = fs::read(folder().join(format!("torch/{name}.bin"))).unwrap();
        damage(&original, &dir.path().join("a.bin"), tensors);
    }
    let original = fs::read(folder().join("bert-tensorflow/bert_model.ckpt.index")).unwrap();
    let data = "bert_model.ckpt.data-00000-of-00001";
    fs::copy(folder().join("bert-tensorflow").join(data), dir.path().join(data)).unwrap();
    let data = FileBytes::open(&dir.path().join(data)).unwrap();
    let index = dir.path().join("bert_model.ckpt.index");
    damage(&original, &index, |file| {
        table::read(file)?;
        bundle::tensors(&data).map(|_| Vec::new())
    });
}

#[test]
fn a_cut_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let original = fs::read(folder().join("torch/zip.bin")).unwrap();
    let path = dir.path().join("pytorch_model.bin");
    fs::write(&path, &original[..original.len() / 2]).unwrap();
    let message = tensors(&FileBytes::open(&path).unwrap()).unwrap_err().to_string();
    assert!(message.contains("pytorch_model.bin: not a complete weight file") && message.contains("download"));
    fs::write(&path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n").unwrap();
    let message = FileBytes::open(&path).unwrap_err().to_string();
    assert!(message.contains("pytorch_model.bin: only a Git LFS pointer") && message.contains("git lfs pull"));
}

/// The checkpoint that TensorFlow wrote has the weights of the case, under the names of transformers.
#[test]
fn a_tensorflow_checkpoint_is_the_case_that_it_was_made_from() {
    let index = folder().join("bert-tensorflow/bert_model.ckpt.index");
    let files = bundle::data_files(&index).unwrap();
    assert_eq!(files, [index.with_file_name("bert_model.ckpt.data-00000-of-00001")]);
    let file = FileBytes::open(&files[0]).unwrap();
    let found = values(&file, &bundle::tensors(&file).unwrap());
    let expected = fs::read(folder().join("../cases/bert-pretraining/model.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, bytes, form) in found {
        let wanted = expected.tensor(&name).unwrap();
        assert_eq!((form, &bytes[..]), (format!("{:?} {:?}", wanted.dtype(), wanted.shape()), wanted.data()), "{name}");
    }
    let names = safetensors::SafeTensors::names(&expected);
    assert!(names.iter().any(|name| name.ends_with("seq_relationship.weight")), "{names:?}");
}
