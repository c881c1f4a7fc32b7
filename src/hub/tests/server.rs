//! A Hub on this machine: the parts of its API that are used, in threads, with faults that a test orders.

use crate::hub::{Hub, Settings};
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Closes the connection after so many bytes of the body.
    Drop(usize),
    /// Answers with a status and headers.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// Changes the first byte of the body.
    Corrupt,
    /// Sends a shorter body, of which it says the length.
    Short,
    /// Ignores the range.
    Whole,
}

/// A request that the server got.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Faults of requests whose path contains the text, in order; each happens once.
    faults: Vec<(String, Fault)>,
    requests: Vec<Request>,
    /// Whether the list of files has sizes and checksums.
    bare: bool,
    stored: HashMap<String, Vec<u8>>,
}

/// A running server; it ends with the process.
pub struct Server {
    state: Arc<Mutex<State>>,
    pub address: String,
}

impl Server {
    /// Starts a server that has these files in `org/a`, both as a model and as a data set.
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().files = files.iter().map(|(name, body)| ((*name).to_owned(), body.to_vec())).collect();
        let (shared, own) = (Arc::clone(&state), address.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, address) = (Arc::clone(&shared), own.clone());
                // A client that leaves is a part of some tests.
                thread::spawn(move || _ = serve(stream, &state, &address));
            }
        });
        Server { state, address }
    }

    /// The Hub with its cache in `folder`.
    pub fn hub(&self, folder: &Path) -> Hub {
        Hub::new(self.settings(folder)).unwrap()
    }

    pub fn settings(&self, folder: &Path) -> Settings {
        let token = Some("hf_secret".to_owned());
        let (endpoint, cache) = (format!("{}/hub", self.address), folder.to_owned());
        Settings { endpoint, cache, token, offline: None, pause: Duration::ZERO }
    }

    /// Lets requests whose path contains `part` fail, one after another.
    pub fn fail(&self, part: &str, faults: &[Fault]) {
        let faults = faults.iter().map(|fault| (part.to_owned(), fault.clone()));
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub fn give_names_only(&self) {
        self.state.lock().unwrap().bare = true;
    }

    /// The requests whose path contains `part`.
    pub fn requests(&self, part: &str) -> Vec<Request> {
        self.state.lock().unwrap().requests.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    /// What was uploaded to the storage, by URL.
    pub fn stored(&self) -> HashMap<String, Vec<u8>> {
        self.state.lock().unwrap().stored.clone()
    }
}

/// Files of at least this size are stored by Git LFS.
const LARGE: usize = 1000;

pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(body: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, body).as_ref())
}

pub fn etag(body: &[u8]) -> String {
    if body.len() >= LARGE {
        return sha256(body);
    }
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", body.len()).as_bytes());
    context.update(body);
    hex(context.finish().as_ref())
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        request.headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = request.headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn answer(mut to: &TcpStream, status: u16, headers: &[(String, String)], body: &[u8]) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    to.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| to.write_all(body)).ok()
}

fn length(body: &[u8]) -> (String, String) {
    ("Content-Length".into(), body.len().to_string())
}

