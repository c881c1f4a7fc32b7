//! `trainer serve`

use super::finished::{Finished, alone};
use super::linear_weights::LinearWeights;
use super::parse::{at_least_one, seconds};
use super::reading::bare;
use crate::comm::exit_now;
use crate::config::{Config, TaskKind};
use crate::error::{Context, Error, Result};
use crate::generate::Settings;
use crate::observe::logs::{tell, warn, wrap};
use crate::observe::signals::{self, StopFlag};
use crate::serve::{self, Options, Served};
use crate::tasks::answers::Rules;
use crate::text::tokenizer::Tokenizer;
use crate::train::generation::Generation;
use crate::train::model_folder::name_of;
use crate::train::reading;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The environment variable with the bearer token.
const KEY: &str = "TRAINER_API_KEY";
/// Time for the header of a request, and for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// `trainer serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Folder of a fine-tuned model, checkpoint or adapter, or a model on the Hugging Face Hub (ORG/NAME).
    model: PathBuf,
    /// Address to listen on. Only this machine can connect to 127.0.0.1; 0.0.0.0 is all addresses.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 for a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Maximum number of tokens of a batch. For generated texts: of prompts and answers in the KV cache, each counted
    /// at the length of the longest.
    #[arg(long, value_name = "TOKENS", default_value = "8192", value_parser = at_least_one)]
    max_batch_tokens: usize,
    /// Maximum number of requests that wait; further ones get status 429.
    #[arg(long, value_name = "REQUESTS", default_value = "256", value_parser = at_least_one)]
    max_queue: usize,
    /// Maximum time from a request to its answer, in seconds; then it gets status 504. A client that reads next to
    /// nothing of its answer for this time is disconnected.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    timeout: f64,
    /// Maximum size of the body of a request; larger ones get status 413.
    #[arg(long, value_name = "BYTES", default_value = "1048576", value_parser = at_least_one)]
    max_body_bytes: usize,
    /// File with the bearer token that requests need [default: the environment variable TRAINER_API_KEY, or none].
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// How the weights of linear layers are kept, for models that generate no text, on CPUs.
    #[arg(long, value_enum, default_value_t, hide_possible_values = true, value_name = "fp32|int8")]
    weights: LinearWeights,
    /// Folder of the base model, if the model is an adapter whose base model was moved.
    #[arg(long, value_name = "FOLDER")]
    base_model: Option<PathBuf>,
}

/// Serves the model until SIGINT or SIGTERM.
///
/// # Errors
/// Exit 2: a model that cannot be served, invalid files in its folder, an address that cannot be listened on, several
/// ranks. Exit 1: an error of the model.
pub fn run(args: &ServeArgs) -> Result<()> {
    let comm = alone("serve")?;
    let model = Finished::read(comm.as_ref(), &args.model, args.base_model.as_deref())?;
    serve::check(&model.head, &model.kind.to_string()).context(args.model.display())?;
    let trained = Config::of_model(&model.folder.path)?.filter(|config| config.task.kind == model.kind);
    let api_key = api_key(args.api_key_file.as_deref())?;
    // An address that is taken is reported before the model is loaded.
    let (listener, address) = serve::listen(&args.host, args.port)?;
    if !address.ip().is_loopback() && api_key.is_none() {
        warn(&format!("{address} can be reached from other machines, and no request needs a key: set {KEY}"));
    }
    let of_data = trained.as_ref().map(|config| &config.data);
    // A prompt is truncated to the model's limit, not to the max_length of training.
    let generates = model.kind == TaskKind::CausalLm;
    let given = of_data.and_then(|data| data.max_length).filter(|_| !generates);
    let usual = reading::usual_length(model.kind, &model.folder.path)?.filter(|_| !generates);
    let max_length = model.declared.max_length(given, usual).map_err(bare)?;
    let generation = match generates {
        // The texts of a beam search are not known before its end.
        true => {
            let generation = Generation::open(model.folder.generation(), &json!({"num_beams": 1}), 0)?;
            Some(generation.ending_as_answers()?)
        }
        false => None,
    };
    let (tokenizer, generation) = match generation {
        Some(generation) => {
            let folder = model.folder.generation();
            // Where the folder is is not for clients.
            let told = |e: Error| e.to_string().replace(&format!("{}/", folder.display()), "");
            let sampled = Settings::sampled(folder).map_err(told);
            (generation.tokenizer, Some((generation.settings, sampled)))
        }
        None => (Tokenizer::from_folder(model.folder.tokenizer())?, None),
    };
    let answers = trained.as_ref().and_then(|config| config.task.answers.clone()).unwrap_or_default();
    let rules = Rules {
        n_best_size: answers.n_best_size,
        max_answer_length: answers.max_answer_length,
        null_score_diff_threshold: answers.null_score_diff_threshold,
        version_2_with_negative: answers.version_2_with_negative,
    };
    let (name, kind, head) = (name_of(&args.model), model.kind, model.head.clone());
    let served = Served {
        name: name.clone(),
        head,
        loaded: model.load(&comm, args.weights)?,
        tokenizer,
        max_length,
        pairs: of_data.is_some_and(|data| data.text_pair_column.is_some()),
        answers: (rules, answers.doc_stride),
        generation,
    };
    let options = Options {
        max_batch_tokens: args.max_batch_tokens,
        max_queue: args.max_queue,
        timeout: Duration::from_secs_f64(args.timeout),
        read_timeout: READ_TIMEOUT,
        max_body_bytes: args.max_body_bytes,
        api_key,
    };
    let (runtime, stop) = (serve::runtime()?, Arc::new(Notify::new()));
    let stopping = Arc::clone(&stop);
    let first = move |_| {
        tell("stopping: requests that were accepted are completed; Ctrl-C exits at once");
        stopping.notify_one();
    };
    signals::listen(runtime.handle(), signals::ALONE, &StopFlag::new(), first, || exit_now(130))?;
    tell(&wrap(&format!("model     {} ({kind}), as {name:?}", args.model.display()), 10));
    tell(&format!("serving   http://{address}"));
    serve::run(served, options, comm.as_ref(), (&runtime, listener), async move { stop.notified().await })
}

/// Returns the bearer token of the file, or else of the environment.
fn api_key(file: Option<&Path>) -> Result<Option<String>> {
    let (place, text) = match (file, std::env::var(KEY)) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).input_context(path.display()).context("--api-key-file")?;
            (format!("--api-key-file {}", path.display()), text)
        }
        (None, Ok(text)) => (KEY.to_owned(), text),
        (None, Err(std::env::VarError::NotPresent)) => return Ok(None),
        (None, Err(e)) => return Err(Error::input(format!("{KEY}: {e}"))),
    };
    match text.trim() {
        "" => Err(Error::input(format!("{place}: the key is empty"))),
        key => Ok(Some(key.to_owned())),
    }
}
