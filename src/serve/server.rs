//! What all requests share.

use super::abilities::{Embeddings, Reader};
use super::failure::Failure;
use super::metrics::Metrics;
use super::options::Options;
use super::prompting::Prompting;
use super::queue::Entrance;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// A server of one model.
pub struct Server {
    pub options: Options,
    /// The model's name in requests and answers.
    pub name: String,
    /// The task that the model was fine-tuned for.
    pub task: String,
    pub ability: Ability,
    pub embeddings: Embeddings,
    pub entrance: Entrance,
    pub metrics: Arc<Metrics>,
    /// Hash of the bearer token, so that the time of comparing does not depend on where keys differ.
    key: Option<blake3::Hash>,
    /// Start of the server, in seconds since 1970.
    pub created: u64,
    /// Number of requests whose responses are not complete.
    open: watch::Sender<usize>,
    stopping: AtomicBool,
}

/// What a model can do.
pub enum Ability {
    Read(Box<Reader>),
    Generate(Box<Prompting>),
}

impl Ability {
    /// The routes of its requests.
    pub fn routes(&self) -> Vec<&'static str> {
        match self {
            Ability::Read(reader) => vec![reader.route()],
            Ability::Generate(prompting) if prompting.writer.has_template() => vec![COMPLETIONS, CHAT],
            Ability::Generate(_) => vec![COMPLETIONS],
        }
    }
}

/// Names that clients of Hugging Face send for the only model of a server: `huggingface_hub.InferenceClient` with an
/// address, and the examples of Text Generation Inference.
const ONLY_MODEL: [&str; 2] = ["dummy", "tgi"];

pub const COMPLETIONS: &str = "/v1/completions";
pub const CHAT: &str = "/v1/chat/completions";

impl Server {
    /// Returns a server that accepts requests; `of_model` are the model's name and task.
    pub fn new(
        options: Options,
        [name, task]: [String; 2],
        (ability, embeddings): (Ability, Embeddings),
        (entrance, metrics): (Entrance, Arc<Metrics>),
    ) -> Self {
        let key = options.api_key.as_ref().map(|key| blake3::hash(key.as_bytes()));
        let (open, stopping) = (watch::Sender::new(0), AtomicBool::new(false));
        Server { options, name, task, ability, embeddings, entrance, metrics, key, created: now(), open, stopping }
    }

    /// Whether a request has the server's key, if there is one. `header` is its `Authorization`.
    pub fn knows(&self, header: Option<&str>) -> bool {
        let Some(key) = self.key else { return true };
        let given = header.and_then(|header| header.split_once(' '));
        // The comparison of hashes takes constant time.
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && blake3::hash(given.trim().as_bytes()) == key
        })
    }

    /// # Errors
    /// 404 if the body names another model; 400 if that is no text.
    pub fn check_model(&self, body: &Map<String, Value>) -> Result<(), Failure> {
        match body.get("model") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::String(name)) if *name == self.name || ONLY_MODEL.contains(&name.as_str()) => Ok(()),
            Some(Value::String(name)) => {
                Err(Failure::unknown_model(format!("there is no model {name:?} here, only {:?}", self.name)))
            }
            Some(_) => Err(Failure::invalid("\"model\" must be a string")),
        }
    }

    pub fn deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }

    /// Counts a request until the result is dropped.
    pub fn enter(self: &Arc<Self>, route: &'static str) -> Entered {
        self.open.send_modify(|open| *open += 1);
        Entered { server: Arc::clone(self), route, status: LEFT, began: Instant::now() }
    }

    /// Accepts no more requests.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Waits until all responses are complete.
    pub async fn idle(&self) {
        // It fails only without a server.
        _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// The status in metrics of requests whose client has left before the response.
const LEFT: u16 = 499;

/// A request whose response is not complete.
pub struct Entered {
    server: Arc<Server>,
    route: &'static str,
    pub status: u16,
    began: Instant,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.server.metrics.request(self.route, self.status, self.began.elapsed());
        self.server.open.send_modify(|open| *open -= 1);
    }
}

/// Returns the seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