fn serve(stream: TcpStream, state: &Mutex<State>, address: &str) -> Option<()> {
    let request = read(&stream)?;
    let (fault, bare) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let at = state.faults.iter().position(|(part, _)| request.path.contains(part.as_str()));
        (at.map(|at| state.faults.remove(at).1), state.bare)
    };
    let reply = |status: u16, body: &Value| {
        let body = body.to_string().into_bytes();
        answer(&stream, status, &[length(&body)], &body)
    };
    if let Some(Fault::Status(status, headers)) = &fault {
        let mut headers: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        headers.push(length(b""));
        return answer(&stream, *status, &headers, b"");
    }
    let path = request.path.strip_prefix("/hub/").unwrap_or(&request.path).to_owned();
    let files = state.lock().unwrap().files.clone();
    match (request.method.as_str(), path.as_str()) {
        ("GET", path) if path.starts_with("api/models/org/a/revision/") || path.starts_with("api/datasets/org/a/") => {
            let entry = |(name, body): (&String, &Vec<u8>)| match (bare, body.len() >= LARGE) {
                (true, _) => json!({"rfilename": name}),
                (false, true) => json!({"rfilename": name, "size": body.len(), "blobId": "00",
                    "lfs": {"sha256": sha256(body), "size": body.len(), "pointerSize": 130}}),
                (false, false) => json!({"rfilename": name, "size": body.len(), "blobId": etag(body)}),
            };
            reply(200, &json!({"sha": COMMIT, "siblings": files.iter().map(entry).collect::<Vec<_>>()}))
        }
        ("GET" | "HEAD", path) if path.contains("/resolve/") => {
            let name = path.split_once(&format!("/resolve/{COMMIT}/"))?.1;
            let body = files.get(name)?;
            let mut headers = vec![
                ("X-Repo-Commit".to_owned(), COMMIT.to_owned()),
                ("X-Linked-Size".to_owned(), body.len().to_string()),
                ("ETag".to_owned(), format!("\"{}\"", etag(body))),
            ];
            if body.len() >= LARGE {
                // Storage is another host.
                headers.push(("Location".to_owned(), format!("{address}/storage/{name}")));
                headers.push(length(b""));
                return answer(&stream, 302, &headers, b"");
            }
            send(&stream, &request, body, headers, fault)
        }
        ("GET", path) if path.starts_with("/storage/") => {
            send(&stream, &request, files.get(path.strip_prefix("/storage/")?)?, Vec::new(), fault)
        }
        ("GET", "api/models/org/a") => reply(200, &json!({"id": "org/a"})),
        ("POST", "api/repos/create" | "api/models/org/a/branch/new") => reply(200, &json!({})),
        ("POST", "api/models/org/a/preupload/main" | "api/models/org/a/preupload/new") => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let how = |file: &Value| {
                let large = file["size"].as_u64().unwrap() >= LARGE as u64;
                json!({"path": file["path"], "uploadMode": if large { "lfs" } else { "regular" },
                    "shouldIgnore": file["path"] == "ignored.txt"})
            };
            reply(200, &json!({"files": asked["files"].as_array().unwrap().iter().map(how).collect::<Vec<_>>()}))
        }
        ("POST", "org/a.git/info/lfs/objects/batch") => {
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let action = |object: &Value| {
                let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
                let mut header = json!({});
                if size > 2 * LARGE as u64 {
                    header = json!({"chunk_size": LARGE.to_string()});
                    (1..=size.div_ceil(LARGE as u64)).for_each(|part| {
                        header[format!("{part:05}")] = json!(format!("{address}/put/{oid}/{part}"));
                    });
                }
                let upload = json!({"href": format!("{address}/put/{oid}"), "header": header});
                let verify = json!({"href": format!("{address}/hub/verify/{oid}")});
                json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
            };
            let objects: Vec<Value> = asked["objects"].as_array().unwrap().iter().map(action).collect();
            reply(200, &json!({"transfer": "basic", "objects": objects}))
        }
        ("PUT", path) => {
            state.lock().unwrap().stored.insert(path.to_owned(), request.body.clone());
            answer(&stream, 200, &[("ETag".into(), format!("\"{}\"", request.body.len())), length(b"")], b"")
        }
        ("POST", path) if path.contains("/put/") || path.starts_with("verify/") => reply(200, &json!({})),
        ("POST", path) if path.starts_with("api/models/org/a/commit/") => {
            reply(200, &json!({"commitUrl": format!("{address}/hub/org/a/commit/1"), "commitOid": "1"}))
        }
        _ => reply(404, &json!({"error": "not found"})),
    }
}

/// Sends the range of a body that the request asks for.
fn send(
    stream: &TcpStream,
    request: &Request,
    body: &[u8],
    mut headers: Vec<(String, String)>,
    fault: Option<Fault>,
) -> Option<()> {
    let range = request.headers.get("range").filter(|_| !matches!(fault, Some(Fault::Whole)));
    let from: Option<usize> = range
        .map(|range| range.strip_prefix("bytes=").and_then(|rest| rest.strip_suffix('-')).unwrap().parse().unwrap());
    let (status, mut part) = match from {
        Some(from) if from >= body.len() => (416, Vec::new()),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            headers.push(("Content-Range".into(), range));
            (206, body[from..].to_vec())
        }
        None => (200, body.to_vec()),
    };
    let mut sent = part.len();
    match fault {
        Some(Fault::Drop(after)) => sent = after.min(sent),
        Some(Fault::Corrupt) => part[0] ^= 1,
        Some(Fault::Short) => {
            part.pop();
            sent = part.len();
        }
        _ => {}
    }
    headers.push(length(&part));
    if request.method == "HEAD" {
        sent = 0;
    }
    answer(stream, status, &headers, &part[..sent])
}
