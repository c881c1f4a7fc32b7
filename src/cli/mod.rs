//! The command line: arguments to calls, nothing else.

mod answers;
mod chat;
mod config_keys;
mod doctor;
mod evaluate;
mod generation;
mod launch;
mod output;
mod plan;
mod predict;
mod reading;
mod slurm;
mod tokenizer;
mod train;

use crate::comm::Collective;
use crate::comm::cores;
use crate::comm::select::{self, Backend};
use crate::config;
use crate::error::{Error, Result};
use crate::ffi::device::allow_tf32;
use crate::observe::logs::LogFormat;
use crate::observe::{self, rank_of_environment};
use crate::train::memory_report;
use clap::{Args, CommandFactory, Parser, Subcommand};
use generation::GenerationArgs;
use reading::ReadingArgs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Fine-tunes pretrained transformers on one GPU, on hundreds, or on a CPU.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains as a configuration says; under mpirun or srun on all its ranks.
    Train(TrainArgs),
    /// Starts a training run on all GPUs of this machine, on several hosts, or in Slurm, and again after a fault.
    Launch(Box<launch::LaunchArgs>),
    /// Shows what this machine and these ranks have, and what is wrong with it; also under mpirun or srun.
    Doctor(doctor::DoctorArgs),
    /// Evaluates a fine-tuned model on labelled data.
    Evaluate(EvaluateArgs),
    /// Predicts one line of output for each line of input.
    Predict(PredictArgs),
    /// Talks with a language model at the terminal.
    Chat(ChatArgs),
    /// Tells what a training run would need: memory, disk and time.
    Plan(plan::PlanArgs),
    /// Trains a tokenizer on texts, for a model that starts from nothing.
    Tokenizer(TokenizerArgs),
    /// Explains a key of the configuration, or lists all keys.
    Config(config_keys::ConfigArgs),
    /// Writes what a shell completes commands by to standard output.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// `trainer train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The configuration (TOML); ./trainer.toml where none is given.
    config: Option<PathBuf>,
    /// Settings that replace the file's: `learning_rate=3e-5`, or dotted where a bare key is not unique.
    #[arg(value_name = "KEY=VALUE", value_parser = config_keys::OverrideParser, hide_possible_values = true)]
    overrides: Vec<String>,
    /// none, auto (the newest sound checkpoint of output_dir, else from the start), or a checkpoint's folder.
    #[arg(long, default_value = "none")]
    resume: String,
    /// Go on from a checkpoint even where the order of data changes.
    #[arg(long)]
    allow_new_data_order: bool,
    /// Show the complete configuration, defaults included, and do nothing.
    #[arg(long)]
    print_config: bool,
}

/// `trainer evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// The configuration of a finished run: its final model is evaluated on its data.eval, as the run evaluates.
    config: Option<PathBuf>,
    /// Settings that replace the configuration's.
    #[arg(value_name = "KEY=VALUE", requires = "config")]
    #[arg(value_parser = config_keys::OverrideParser, hide_possible_values = true)]
    overrides: Vec<String>,
    /// The folder of a fine-tuned model or checkpoint.
    #[arg(long, required_unless_present = "config")]
    model: Option<PathBuf>,
    /// The task, such as sequence-classification; otherwise the one that the model was fine-tuned for.
    #[arg(long)]
    task: Option<String>,
    /// The labelled file.
    #[arg(long, required_unless_present = "config")]
    data: Option<PathBuf>,
    #[command(flatten)]
    targets: TargetArgs,
    /// One JSON line instead of a table.
    #[arg(long)]
    json: bool,
    /// What a record that cannot be used does: error, or skip to leave it out; otherwise error.
    #[arg(long, value_name = "WORD")]
    on_bad_record: Option<config::OnBadRecord>,
    /// Generate a target for each source too, and compare it with the given one, for seq2seq.
    #[arg(long)]
    predict_with_generate: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// The targets of parallel text.
#[derive(Debug, Clone, Args)]
struct TargetArgs {
    /// The file whose lines are the targets of the data's lines, for seq2seq with plain text.
    #[arg(long)]
    eval_target: Option<PathBuf>,
    /// The column of the target, for seq2seq; otherwise as in training, or `target`.
    #[arg(long)]
    target_column: Option<String>,
    /// Tokens that a target is cut to, for seq2seq; otherwise 128.
    #[arg(long)]
    max_target_length: Option<usize>,
}

/// `trainer predict`
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// The folder of a fine-tuned model or checkpoint.
    #[arg(long)]
    model: PathBuf,
    /// The records; labels are not needed. `-` is standard input: JSONL, unless --format says otherwise.
    #[arg(long, required_unless_present = "text")]
    input: Option<PathBuf>,
    /// A text instead of a file; may be given several times.
    #[arg(long, conflicts_with_all = ["input", "format", "columns", "header", "documents"], allow_hyphen_values = true)]
    text: Vec<String>,
    /// One line for each record, in order, JSON or, for a name that ends with .csv, CSV; otherwise, and with `-`, standard
    /// output.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Columns of the input that go before the predictions, with commas between.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    keep: Vec<String>,
    /// Add the numbers behind every line: logits; of a generated text its token ids and their log-probabilities.
    #[arg(long)]
    scores: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// `trainer chat`
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// The folder of the model.
    model: PathBuf,
    /// What the system message says, where the chat template has one.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Tokens that a conversation has at most, with the answer; otherwise as many as the model takes.
    #[arg(long)]
    max_length: Option<usize>,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// `trainer tokenizer`
