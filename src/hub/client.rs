//! Requests to the Hub: the token, redirects, and attempts after faults that may pass.

use super::failure::{Failure, Response, text_of};
use super::settings::Settings;
use crate::error::{Context, Error, Result};
use crate::observe::progress::note;
use crate::observe::rank_of_environment;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use ureq::http::HeaderMap;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, SendBody};

pub(super) const JSON: &str = "application/json";
pub(super) const GIT_LFS: &str = "application/vnd.git-lfs+json";
/// Attempts of a request, and attempts of a download without a new byte.
pub(super) const ATTEMPTS: u32 = 5;
/// Longest pause between two attempts, whatever the server asks for: the window of the Hub's rate limits.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A pause that is worth a line.
const NOTABLE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(20);
/// Longest time without a byte.
const SILENCE: Duration = Duration::from_secs(120);
const REDIRECTS: usize = 8;
/// Largest answer in JSON: lists of files.
const LARGEST_JSON: u64 = 256 << 20;

/// How a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Only what the Hub says about it; redirects to other hosts are not followed.
    Head,
    /// Its bytes from this one on.
    From(u64),
}

/// A client of one endpoint.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    pause: Duration,
    /// Whether the network works: a request was answered before.
    answered: AtomicBool,
}

impl Client {
    /// # Errors
    /// Exit 2: a file of certificates that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = certificates() {
            let pem = std::fs::read(&path).input_context(path.display())?;
            let found = parse_pem(&pem).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            });
            let found: Vec<_> = found.collect();
            if found.is_empty() {
                return Err(Error::input(format!("{}: no certificate in PEM format", path.display())));
            }
            tls = tls.root_certs(RootCerts::from(found));
        }
        let mut config = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(concat!("trainer/", env!("CARGO_PKG_VERSION")))
            // Sizes and offsets are those of the files.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE));
        // A mirror on this machine is not behind the proxy of HTTPS_PROXY.
        let host = settings.host();
        if ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| host.starts_with(own)) {
            config = config.proxy(None);
        }
        Ok(Client {
            agent: config.build().new_agent(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            pause: settings.pause,
            answered: AtomicBool::new(false),
        })
    }

    /// Returns the URL of a path below the endpoint.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint)
    }

    /// Asks for a file; returns the answer and the headers of the last answer from the endpoint itself. Only the
    /// endpoint gets the token.
    pub fn file(&self, url: &str, ask: Ask) -> Result<(Response, HeaderMap), Failure> {
        let (mut url, mut own) = (url.to_owned(), HeaderMap::new());
        for _ in 0..REDIRECTS {
            let response = self.request(true, &mut || {
                let mut request = if ask == Ask::Head { self.agent.head(&url) } else { self.agent.get(&url) };
                if let Some(token) = self.authorization(&url) {
                    request = request.header("authorization", token);
                }
                if let Ask::From(at @ 1..) = ask {
                    request = request.header("range", format!("bytes={at}-"));
                }
                request.call()
            })?;
            if self.is_own(&url) {
                own = response.headers().clone();
            }
            let next = if response.status().is_redirection() { text_of(response.headers(), "location") } else { None };
            match next.map(|next| self.absolute(&url, &next)) {
                Some(next) if ask != Ask::Head || self.is_own(&next) => url = next,
                _ => return Ok((response, own)),
            }
        }
        Err(Failure::Unusable(format!("more than {REDIRECTS} redirects")))
    }

    /// Gets JSON.
    pub fn json(&self, url: &str) -> Result<Value, Failure> {
        let mut attempt = 1;
        loop {
            let (response, _) = self.file(url, Ask::From(0))?;
            match json_of(response) {
                Err(failure @ Failure::Broken(_)) if attempt < ATTEMPTS => self.wait(attempt, None, &failure),
                result => return result,
            }
            attempt += 1;
        }
    }

    /// Posts a body to the endpoint, with the token if it is the endpoint's; returns the answer, null if it is empty.
    /// `again` is whether another attempt does no harm if the first was carried out and its answer was lost.
    pub fn post(&self, url: &str, kind: &str, body: &[u8], again: bool) -> Result<Value, Failure> {
        let response = self.request(again, &mut || {
            let accepted = if kind == GIT_LFS { GIT_LFS } else { JSON };
            let mut request = self.agent.post(url).header("content-type", kind).header("accept", accepted);
            if let Some(token) = self.authorization(url) {
                request = request.header("authorization", token);
            }
            request.send(body)
        })?;
        json_of(response)
    }

    /// Puts `length` bytes, which `body` opens for each attempt, at a URL that needs no token.
    pub fn put(
        &self,
        url: &str,
        headers: &[(String, String)],
        length: u64,
        body: &mut dyn FnMut() -> std::io::Result<SendBody<'static>>,
    ) -> Result<HeaderMap, Failure> {
        let response = self.request(true, &mut || {
            let mut request = self.agent.put(url).header("content-length", length.to_string());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request.send(body()?)
        })?;
        Ok(response.headers().clone())
    }

    /// Sends a request until it is answered, at most [`ATTEMPTS`] times. An answer is any below 400, and 416.
    fn request(
        &self,
        again: bool,
        send: &mut dyn FnMut() -> Result<Response, ureq::Error>,
    ) -> Result<Response, Failure> {
        let mut attempt = 1;
        loop {
            let (failure, after) = match send() {
                Ok(response) => {
                    self.answered.store(true, Ordering::Relaxed);
                    let status = response.status().as_u16();
                    if status < 400 || status == 416 {
                        return Ok(response);
                    }
                    let after = pause_of(response.headers());
                    (Failure::refused(response), after)
                }
                Err(e) => (Failure::of(&e), None),
            };
            let may_pass = match &failure {
                Failure::Refused { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
                Failure::Broken(_) => again,
                Failure::Unusable(_) => false,
                Failure::Unreachable(_) => again && self.answered.load(Ordering::Relaxed),
            };
            if !may_pass || attempt == ATTEMPTS {
                return Err(failure);
            }
            self.wait(attempt, after, &failure);
            attempt += 1;
        }
    }

    /// Pauses after the attempt number `attempt`, counted from 1; `after` is what the server asks for.
    pub fn wait(&self, attempt: u32, after: Option<Duration>, failure: &Failure) {
        let pause = after.unwrap_or(self.pause * 2_u32.pow(attempt.min(10) - 1)).min(LONGEST_PAUSE);
        if pause >= NOTABLE && rank_of_environment() == 0 {
            note(&format!("hub: {failure}: next attempt in {} s", pause.as_secs()));
        }
        thread::sleep(pause);
    }

    fn authorization(&self, url: &str) -> Option<String> {
        self.token.as_ref().filter(|_| self.is_own(url)).map(|token| format!("Bearer {token}"))
    }

    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }

    /// Returns the target of a redirect.
    fn absolute(&self, url: &str, location: &str) -> String {
        match (location.starts_with('/'), url.find("://")) {
            (true, Some(scheme)) => {
                let host = url[scheme + 3..].find('/').map_or(url.len(), |end| scheme + 3 + end);
                format!("{}{location}", &url[..host])
            }
            _ => location.to_owned(),
        }
    }
}

