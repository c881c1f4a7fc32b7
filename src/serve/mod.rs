//! Serves a finished model over HTTP.
//!
//! ```text
//! connection ──► routes: JSON ──► abilities, prompting: token ids ──► queue ──► predicting, generating: batches
//!     ▲                                                                                      │
//!     └────────────── abilities, speaking: JSON, server-sent events ◄── numbers, pieces of text
//! ```
//!
//! Connections are tasks on tokio's threads, and know no tensors. The thread that calls [`run`] computes: it
//! takes what waits in the bounded queue, as one packed batch, or as texts that join a running batch between two
//! tokens. An answer does not depend on the others of its batch.

mod abilities;
mod body;
mod connections;
mod embedder;
mod failure;
mod generating;
mod inputs;
mod metrics;
mod options;
mod predicting;
mod prompting;
mod queue;
mod reading_client;
mod routes;
mod server;
mod speaking;

#[cfg(test)]
mod tests;

pub use options::Options;

use crate::comm::Collective;
use crate::error::{Context, Error, Result};
use crate::ffi::device::attempt;
use crate::generate::continuous::{Next, Running, Start};
use crate::generate::{Passes, Sampling, Settings};
use crate::models::Backbone;
use crate::tasks::answers::Rules;
use crate::tasks::prompts::Writer;
use crate::tasks::{Head, Model};
use crate::text::tokenizer::Tokenizer;
use crate::train::evaluate::Evaluator;
use crate::train::model_loading::Loaded;
use abilities::{Answerer, Classifier, Embeddings, Reader, Tagger};
use embedder::Embedder;
use metrics::Metrics;
use predicting::rows;
use prompting::Prompting;
use queue::Exit;
use server::{Ability, Server};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// A model to serve.
pub struct Served {
    /// Its name in requests and answers.
    pub name: String,
    pub head: Head,
    pub loaded: Loaded,
    pub tokenizer: Tokenizer,
    /// Maximum number of tokens of a text; of a language model, of a prompt and its answer.
    pub max_length: usize,
    /// Whether a classifier was trained on pairs of texts.
    pub pairs: bool,
    /// Of question answering: how answers are chosen, and the overlap of windows.
    pub answers: (Rules, usize),
    /// Settings of a language model; how it samples when only a request says so, or why it cannot.
    pub generation: Option<(Settings, Result<Sampling, String>)>,
}

/// Refuses a model that no route is for.
///
/// # Errors
/// Exit 2.
pub fn check(head: &Head, task: &str) -> Result<()> {
    match head {
        Head::Choice | Head::MaskedLm | Head::PreTraining | Head::Seq2Seq => {
            Err(Error::input(format!("the model was fine-tuned for {task}, which is not served: use trainer predict")))
        }
        Head::Classes(_)
        | Head::Flags(_)
        | Head::Number
        | Head::Tags(_)
        | Head::Span { .. }
        | Head::CausalLm
        | Head::Embedding(_) => Ok(()),
    }
}

/// Returns the runtime of a server's connections.
///
/// # Errors
/// Exit 1 if the system gives no threads.
pub fn runtime() -> Result<Runtime> {
    // The model needs the cores.
    const THREADS: usize = 2;
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(THREADS).max_blocking_threads(THREADS).enable_all().build();
    runtime.context("the threads of the server")
}

