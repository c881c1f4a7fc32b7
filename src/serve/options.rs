//! Settings of a server.

use std::time::Duration;

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Maximum number of tokens of a batch; of generated texts, positions of the KV cache.
    pub max_batch_tokens: usize,
    /// Maximum number of requests that wait.
    pub max_queue: usize,
    /// Maximum time from a request to its answer, and in which a client reads nothing of it.
    pub timeout: Duration,
    /// Maximum time from a connection to the header of a request, and for its body.
    pub read_timeout: Duration,
    pub max_body_bytes: usize,
    /// The bearer token that requests need, if any.
    pub api_key: Option<String>,
}
