//! The command line: arguments to calls, nothing else.

mod answers;
mod doctor;
mod evaluate;
mod generation;
mod launch;
mod plan;
mod predict;
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
use crate::observe::rank_of_environment;
use crate::train::memory_report;
use clap::{Args, CommandFactory, Parser, Subcommand};
use generation::GenerationArgs;
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
    /// Tells what a training run would need: memory, disk and time.
    Plan(plan::PlanArgs),
    /// Trains a tokenizer on texts, for a model that starts from nothing.
    Tokenizer(TokenizerArgs),
}

/// `trainer train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The configuration (TOML); ./trainer.toml where none is given.
    config: Option<PathBuf>,
    /// Settings that replace the file's: `learning_rate=3e-5`, or dotted where a bare key is not unique.
    #[arg(value_name = "KEY=VALUE")]
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
    /// The folder of a fine-tuned model or checkpoint.
    #[arg(long)]
    model: PathBuf,
    /// The task, such as sequence-classification.
    #[arg(long)]
    task: String,
    /// The labelled file.
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    targets: TargetArgs,
    /// One JSON line instead of a table.
    #[arg(long)]
    json: bool,
    /// What a record that cannot be used does: error, or skip to leave it out.
    #[arg(long, value_name = "WORD", default_value_t)]
    on_bad_record: config::OnBadRecord,
    /// Generate a target for each source too, and compare it with the given one, for seq2seq.
    #[arg(long)]
    predict_with_generate: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// The targets of parallel text.
#[derive(Debug, Args)]
struct TargetArgs {
    /// The file whose lines are the targets of the data's lines, for seq2seq with plain text.
    #[arg(long)]
    eval_target: Option<PathBuf>,
    /// The column of the target, for seq2seq.
    #[arg(long, default_value = "target")]
    target_column: String,
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
    /// The records; labels are not needed.
    #[arg(long)]
    input: PathBuf,
    /// One line for each record, in order.
    #[arg(long)]
    output: PathBuf,
    /// Add the numbers behind every line: logits; of a generated text its token ids and their log-probabilities.
    #[arg(long)]
    scores: bool,
    #[command(flatten)]
    reading: ReadingArgs,
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

/// How data is read outside a configuration.
#[derive(Debug, Args)]
pub struct ReadingArgs {
    /// The column of the text.
    #[arg(long, default_value = "text")]
    text_column: String,
    /// The column of the second text of a pair.
    #[arg(long)]
    text_pair_column: Option<String>,
    /// The column of the label.
    #[arg(long, default_value = "label")]
    label_column: String,
    /// The column of the source, for seq2seq.
    #[arg(long, default_value = "source")]
    source_column: String,
    /// What stands before every source, for seq2seq; otherwise nothing.
    #[arg(long)]
    source_prefix: Option<String>,
    /// The names of the columns of a CSV or TSV file without a header, with commas between.
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Whether the first row of a CSV or TSV file holds the names of the columns; otherwise found out by looking.
    #[arg(long, value_name = "true|false")]
    header: Option<bool>,
    /// The column of the list of words, for token-classification.
    #[arg(long, default_value = "words")]
    words_column: String,
    /// The column of the list of their tags.
    #[arg(long, default_value = "tags")]
    tags_column: String,
    /// The column of the question, for multiple-choice.
    #[arg(long, default_value = "question")]
    question_column: String,
    /// The column of what the question is about; otherwise `context` where there is one.
    #[arg(long)]
    context_column: Option<String>,
    /// The column of the list of choices.
    #[arg(long, default_value = "choices")]
    choices_column: String,
    /// The column of what an answer is given to.
    #[arg(long, default_value = "prompt")]
    prompt_column: String,
    /// The column of an answer.
    #[arg(long, default_value = "completion")]
    completion_column: String,
    /// The column of a conversation.
    #[arg(long, default_value = "messages")]
    messages_column: String,
    /// jsonl, csv, tsv, conll or text; otherwise by the file's ending.
    #[arg(long)]
    format: Option<config::Format>,
    /// What a document of a plain text file is: file, lines or paragraphs.
    #[arg(long, value_name = "WORD")]
    documents: Option<config::Documents>,
    /// Whether a language model's blocks are filled up with documents; otherwise yes.
    #[arg(long, value_name = "true|false")]
    packing: Option<bool>,
    /// The share of tokens that a masked language model is to tell; otherwise 0.15.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    mlm_probability: Option<f64>,
    /// Whether the tokens of a word are hidden together; otherwise no.
    #[arg(long, value_name = "true|false")]
    whole_word_mask: Option<bool>,
    /// Tokens that a sequence is cut to; otherwise what the model takes, with questions at most 384, of a language model's
    /// blocks at most 1024.
    #[arg(long)]
    max_length: Option<usize>,
    /// Tokens that a rank takes through the model at a time.
    #[arg(long, default_value_t = 4096)]
    micro_batch_tokens: usize,
    /// How ranks talk: auto, solo, mpi or nccl.
    #[arg(long, default_value_t)]
    backend: config::Backend,
    /// Seconds after which a wait for a rank ends the command.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    timeout_seconds: f64,
    /// Last, because its heading is that of all that follow.
    #[command(flatten)]
    answers: answers::AnswerArgs,
}

/// A share as `task.mlm_probability` has it.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|&share: &f64| share > 0.0 && share < 1.0);
    share.ok_or_else(|| "expected a number greater than 0 and less than 1".into())
}

/// A time to wait, as `comm.timeout_seconds` has it.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && seconds <= 1e9);
    seconds.ok_or_else(|| "expected a number greater than 0 and at most 1e9".into())
}

impl Cli {
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
            Some(Command::Plan(args)) => plan::run(&args),
            Some(Command::Tokenizer(args)) => tokenizer::run(&args),
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
