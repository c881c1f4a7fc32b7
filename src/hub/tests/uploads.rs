//! A model folder is uploaded as the Hub's API wants it.

use super::downloads::{CONFIG, repo, weights};
use super::server::{Fault, Server, sha256};
use crate::hub::{Hub, Settings};
use serde_json::{Value, json};
use std::fs;

/// A model folder with a file in parts, one in one piece, a small one, and what is not uploaded.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, body: &[u8]| fs::write(dir.path().join(name), body).unwrap();
    write("config.json", CONFIG);
    write("model.safetensors", &weights());
    write("tokenizer.json", &[b' '; 1500]);
    write("README.md", b"");
    write("ignored.txt", b"x");
    write("trainer_state.json", b"{}");
    write(".hidden", b"x");
    fs::create_dir(dir.path().join("optimizer")).unwrap();
    dir
}

#[test]
fn a_folder_becomes_one_commit() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let server = Server::start(&[]);
    // The repository and the branch are there already; the storage fails once.
    server.fail("/repos/create", &[Fault::Status(409, vec![])]);
    server.fail("/branch/", &[Fault::Status(409, vec![])]);
    server.fail("/put/", &[Fault::Status(500, vec![])]);
    let url = server.hub(cache.path()).push(dir.path(), &repo("org/a@new"), true).unwrap();
    assert!(url.ends_with("/org/a/commit/1"));
    let create: Value = serde_json::from_slice(&server.requests("/repos/create")[0].body).unwrap();
    let wanted = json!({"type": "model", "organization": "org", "name": "a", "visibility": "private"});
    assert_eq!(create, wanted);
    // Large files are in the storage, which got no token.
    let (sum, small) = (sha256(&weights()), sha256(&[b' '; 1500]));
    let stored = server.stored();
    let parts: Vec<u8> = (1..=5).flat_map(|part| stored[&format!("/put/{sum}/{part}")].clone()).collect();
    assert_eq!((parts, &stored[&format!("/put/{small}")]), (weights(), &vec![b' '; 1500]));
    assert!(server.requests("").iter().all(|r| r.headers.contains_key("authorization") == r.path.starts_with("/hub/")));
    let complete = server.requests(&format!("/put/{sum}")).into_iter().find(|r| r.method == "POST").unwrap();
    let complete: Value = serde_json::from_slice(&complete.body).unwrap();
    assert_eq!((&complete["oid"], &complete["parts"][4]), (&json!(sum), &json!({"partNumber": 5, "etag": "\"1000\""})));
    assert_eq!(server.requests("/verify/").len(), 2);
    let commit = server.requests("/commit/new").remove(0);
    assert_eq!(commit.headers["content-type"], "application/x-ndjson");
    let lines = String::from_utf8(commit.body).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value| format!("{} {}", line["key"].as_str().unwrap(), line["value"]["path"].as_str().unwrap());
    let expected = ["file README.md", "file config.json", "lfsFile model.safetensors", "lfsFile tokenizer.json"];
    assert_eq!(lines[1..].iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!(lines[0]["key"], "header");
    // base64 of {"model_type": "bert"}
    assert_eq!(lines[2]["value"]["content"], "eyJtb2RlbF90eXBlIjogImJlcnQifQ==");
    assert_eq!(lines[3]["value"], json!({"path": "model.safetensors", "algo": "sha256", "oid": sum, "size": 5000}));
}

#[test]
fn an_upload_that_cannot_work_is_refused() {
    let (dir, cache) = (folder(), tempfile::tempdir().unwrap());
    let server = Server::start(&[]);
    let push = |settings: Settings| Hub::new(settings).unwrap().push(dir.path(), &repo("org/a"), false);
    let refused = |settings: Settings| push(settings).unwrap_err().to_string();
    let settings = server.settings(cache.path());
    assert!(refused(Settings { token: None, ..settings.clone() }).contains("needs a token that may write"));
    let offline = Settings { offline: Some("HF_HUB_OFFLINE"), ..settings.clone() };
    assert!(refused(offline).contains("HF_HUB_OFFLINE is set"));
    assert!(server.requests("").is_empty());
    // No right to create repositories, but this one exists.
    server.fail("/repos/create", &[Fault::Status(403, vec![])]);
    push(settings.clone()).unwrap();
    server.fail("/preupload/", &[Fault::Status(403, vec![("X-Error-Message", "read only")])]);
    let message = refused(settings.clone());
    assert!(message.contains("refuses this (403: read only): use a token with the permission"), "{message}");
    // A commit whose answer is lost is not made twice.
    let before = server.requests("/commit/").len();
    server.fail("/commit/", &[Fault::Status(400, vec![("X-Error-Message", "bad card")])]);
    assert!(refused(settings.clone()).contains("answers 400: bad card"));
    assert_eq!(server.requests("/commit/").len(), before + 1);
    for (absent, says) in [("model.safetensors", "without weights"), ("config.json", "expected a model folder")] {
        fs::remove_file(dir.path().join(absent)).unwrap();
        assert!(refused(settings.clone()).contains(says));
    }
}
