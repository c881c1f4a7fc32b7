//! What goes wrong with the network, the server and the rights of the user.

use super::downloads::{CONFIG, repo, weights};
use super::server::{Fault, Server};
use crate::error::{Kind, Result};
use crate::hub::{Hub, Settings};
use std::fs;
use std::path::{Path, PathBuf};

const FILE: &str = "/storage/model.safetensors";

/// Downloads a model from a server with faults; returns the result and the server.
fn with_faults(part: &str, faults: &[Fault]) -> (Result<PathBuf>, Server, tempfile::TempDir) {
    let server = Server::start(&[("config.json", CONFIG), ("model.safetensors", &weights())]);
    server.fail(part, faults);
    let dir = tempfile::tempdir().unwrap();
    let result = server.hub(dir.path()).model(&repo("org/a"), true);
    (result, server, dir)
}

fn complete(result: Result<PathBuf>) {
    assert_eq!(fs::read(result.unwrap().join("model.safetensors")).unwrap(), weights());
}

fn ranges(server: &Server) -> Vec<String> {
    server.requests(FILE).iter().map(|r| r.headers.get("range").cloned().unwrap_or_default()).collect()
}

/// Files of the cache whose names end with `.incomplete`, of at least this size: of other files, which are downloaded at the
/// same time, a small part may be left.
fn left(dir: &Path, size: u64) -> usize {
    let blobs = dir.join("models--org--a/blobs").read_dir().unwrap();
    let left = |path: &Path| path.extension().is_some() && path.metadata().is_ok_and(|file| file.len() >= size);
    blobs.flatten().filter(|entry| left(&entry.path())).count()
}

#[test]
fn a_dropped_connection_is_resumed() {
    let (result, server, _dir) = with_faults(FILE, &[Fault::Drop(1000), Fault::Drop(500)]);
    complete(result);
    assert_eq!(ranges(&server), ["", "bytes=1000-", "bytes=1500-"]);
    // A server without ranges sends all of it again.
    let (result, server, _dir) = with_faults(FILE, &[Fault::Drop(1000), Fault::Whole]);
    complete(result);
    assert_eq!(ranges(&server), ["", "bytes=1000-"]);
    // It does not try forever, and what has arrived stays for the next run.
    let (result, server, dir) = with_faults(FILE, &vec![Fault::Drop(0); 9]);
    let e = result.unwrap_err();
    assert!(e.to_string().contains("org/a: model.safetensors: the connection to"), "{e}");
    assert!(e.to_string().contains("resumes where it stopped"), "{e}");
    assert_eq!((server.requests(FILE).len(), left(dir.path(), 0), e.kind()), (5, 1, Kind::Other));
}

#[test]
fn a_rate_limit_is_waited_for() {
    let limit = |after: &'static str| Fault::Status(429, vec![("Retry-After", after)]);
    let (result, server, _dir) = with_faults("/revision/", &[limit("0"), limit("0"), Fault::Status(503, vec![])]);
    complete(result);
    assert_eq!(server.requests("/revision/").len(), 4);
    let (result, server, _dir) = with_faults("/revision/", &vec![limit("0"); 9]);
    let e = result.unwrap_err();
    assert!(e.to_string().contains("the rate limit of") && e.to_string().contains("(429)"), "{e}");
    assert_eq!(server.requests("/revision/").len(), 5);
}

#[test]
fn a_wrong_file_is_removed() {
    let (result, _server, dir) = with_faults(FILE, &[Fault::Corrupt]);
    let e = result.unwrap_err();
    assert!(
        e.to_string().contains("org/a: model.safetensors: what ") && e.to_string().contains("wrong checksum"),
        "{e}"
    );
    assert_eq!(left(dir.path(), 4999), 0);
    let (result, _server, dir) = with_faults(FILE, &[Fault::Short]);
    let e = result.unwrap_err();
    assert!(e.to_string().contains("sends 4999 bytes of a file of 5000: removed"), "{e}");
    assert_eq!(left(dir.path(), 4999), 0);
    // A small file has a checksum too.
    let (result, ..) = with_faults("config.json", &[Fault::Corrupt]);
    assert!(result.unwrap_err().to_string().contains("config.json: what "));
}

#[test]
fn who_may_not_read_a_model_learns_why() {
    let server = Server::start(&[("config.json", CONFIG), ("tokenizer.json", b"{}")]);
    let dir = tempfile::tempdir().unwrap();
    let code = |code: &'static str| vec![("X-Error-Code", code)];
    let refused = |status: u16, headers: Vec<(&'static str, &'static str)>, token: Option<&str>| {
        server.fail("/revision/", &[Fault::Status(status, headers)]);
        let token = token.map(str::to_owned);
        let hub = Hub::new(Settings { token, ..server.settings(dir.path()) }).unwrap();
        let e = hub.model(&repo("org/a@v2"), true).unwrap_err();
        assert_eq!(e.kind(), Kind::Input);
        e.to_string()
    };
    let (with, without) = (Some("hf_secret"), None);
    for (status, headers, token, says) in [
        (401, vec![], without, "has no such model, or it is private: check the name; for a private one, set HF_TOKEN"),
        (404, code("RepoNotFound"), without, "(there is no local folder of this name either)"),
        (401, vec![], with, "the token (HF_TOKEN, or that of `hf auth login`) is not valid or may not read it"),
        (404, code("RepoNotFound"), with, "has no such model, or the token"),
        (404, code("RevisionNotFound"), with, "has no revision \"v2\" of it"),
        (401, code("GatedRepo"), without, "/hub/org/a; set HF_TOKEN, or log in"),
        (403, code("GatedRepo"), with, "it is gated: accept its conditions at http://127.0.0.1"),
        (403, vec![("X-Error-Message", "not allowed")], with, "refuses this (403: not allowed)"),
    ] {
        let message = refused(status, headers, token);
        assert!(message.starts_with("org/a@v2: ") && message.contains(says), "{status}: {message}");
        assert!(!message.contains("hf_secret"), "{message}");
    }
    let hub = server.hub(dir.path());
    let message = hub.model(&repo("org/a"), true).unwrap_err().to_string();
    assert!(message.contains("no weights that are read"), "{message}");
    server.fail("/revision/", &[Fault::Status(200, vec![])]);
    let message = hub.model(&repo("org/a@v3"), true).unwrap_err().to_string();
    assert!(message.contains("does not list its files as the Hub does"), "{message}");
}
