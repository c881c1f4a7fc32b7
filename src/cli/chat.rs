//! `trainer chat`

use super::finished::{Finished, alone};
use super::generation::GenerationArgs;
use super::linear_weights::LinearWeights;
use super::reading::bare;
use crate::comm::{Collective, exit_now};
use crate::config::TaskKind;
use crate::error::{Error, Result};
use crate::generate::Prompt;
use crate::observe::logs::{tell, wrap};
use crate::observe::print;
use crate::observe::signals::{self, StopFlag};
use crate::tasks::prompts::Writer;
use crate::text::detokenizer::Detokenizer;
use crate::text::prompts::Asked;
use crate::train::evaluate::Evaluator;
use crate::train::generation::Generation;
use crate::train::model_loading::Loaded;
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Default for the maximum number of tokens of an answer.
const ANSWER: usize = 512;
/// Limit of the KV cache in tokens: none, since there is one conversation.
const UNLIMITED: usize = usize::MAX;

/// `trainer chat`
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Folder of the model, or a model on the Hugging Face Hub (ORG/NAME).
    model: PathBuf,
    /// Folder of the base model, if the model is an adapter whose base model was moved.
    #[arg(long, value_name = "FOLDER")]
    base_model: Option<PathBuf>,
    /// System message, if the chat template has one.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Maximum length of a conversation with its answer, in tokens [default: the model's limit].
    #[arg(long)]
    max_length: Option<usize>,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// Answers each line of input until the input ends.
///
/// # Errors
/// Exit 2: a folder without a language model, invalid files in it, or several ranks.
pub fn run(args: &ChatArgs) -> Result<()> {
    let comm = alone("chat")?;
    let folder = &args.model;
    let model = Finished::read(comm.as_ref(), folder, args.base_model.as_deref())?;
    if model.kind != TaskKind::CausalLm {
        let why = format!("{} was fine-tuned for {}: use trainer predict --text", folder.display(), model.kind);
        return Err(Error::input(why));
    }
    let max_length = model.declared.max_length(args.max_length, None).map_err(bare)?;
    let generation = args.generation.open(model.folder.generation(), None)?.or_at_most(ANSWER).ending_as_answers()?;
    let mut loaded = model.load(&comm, LinearWeights::Fp32)?;
    let writer = Writer::new(&generation.tokenizer, max_length)?;
    let interrupts = Interrupts::open()?;
    tell(&wrap(&format!("model     {}", folder.display()), 10));
    tell(if writer.has_template() {
        "/new starts a new conversation; Ctrl-C stops an answer; Ctrl-D exits"
    } else {
        "no chat template: each line is continued on its own; Ctrl-C stops; Ctrl-D exits"
    });
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    if args.system.is_some() && !writer.has_template() {
        return Err(Error::input("--system: the model has no chat template, so it cannot have a system message"));
    }
    let (loaded, generation) = (&mut loaded, &generation);
    let mut talk = Conversation { comm, loaded, generation, writer, interrupts, messages: system, turn: 0 };
    let first = talk.messages.clone();
    let (input, is_terminal) = (std::io::stdin(), std::io::stdin().is_terminal());
    loop {
        if is_terminal {
            print("> ");
        }
        let mut line = Vec::new();
        if input.lock().read_until(b'\n', &mut line)? == 0 {
            break;
        }
        match String::from_utf8_lossy(&line).trim() {
            "" => {}
            "/new" => talk.messages.clone_from(&first),
            "/exit" | "/quit" => break,
            said => talk.answer(said)?,
        }
    }
    if is_terminal {
        print("\n");
    }
    Ok(())
}

/// Handles Ctrl-C: stops the current answer, or else the program.
struct Interrupts {
    stop: StopFlag,
    answering: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Interrupts {
    fn open() -> Result<Interrupts> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (stop, answering) = (StopFlag::new(), Arc::new(AtomicBool::new(false)));
        let busy = Arc::clone(&answering);
        let first = move |_| {
            if !busy.load(Ordering::SeqCst) {
                exit_now(130);
            }
        };
        signals::listen(runtime.handle(), &[signals::INTERRUPT], &stop, first, || exit_now(130))?;
        Ok(Interrupts { stop, answering, _runtime: runtime })
    }
}

struct Conversation<'a> {
    comm: Arc<dyn Collective>,
    loaded: &'a mut Loaded,
    generation: &'a Generation,
    writer: Writer<'a>,
    interrupts: Interrupts,
    messages: Vec<Value>,
    /// Number of answers so far; part of the RNG key of sampling.
    turn: u64,
}

impl Conversation<'_> {
    /// Answers on standard output, token by token.
    fn answer(&mut self, said: &str) -> Result<()> {
        let Some(ids) = self.tokens(said) else { return Ok(()) };
        let rows = self.loaded.model.backbone.vocab_size();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::input(format!(
                "the text has the token id {id}, but the model has {rows} embeddings: its folder has another tokenizer"
            )));
        }
        let prompt = Prompt { ids, record: self.turn };
        self.turn += 1;
        let Loaded { model, params, weights, .. } = &mut *self.loaded;
        let comm = self.comm.as_ref();
        let mut evaluator = Evaluator { model, params, weights, comm, micro_batch_tokens: UNLIMITED, generation: None };
        let mut shown = Detokenizer::new(&self.generation.tokenizer, Vec::new());
        self.interrupts.answering.store(true, Ordering::SeqCst);
        let text = evaluator.answer(prompt, self.generation, &mut |token| {
            // A text that cannot be decoded yet is shown at the end.
            _ = shown.push(token).map(print);
            !self.interrupts.stop.raised()
        });
        self.interrupts.answering.store(false, Ordering::SeqCst);
        let text = text?;
        // An interrupted answer ends where it was interrupted.
        if !self.interrupts.stop.lower() {
            let rest = text.ids.get(shown.tokens()..).unwrap_or_default();
            rest.iter().try_for_each(|&id| shown.push(id).map(print))?;
        }
        let (rest, answer) = shown.finish()?;
        print(&format!("{rest}\n"));
        if self.writer.has_template() {
            self.messages.push(json!({"role": "assistant", "content": answer}));
        }
        Ok(())
    }

    /// Appends a message and returns the tokens of the conversation, without its oldest messages if they no longer fit.
    /// Prints the reason on standard error and returns `None` if the message cannot be used.
    fn tokens(&mut self, said: &str) -> Option<Vec<u32>> {
        if !self.writer.has_template() {
            return self.writer.write(&Asked::Text(said.to_owned())).map_err(|why| tell(&why)).ok();
        }
        let system = self.messages.iter().take_while(|message| message["role"] == "system").count();
        self.messages.push(json!({"role": "user", "content": said}));
        let mut dropped = 0;
        loop {
            let asked = Asked::Messages { messages: self.messages.clone(), tools: None };
            match self.writer.write(&asked) {
                Ok(ids) => {
                    if dropped > 0 {
                        tell(&format!("(the first {dropped} messages no longer fit and are dropped)"));
                    }
                    return Some(ids);
                }
                // Drops a question and its answer.
                Err(_) if self.messages.len() > system + 2 => {
                    self.messages.drain(system..system + 2);
                    dropped += 2;
                }
                Err(why) => {
                    tell(&why);
                    self.messages.pop();
                    return None;
                }
            }
        }
    }
}