/// Listens on a port, 0 for a free one; returns the address too.
///
/// # Errors
/// Exit 2: an unknown host, a port that is taken or needs other rights.
pub fn listen(host: &str, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listen = || {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    listen().input_context(format!("--host {host} --port {port}"))
}

/// Serves a model until `stop`, and answers what was accepted before. The calling thread computes.
///
/// # Errors
/// Exit 2 if the files of the folder do not fit together; errors of the model other than out of memory.
pub fn run(
    served: Served,
    options: Options,
    comm: &dyn Collective,
    (runtime, listener): (&Runtime, TcpListener),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let metrics = Arc::new(Metrics::new()?);
    let (entrance, exit) = queue::queue(options.max_queue, &metrics);
    let max_batch_tokens = options.max_batch_tokens;
    let Served { name, head, loaded, tokenizer, max_length, pairs, answers: (rules, doc_stride), generation } = served;
    let Loaded { model, params, mut weights, .. } = loaded;
    let model = Arc::new(model);
    let embeddings = Embeddings { tokens: model.backbone.vocab_size(), segments: model.backbone.segments() };
    let own = tokenizer.clone();
    let read = |reader| Ability::Read(Box::new(reader));
    let ability = match (&head, &generation) {
        (Head::Tags(labels), _) => read(Reader::Tags(Tagger::new(&own, labels.clone(), max_length))),
        (&Head::Span { unanswerable }, _) => {
            read(Reader::Answer(Answerer { tokenizer: own, max_length, doc_stride, rules, unanswerable }))
        }
        (Head::Embedding(_), _) => read(Reader::Embed(Embedder { tokenizer: own, max_length })),
        (_, Some((settings, sampled))) => {
            let writer = Writer::owning(own, usize::MAX)?;
            let (settings, sampled) = (settings.clone(), sampled.clone());
            Ability::Generate(Box::new(Prompting { writer, settings, sampled, limit: max_length }))
        }
        _ => {
            let model = Arc::clone(&model);
            read(Reader::Classify(Classifier { model, tokenizer: own, max_length, pairs }))
        }
    };
    let of_model = [name, model.task.kind().to_owned()];
    let server = Server::new(options, of_model, (ability, embeddings), (entrance, metrics));
    let model: &Model = &model;
    let mut evaluator = Evaluator {
        model,
        params: &params,
        weights: &mut weights,
        comm,
        micro_batch_tokens: max_batch_tokens,
        generation: None,
    };
    let engine = |exit: &mut Exit| match &generation {
        None => predicting::predict(exit, max_batch_tokens, |dataset| {
            attempt(|| evaluator.quiet_outputs(dataset).map(|outputs| rows(&outputs)))
        }),
        Some((settings, _)) => {
            let mut texts = Batch::new(model.backbone.as_ref(), settings, evaluator.passes())?;
            generating::generate(exit, max_batch_tokens, &tokenizer, &mut texts)
        }
    };
    with_engine(server, exit, (runtime, listener), stop, engine)
}

/// Serves with an `engine` that answers what is in the queue until it is closed.
fn with_engine(
    server: Server,
    mut exit: Exit,
    (runtime, listener): (&Runtime, TcpListener),
    stop: impl Future<Output = ()> + Send + 'static,
    engine: impl FnOnce(&mut Exit) -> Result<()>,
) -> Result<()> {
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let connections = runtime.spawn(connections::serve(listener, Arc::new(server), stop));
    engine(&mut exit)?;
    runtime.block_on(connections).map_err(|e| Error::other(format!("the server: {e}")))
}

/// The running texts of a model.
struct Batch<'a, P> {
    backbone: &'a dyn Backbone,
    settings: &'a Settings,
    running: Running<'a>,
    passes: P,
}

impl<'a, P: Passes> Batch<'a, P> {
    fn new(backbone: &'a dyn Backbone, settings: &'a Settings, passes: P) -> Result<Self> {
        let running = Running::new(backbone, settings, passes.device())?;
        Ok(Batch { backbone, settings, running, passes })
    }
}

impl<P: Passes> generating::Texts for Batch<'_, P> {
    fn step(&mut self, new: Vec<Start>) -> Result<Vec<Next>> {
        let Batch { backbone, settings, running, passes } = self;
        let next = attempt(|| running.step(new, passes));
        if next.is_err() {
            *running = Running::new(*backbone, settings, passes.device())?;
        }
        next
    }

    fn close(&mut self, id: u64) {
        self.running.close(id);
    }
}
