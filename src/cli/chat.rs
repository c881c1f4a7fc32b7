//! `trainer chat`

use super::evaluate::{bare, load};
use super::{ChatArgs, connect};
use crate::comm::select::Backend;
use crate::comm::{Collective, exit_now};
use crate::config::TaskKind;
use crate::error::{Error, Result};
use crate::generate::Prompt;
use crate::models::registry::{self, DropoutOverrides};
use crate::observe::logs::{tell, wrap};
use crate::observe::signals::{self, StopFlag};
use crate::tasks::Head;
use crate::tasks::prompts::Writer;
use crate::text::prompts::Asked;
use crate::train::evaluate::Evaluator;
use crate::train::generate::Generation;
use crate::train::model_loading::{Declared, Loaded};
use crate::train::reading;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The most tokens of an answer, where neither an option nor the folder says how many.
const ANSWER: usize = 512;
/// As much as the cache of one conversation may take: there is no other.
const ONE: usize = usize::MAX;

/// Answers what is typed, line by line, until the input ends.
///
/// # Errors
/// Exit 2: a folder without a language model, or that several ranks were started for; what is wrong with its files.
pub fn run(args: &ChatArgs) -> Result<()> {
    let comm = connect(Backend::Auto, Duration::from_secs(600), None)?;
    let alone =
        if comm.world() == 1 { Ok(()) } else { Err(Error::input("chat: one rank talks: start it without mpirun")) };
    comm.agree(alone, "chat")?;
    let folder = &args.model;
    let json = registry::read_config(folder).map_err(bare)?;
    let head = Head::of_config(folder, &json)?;
    let kind = reading::kind(&head);
    if kind != TaskKind::CausalLm {
        let why = format!("{} was fine-tuned for {kind}: trainer predict --text answers here", folder.display());
        return Err(Error::input(why));
    }
    let declared = Declared::read(folder, json, DropoutOverrides::default(), head.role())?;
    let max_length = declared.max_length(args.max_length, None).map_err(bare)?;
    let generation = args.generation.open(folder, None)?.or_at_most(ANSWER).ending_as_answers()?;
    let mut loaded = load(&comm, folder, declared, &head)?;
    let writer = Writer::new(&generation.tokenizer, max_length)?;
    let ears = Ears::open()?;
    tell(&wrap(&format!("model     {}", folder.display()), 10));
    tell(if writer.has_template() {
        "/new forgets what was said; Ctrl-C stops an answer; Ctrl-D ends"
    } else {
        "no chat template: each line is continued by itself; Ctrl-C stops; Ctrl-D ends"
    });
    let system = args.system.iter().map(|text| json!({"role": "system", "content": text})).collect();
    if args.system.is_some() && !writer.has_template() {
        return Err(Error::input("--system: the folder has no chat template that could say it"));
    }
    let mut talk = Talk { comm, loaded: &mut loaded, generation: &generation, writer, ears, messages: system, turn: 0 };
    let first = talk.messages.clone();
    let (input, is_terminal) = (std::io::stdin(), std::io::stdin().is_terminal());
    loop {
        if is_terminal {
            show("> ");
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
        show("\n");
    }
    Ok(())
}

/// What Ctrl-C does: it stops the answer that is being given, else the program.
struct Ears {
    stop: StopFlag,
    answering: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Ears {
    fn open() -> Result<Ears> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (stop, answering) = (StopFlag::new(), Arc::new(AtomicBool::new(false)));
        let busy = Arc::clone(&answering);
        let first = move |_| {
            if !busy.load(Ordering::SeqCst) {
                exit_now(130);
            }
        };
        signals::listen(runtime.handle(), &[signals::INTERRUPT], &stop, first, || exit_now(130))?;
        Ok(Ears { stop, answering, _runtime: runtime })
    }
}

/// A conversation.
struct Talk<'a> {
    comm: Arc<dyn Collective>,
    loaded: &'a mut Loaded,
    generation: &'a Generation,
    writer: Writer<'a>,
    ears: Ears,
    messages: Vec<Value>,
    /// Answers so far: what is drawn follows from it.
    turn: u64,
}

impl Talk<'_> {
    /// Answers, on standard output, token by token.
    fn answer(&mut self, said: &str) -> Result<()> {
        let Some(ids) = self.written(said) else { return Ok(()) };
        let prompt = Prompt { ids, record: self.turn };
        self.turn += 1;
        let Loaded { model, params, weights, .. } = &mut *self.loaded;
        let comm = self.comm.as_ref();
        let mut evaluator = Evaluator { model, params, weights, comm, micro_batch_tokens: ONE, generation: None };
        let mut shown = Shown { generation: self.generation, ids: Vec::new(), bytes: 0 };
        self.ears.answering.store(true, Ordering::SeqCst);
        let text = evaluator.answer(prompt, self.generation, &mut |token| {
            shown.ids.push(token);
            // A text that cannot be shown now is shown at the end.
            _ = shown.show(false);
            !self.ears.stop.raised()
        });
        self.ears.answering.store(false, Ordering::SeqCst);
        let text = text?;
        // A text that was stopped has only what was heard of it.
        if !self.ears.stop.lower() {
            shown.ids = text.ids;
        }
        let answer = shown.show(true)?;
        show("\n");
        if self.writer.has_template() {
            self.messages.push(json!({"role": "assistant", "content": answer}));
        }
        Ok(())
    }

    /// The tokens of the conversation with what was said, without its beginning where that does not fit any more; nothing,
    /// and the reason on standard error, where it cannot be.
    fn written(&mut self, said: &str) -> Option<Vec<u32>> {
        if !self.writer.has_template() {
            return self.writer.write(&Asked::Text(said.to_owned())).map_err(|why| tell(&why)).ok();
        }
        let system = self.messages.iter().take_while(|message| message["role"] == "system").count();
        self.messages.push(json!({"role": "user", "content": said}));
        let mut left_out = 0;
        loop {
            let asked = Asked::Messages { messages: self.messages.clone(), tools: None };
            match self.writer.write(&asked) {
                Ok(ids) => {
                    if left_out > 0 {
                        tell(&format!("(the first {left_out} messages do not fit any more and are forgotten)"));
                    }
                    return Some(ids);
                }
                // A question and its answer.
                Err(_) if self.messages.len() > system + 2 => {
                    self.messages.drain(system..system + 2);
                    left_out += 2;
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

/// The part of an answer that is on the screen.
struct Shown<'a> {
    generation: &'a Generation,
    ids: Vec<u32>,
    bytes: usize,
}

impl Shown<'_> {
    /// Shows what is new, and returns all of it. A character whose bytes are not all there yet waits, unless this is the
    /// end.
    fn show(&mut self, ends: bool) -> Result<String> {
        let text = self.generation.tokenizer.decode(&self.ids)?;
        let whole = if ends { text.as_str() } else { text.trim_end_matches('\u{fffd}') };
        if let Some(new) = whole.get(self.bytes..) {
            show(new);
            self.bytes = whole.len().max(self.bytes);
        }
        Ok(text)
    }
}

/// Writes to standard output, at once.
fn show(text: &str) {
    let mut out = std::io::stdout();
    // A reader that has gone away ends nothing: the input does.
    _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