/// Returns the certificates that the environment names instead of those that the program has, such as those of a proxy
/// that inspects traffic.
fn certificates() -> Option<PathBuf> {
    let named = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"];
    named.iter().filter_map(std::env::var_os).map(PathBuf::from).find(|path| path.is_file())
}

/// Returns the pause that the server asks for: `Retry-After` in seconds, or the rest `t` of the window in `RateLimit`
/// (`"api";r=0;t=55`).
fn pause_of(headers: &HeaderMap) -> Option<Duration> {
    let seconds = text_of(headers, "retry-after").and_then(|text| text.trim().parse().ok());
    let of_window = || {
        let window = text_of(headers, "ratelimit")?;
        window.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok())
    };
    seconds.or_else(of_window).map(Duration::from_secs)
}

fn json_of(mut response: Response) -> Result<Value, Failure> {
    let bytes = response.body_mut().with_config().limit(LARGEST_JSON).read_to_vec().map_err(|e| Failure::of(&e))?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|e| Failure::Unusable(format!("not JSON ({e})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(endpoint: &str) -> Client {
        let (endpoint, token) = (endpoint.to_owned(), Some("t".to_owned()));
        Client::new(&Settings { endpoint, cache: "c".into(), token, offline: None, pause: Duration::ZERO }).unwrap()
    }

    #[test]
    fn only_the_endpoint_gets_the_token() {
        let client = client("https://hub.example");
        let gets = |url: &str| client.authorization(url).is_some();
        assert!(gets("https://hub.example/api/x") && gets("https://hub.example"));
        assert!(!gets("https://hub.example.evil/api") && !gets("http://hub.example/x") && !gets("https://cdn/x"));
        let to = |location: &str| client.absolute("https://hub.example/a/b?c", location);
        assert_eq!([to("/d"), to("https://cdn/x")], ["https://hub.example/d", "https://cdn/x"]);
    }

    #[test]
    fn the_server_says_how_long_to_wait() {
        let pause = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            pause_of(&headers).map(|pause| pause.as_secs())
        };
        assert_eq!(pause("retry-after", "7"), Some(7));
        assert_eq!(pause("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(pause("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