#[derive(Debug, Args)]
pub struct TokenizerArgs {
    /// bpe (of bytes, as GPT-2 has), wordpiece (BERT), unigram (T5) or chars (every character a token).
    #[arg(long)]
    kind: String,
    /// The texts: plain text (.txt), or records with a text column (JSONL, CSV, TSV); may be given several times.
    #[arg(long, required = true, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// The folder for tokenizer.json and tokenizer_config.json.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
    /// Whose special tokens it has: bert, roberta, t5, gpt2 or llama; otherwise those of the family that the kind is
    /// known from (chars: gpt2).
    #[arg(long)]
    family: Option<String>,
    /// Tokens at most, special ones included; otherwise 30000, and for chars as many as there are.
    #[arg(long)]
    vocab_size: Option<usize>,
    /// Take capitals for small letters.
    #[arg(long)]
    lowercase: bool,
    /// A special token beside the family's, such as "<|im_start|>"; may be given several times.
    #[arg(long, value_name = "TOKEN")]
    special_token: Vec<String>,
    /// The column of the text.
    #[arg(long, default_value = "text")]
    text_column: String,
    /// jsonl, csv, tsv or text; otherwise by the file's ending.
    #[arg(long)]
    format: Option<config::Format>,
}

/// A time to wait, as `comm.timeout_seconds` has it.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && seconds <= 1e9);
    seconds.ok_or_else(|| "expected a number greater than 0 and at most 1e9".into())
}

impl Cli {
    /// Whether the command computes in this process. Ranks that `launch` starts do so in theirs.
    pub fn computes(&self) -> bool {
        !matches!(self.command, Some(Command::Launch(_)))
    }

    /// Does what the arguments ask for.
    ///
    /// # Errors
    /// Whatever the command meets; see [`Error::kind`] for the exit code.
    pub fn run(self, began: Instant) -> Result<()> {
        match self.command {
            Some(Command::Train(args)) => train::run(args, began),
            Some(Command::Launch(args)) => launch::run(*args, self.log_format),
            Some(Command::Doctor(args)) => doctor::run(args),
            Some(Command::Evaluate(args)) => evaluate::run(&args),
            Some(Command::Predict(args)) => predict::run(&args),
            Some(Command::Chat(args)) => chat::run(&args),
            Some(Command::Plan(args)) => plan::run(&args),
            Some(Command::Tokenizer(args)) => tokenizer::run(&args),
            Some(Command::Config(args)) => config_keys::run(&args),
            Some(Command::Completions { shell }) => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut text);
                observe::print(&config_keys::adapted(&String::from_utf8_lossy(&text)));
                Ok(())
            }
            None if PathBuf::from(train::DEFAULT_CONFIG).exists() => train::run(TrainArgs::default(), began),
            None => {
                if rank_of_environment() == 0 {
                    eprintln!("{}", Cli::command().render_help());
                }
                join_to_leave();
                Err(Error::input(format!("no command, and no ./{} to train by", train::DEFAULT_CONFIG)).shared())
            }
        }
    }
}

/// What is wrong with settings that are written as options (`--lr 3e-5`), where arguments are refused because of an option
/// that is not known.
pub fn settings_as_options(refused: &clap::Error) -> Option<Error> {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut cli = Cli::command();
    cli.build();
    let name = words.iter().find(|word| ["train", "launch", "plan"].contains(&word.as_str()))?;
    let command = cli.find_subcommand(name)?;
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let unknown = refused.kind() == clap::error::ErrorKind::UnknownArgument;
    unknown.then(|| config::check_options(&words, &known).err()).flatten()
}

impl Default for TrainArgs {
    fn default() -> Self {
        TrainArgs {
            config: None,
            overrides: Vec::new(),
            resume: "none".into(),
            allow_new_data_order: false,
            print_config: false,
        }
    }
}

/// This process's end of the group, for whoever has to take the job down.
static GROUP: OnceLock<Arc<dyn Collective>> = OnceLock::new();

/// Joins the other ranks, where a launcher started any, so that all of them leave together with what is wrong: a rank
/// that left first could take rank 0 down before it has said why.
pub fn join_to_leave() {
    // Without the group each rank leaves by itself.
    _ = connect(Backend::Auto, Duration::from_secs(60), None);
}

/// The group that this process has joined, if it has.
pub fn group() -> Option<&'static Arc<dyn Collective>> {
    GROUP.get()
}

/// What a run's tensors on this rank have held at most, by use; `None` outside a run.
pub fn memory_account() -> Option<String> {
    memory_report::account()
}

/// Joins the ranks and takes this rank's share of the cores.
fn connect(backend: Backend, timeout: Duration, threads: Option<usize>) -> Result<Arc<dyn Collective>> {
    // Before the collectives' own threads start: they inherit the binding.
    let (local_rank, local_world) = cores::local_place();
    let cores = cores::use_our_cores(local_rank, local_world, threads);
    tch::set_num_threads(cores.threads as i32);
    // Products of fp32 are exact unless a run sets otherwise, whatever variables of libtorch's say.
    allow_tf32(false)?;
    let comm = select::connect(backend, timeout).map_err(|e| {
        // Refused on every rank alike, before any of them has met the others.
        if backend == Backend::Solo {
            join_to_leave();
            return e.shared();
        }
        e
    })?;
    _ = GROUP.set(Arc::clone(&comm));
    // One pool does all the work: ours for tokenising, libtorch's for the rest.
    _ = rayon::ThreadPoolBuilder::new().num_threads(cores.threads).build_global();
    Ok(comm)
}

/// The setting as the collectives know it: the configuration names no other module.
fn backend(setting: config::Backend) -> Backend {
    match setting {
        config::Backend::Auto => Backend::Auto,
        config::Backend::Solo => Backend::Solo,
        config::Backend::Mpi => Backend::Mpi,
        config::Backend::Nccl => Backend::Nccl,
    }
}
