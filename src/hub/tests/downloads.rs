//! Models and data files are downloaded, found again, and resumed.

use super::server::{COMMIT, Server, etag};
use crate::hub::{Hub, Repo, Settings};
use std::fs;
use std::path::Path;
use std::thread;

pub const CONFIG: &[u8] = b"{\"model_type\": \"bert\"}";

pub fn weights() -> Vec<u8> {
    (0..5000_u32).map(|i| (i * 7 % 251) as u8).collect()
}

pub fn repo(text: &str) -> Repo {
    Repo::model(text).unwrap()
}

fn offline(settings: Settings) -> Hub {
    Hub::new(Settings { offline: Some("HF_HUB_OFFLINE"), ..settings }).unwrap()
}

fn start() -> (Server, tempfile::TempDir) {
    let large = weights();
    let server = Server::start(&[
        ("config.json", CONFIG),
        ("model.safetensors", &large),
        ("onnx/model.onnx", b"no"),
        ("pytorch_model.bin", b"no"),
        ("tokenizer.json", b"{}"),
    ]);
    (server, tempfile::tempdir().unwrap())
}

#[test]
fn only_what_a_model_needs_is_downloaded_once() {
    let (server, dir) = start();
    let hub = server.hub(dir.path());
    let folder = hub.model(&repo("org/a"), false).unwrap();
    let have = |name: &str| folder.join(name).exists();
    assert!(have("config.json") && have("tokenizer.json") && !have("model.safetensors"), "without weights");
    assert_eq!(hub.model(&repo("org/a"), true).unwrap(), folder);
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert!(!have("pytorch_model.bin") && !have("onnx"), "safetensors are enough");
    // The layout of huggingface_hub.
    let root = dir.path().join("models--org--a");
    assert_eq!(folder, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(folder.join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(CONFIG)));
    assert!(!root.join("blobs").read_dir().unwrap().flatten().any(|e| e.path().extension().is_some()), "incomplete");
    // The token goes to the endpoint and to no other host.
    let all = server.requests("");
    assert!(all.iter().all(|r| r.headers.contains_key("authorization") == r.path.starts_with("/hub/")));
    assert_eq!(server.requests("/storage/").len(), 1);
    // Another process asks what has changed, and downloads nothing.
    server.hub(dir.path()).model(&repo("org/a"), true).unwrap();
    assert_eq!((server.requests("/resolve/").len(), server.requests("/revision/").len()), (3, 2));
}

#[test]
fn without_a_network_the_cache_is_used() {
    let (server, dir) = start();
    let settings = server.settings(dir.path());
    let refused = offline(settings.clone()).model(&repo("org/a"), true).unwrap_err().to_string();
    assert!(refused.contains("config.json is not in the cache") && refused.contains("HF_HUB_OFFLINE is set: unset"));
    let folder = server.hub(dir.path()).model(&repo("org/a"), false).unwrap();
    let requests = server.requests("").len();
    let hub = offline(settings.clone());
    assert_eq!(hub.model(&repo("org/a"), false).unwrap(), folder);
    let refused = hub.model(&repo("org/a"), true).unwrap_err().to_string();
    assert!(refused.contains("org/a: model.safetensors is not in the cache"), "{refused}");
    assert_eq!(server.requests("").len(), requests, "no request");
    // A server that does not answer: the port of one that has ended is closed.
    let endpoint = "http://127.0.0.1:1".to_owned();
    let away = Hub::new(Settings { endpoint, ..settings }).unwrap();
    assert_eq!(away.model(&repo("org/a"), false).unwrap(), folder);
    let refused = away.model(&repo("org/b"), false).unwrap_err();
    assert!(refused.to_string().contains("no local folder of this name, and 127.0.0.1:1 cannot be"), "{refused}");
}

