//! What can go wrong with a request, and what a user can do about it.

use super::repo::{Kind, Repo};
use super::settings::Settings;
use crate::error::Error;
use std::fmt::{self, Display};
use std::io;
use ureq::http::HeaderMap;
use ureq::{Body, Timeout};

pub(super) type Response = ureq::http::Response<Body>;

/// Characters of a server's message that are shown.
const SHOWN: usize = 200;

/// A request without a usable answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no connection.
    Unreachable(String),
    /// A connection broke.
    Broken(String),
    /// The server answers with something else than the Hub.
    Unusable(String),
    /// The server answers with an error: the status, the headers `X-Error-Code` and `X-Error-Message` (or the body).
    Refused { status: u16, code: String, message: String },
}

impl Failure {
    pub fn of(e: &ureq::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, InvalidData, InvalidInput, NetworkUnreachable};
        let why = e.to_string();
        match e {
            ureq::Error::Io(e) => match e.kind() {
                // What rustls refuses, such as a certificate, is invalid data.
                ConnectionRefused | HostUnreachable | NetworkUnreachable | InvalidData | InvalidInput => {
                    Failure::Unreachable(e.to_string())
                }
                _ => Failure::Broken(e.to_string()),
            },
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => Failure::Unreachable(why),
            ureq::Error::Timeout(_) | ureq::Error::Protocol(_) | ureq::Error::BodyStalled => Failure::Broken(why),
            _ => Failure::Unreachable(why),
        }
    }

    /// Returns the failure that an answer of 400 or more is.
    pub fn refused(mut response: Response) -> Self {
        let status = response.status().as_u16();
        let header = |name: &str| text_of(response.headers(), name).unwrap_or_default();
        let (code, said) = (header("x-error-code"), header("x-error-message"));
        let message = if said.is_empty() {
            response.body_mut().with_config().limit(1 << 16).read_to_string().unwrap_or_default()
        } else {
            said
        };
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
        Failure::Refused { status, code, message }
    }

    /// Returns the error for a request about a repository, and a file of it if it was about one.
    pub fn explain(&self, settings: &Settings, repo: &Repo, file: Option<&str>) -> Error {
        let Settings { endpoint, token, .. } = settings;
        let (host, page, has_token) = (settings.host(), repo.page(), token.is_some());
        let what = if repo.kind == Kind::Model { "model" } else { "data set" };
        let place = file.map_or_else(|| repo.to_string(), |file| format!("{repo}: {file}"));
        let is_name = repo.kind == Kind::Model && file.is_none();
        let (status, code, message) = match self {
            Failure::Unreachable(why) => {
                let here = if is_name { "no local folder of this name, and " } else { "" };
                return Error::other(format!(
                    "{place}: {here}{host} cannot be reached: {why}; check the network and its proxy (HTTPS_PROXY). \
                     Without a network: copy the cache ({}) from a machine that has one, and set HF_HUB_OFFLINE=1",
                    settings.cache.display()
                ));
            }
            Failure::Broken(why) => {
                return Error::other(format!(
                    "{place}: the connection to {host} broke several times: {why}; run the command again: a download \
                     resumes where it stopped"
                ));
            }
            Failure::Unusable(why) => {
                return Error::other(format!("{place}: {host} does not answer as the Hub does: {why}"));
            }
            Failure::Refused { status, code, message } => (*status, code.as_str(), message.as_str()),
        };
        const LOG_IN: &str = "set HF_TOKEN, or log in with `hf auth login`";
        let why = match (status, code) {
            (_, "GatedRepo") => {
                let then = if has_token {
                    "the token must be of that account and be allowed to read gated repositories"
                } else {
                    LOG_IN
                };
                format!("it is gated: accept its conditions at {endpoint}/{page}; {then}")
            }
            (_, "RevisionNotFound") => {
                format!("{host} has no revision {:?} of it: {endpoint}/{page}/tree/main lists them", repo.revision)
            }
            (_, "EntryNotFound") => format!("{host} has no such file: {endpoint}/{page}/tree/{}", repo.revision),
            (401 | 404, _) if !has_token => {
                format!("{host} has no such {what}, or it is private: check the name; for a private one, {LOG_IN}")
            }
            (401 | 404, _) => format!(
                "{host} has no such {what}, or the token (HF_TOKEN, or that of `hf auth login`) is not valid or may \
                 not read it: check the name, and the token at {endpoint}/settings/tokens"
            ),
            (403, _) => {
                let then = if has_token { "use a token with the permission for this" } else { LOG_IN };
                format!("{host} refuses this (403: {message}): {then}")
            }
            (429, _) => {
                let more = if has_token { "" } else { "; with a token it is higher: set HF_TOKEN" };
                format!("the rate limit of {host} is reached (429): wait some minutes and run the command again{more}")
            }
            _ => format!("{host} answers {status}: {message}"),
        };
        let unknown = matches!((status, code), (401 | 404, "" | "RepoNotFound"));
        let here = if unknown && is_name { " (there is no local folder of this name either)" } else { "" };
        match status {
            401 | 403 | 404 => Error::input(format!("{place}: {why}{here}")),
            _ => Error::other(format!("{place}: {why}")),
        }
    }
}

/// Returns a header as text.
pub(super) fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(why) => write!(f, "no connection ({why})"),
            Failure::Broken(why) => write!(f, "the connection broke ({why})"),
            Failure::Unusable(why) => write!(f, "the answer is not the Hub's ({why})"),
            Failure::Refused { status: 429, .. } => f.write_str("the rate limit is reached (429)"),
            Failure::Refused { status, .. } => write!(f, "the server answers {status}"),
        }
    }
}