#[test]
fn several_files_and_old_mirrors() {
    let parts = [weights(), weights().iter().rev().copied().collect()];
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let index = format!(r#"{{"weight_map": {{"a": "{}", "b": "{}"}}}}"#, names[0], names[1]);
    let server = Server::start(&[
        ("config.json", CONFIG),
        (names[0], &parts[0]),
        (names[1], &parts[1]),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    // A mirror that only gives names: size and checksum come from HEAD.
    server.give_names_only();
    let dir = tempfile::tempdir().unwrap();
    let folder = server.hub(dir.path()).model(&repo("org/a@v1"), true).unwrap();
    for (name, part) in names.iter().zip(&parts) {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), part);
        assert!(dir.path().join("models--org--a/blobs").join(etag(part)).exists());
    }
    let hub = offline(server.settings(dir.path()));
    assert_eq!(hub.model(&repo("org/a@v1"), true).unwrap(), folder);
    fs::remove_file(folder.join(names[1])).unwrap();
    let refused = offline(server.settings(dir.path())).model(&repo("org/a@v1"), true).unwrap_err().to_string();
    assert!(refused.contains(names[1]), "{refused}");
    let refused = hub.model(&repo("org/a@other"), true).unwrap_err().to_string();
    assert!(refused.contains("org/a@other: config.json is not in the cache"), "{refused}");
}

#[test]
fn an_interrupted_download_is_resumed() {
    let (server, dir) = start();
    let blobs = dir.path().join("models--org--a/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let incomplete = blobs.join(format!("{}.incomplete", etag(&weights())));
    fs::write(&incomplete, &weights()[..3000]).unwrap();
    let folder = server.hub(dir.path()).model(&repo("org/a"), true).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    let asked = server.requests("/storage/");
    assert_eq!(asked[0].headers.get("range").map(String::as_str), Some("bytes=3000-"));
    assert!(!incomplete.exists());
    // What is left of another file is downloaded again.
    fs::remove_dir_all(dir.path().join("models--org--a")).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::write(&incomplete, vec![9; 3000]).unwrap();
    let folder = server.hub(dir.path()).model(&repo("org/a"), true).unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights());
    assert_eq!(server.requests("/storage/").len(), 3);
}

#[test]
fn processes_download_a_file_once() {
    let (server, dir) = start();
    thread::scope(|scope| {
        let ranks: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.hub(dir.path()).model(&repo("org/a"), true).unwrap())).collect();
        for rank in ranks {
            assert_eq!(fs::read(rank.join().unwrap().join("model.safetensors")).unwrap(), weights());
        }
    });
    assert_eq!(server.requests("/storage/").len(), 1);
    // A rank that others have downloaded for asks nothing.
    let (hub, requests) = (server.hub(dir.path()), server.requests("").len());
    hub.settle();
    hub.model(&repo("org/a"), true).unwrap();
    assert_eq!(server.requests("").len(), requests);
    assert!(hub.model(&repo("org/a@v1"), false).is_ok() && server.requests("").len() > requests, "not in the cache");
}

#[test]
fn an_adapter_has_its_weights() {
    let server = Server::start(&[("adapter_config.json", b"{}"), ("adapter_model.safetensors", &weights())]);
    let dir = tempfile::tempdir().unwrap();
    let folder = server.hub(dir.path()).model(&repo("org/a"), false).unwrap();
    assert_eq!(fs::read(folder.join("adapter_model.safetensors")).unwrap(), weights());
    assert_eq!(offline(server.settings(dir.path())).model(&repo("org/a"), false).unwrap(), folder);
}

#[test]
fn data_files_and_patterns() {
    let server = Server::start(&[
        ("README.md", b"about"),
        ("data/test.jsonl", b"{}"),
        ("data/train-0.jsonl", b"{\"a\": 0}"),
        ("data/train-1.jsonl", b"{\"a\": 1}"),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let hub = server.hub(dir.path());
    let names = |hub: &Hub, text: &str| -> Result<Vec<String>, String> {
        let paths = hub.data(text).map_err(|e| e.to_string())?;
        assert!(paths.iter().all(|path| path.exists()));
        Ok(paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    };
    let all = "hf://datasets/org/a/data/train-*.jsonl";
    assert_eq!(names(&hub, all).unwrap(), ["train-0.jsonl", "train-1.jsonl"]);
    assert_eq!(names(&hub, "hf://datasets/org/a@v1/README.md").unwrap(), ["README.md"]);
    assert!(dir.path().join("datasets--org--a/refs/v1").exists());
    for (text, says) in [
        ("hf://datasets/org/a/data", "a folder: name its files, or use a pattern: hf://datasets/org/a/data/*.parquet"),
        ("hf://datasets/org/a/data/dev.jsonl", "no such file; "),
        ("hf://datasets/org/a/*.jsonl", "no such file; "),
        ("hf://org/a", "expected hf://datasets/ORG/NAME/PATH"),
    ] {
        let message = names(&hub, text).unwrap_err();
        assert!(message.contains(text) && message.contains(says), "{message}");
    }
    let hub = offline(server.settings(dir.path()));
    assert_eq!(names(&hub, all).unwrap(), ["train-0.jsonl", "train-1.jsonl"]);
    let message = names(&hub, "hf://datasets/org/a/data/test.jsonl").unwrap_err();
    assert!(message.contains("org/a: data/test.jsonl is not in the cache"), "{message}");
}
