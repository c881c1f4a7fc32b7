//! The command line: translates arguments to calls.

mod answers;
mod cache;
mod chat;
mod class_report;
mod config_keys;
mod cross_validate;
mod doctor;
mod evaluate;
mod export;
mod finished;
mod generation;
mod group;
mod init;
mod launch;
mod merge;
mod opening;
mod output;
mod parse;
mod plan;
mod predict;
mod push;
mod reading;
mod report;
mod runs;
mod serve;
mod show;
mod slurm;
mod sweep;
mod tokenizer;
mod train;

pub use group::{group, join_to_leave};

use crate::config;
use crate::error::{Context, Error, Result};
use crate::observe::logs::LogFormat;
use crate::observe::{self, rank_of_environment};
use crate::train::memory_report;
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Instant;

/// Fine-tune pretrained transformers on a CPU, one GPU, or many GPUs.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Format of log lines.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model from a configuration file; under mpirun or srun, on all ranks.
    Train(train::TrainArgs),
    /// Start a training job on all GPUs of this machine, on several hosts, or in Slurm, and restart it after failures.
    Launch(Box<launch::LaunchArgs>),
    /// Search for good settings: train a model for each combination of values, and compare the evaluations.
    Sweep(sweep::SweepArgs),
    /// Cross-validate: train a model for each fold of the training data, and evaluate it on that fold.
    CrossValidate(cross_validate::CrossValidateArgs),
    /// Check the hardware, software and communication of this machine, or of all ranks under mpirun or srun.
    Doctor(doctor::DoctorArgs),
    /// Inspect data, and write a configuration to start from.
    Init(init::InitArgs),
    /// Evaluate a fine-tuned model on labeled data.
    Evaluate(evaluate::EvaluateArgs),
    /// Compare runs on one HTML page: results, settings that differ, and curves.
    Report(report::ReportArgs),
    /// Show a run in the terminal: its progress, evaluations and curves.
    Show(show::ShowArgs),
    /// Predict with a fine-tuned model: write one line for each input record.
    Predict(predict::PredictArgs),
    /// Merge a LoRA adapter into its base model: write a full model's folder.
    Merge(merge::MergeArgs),
    /// Export a language model for other programs: a GGUF file for llama.cpp and Ollama.
    Export(export::ExportArgs),
    /// Upload a model folder to the Hugging Face Hub.
    Push(push::PushArgs),
    /// Chat with a language model in the terminal.
    Chat(chat::ChatArgs),
    /// Serve a model over HTTP: classes, tags, answers, or text as OpenAI's API does.
    Serve(serve::ServeArgs),
    /// Estimate the memory, disk space and time of a training run.
    Plan(plan::PlanArgs),
    /// Train a tokenizer, for pretraining from scratch.
    Tokenizer(tokenizer::TokenizerArgs),
    /// List the token cache, or remove what is not used.
    Cache(cache::CacheArgs),
    /// Explain a configuration key, or list all keys.
    Config(config_keys::ConfigArgs),
    /// Print a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// Shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages (man) of all commands.
    #[command(hide = true)]
    Man {
        /// Folder to write to; it is created.
        folder: PathBuf,
    },
}

impl Cli {
    /// Returns whether the command computes in this process; others only start processes.
    pub fn computes(&self) -> bool {
        !matches!(self.command, Some(Command::Launch(_) | Command::Sweep(_) | Command::CrossValidate(_)))
    }

    pub fn run(self, began: Instant) -> Result<()> {
        match self.command {
            Some(Command::Train(args)) => train::run(args, began),
            Some(Command::Launch(args)) => launch::run(*args, self.log_format),
            Some(Command::Sweep(args)) => sweep::run(&args),
            Some(Command::CrossValidate(args)) => cross_validate::run(&args),
            Some(Command::Doctor(args)) => doctor::run(args),
            Some(Command::Init(args)) => init::run(&args),
            Some(Command::Evaluate(args)) => evaluate::run(&args),
            Some(Command::Report(args)) => report::run(&args),
            Some(Command::Show(args)) => show::run(&args),
            Some(Command::Predict(args)) => predict::run(&args),
            Some(Command::Merge(args)) => merge::run(&args),
            Some(Command::Export(args)) => export::run(&args),
            Some(Command::Push(args)) => push::run(&args),
            Some(Command::Chat(args)) => chat::run(&args),
            Some(Command::Serve(args)) => serve::run(&args),
            Some(Command::Plan(args)) => plan::run(&args),
            Some(Command::Tokenizer(args)) => tokenizer::run(&args),
            Some(Command::Cache(args)) => cache::run(&args),
            Some(Command::Config(args)) => config_keys::run(&args),
            Some(Command::Completions { shell }) => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut text);
                observe::print(&config_keys::adapted(&String::from_utf8_lossy(&text)));
                Ok(())
            }
            Some(Command::Man { folder }) => std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
                .input_context(folder.display()),
            None if PathBuf::from(train::DEFAULT_CONFIG).exists() => train::run(train::TrainArgs::default(), began),
            None => {
                if rank_of_environment() == 0 {
                    eprintln!("{}", Cli::command().render_help());
                }
                join_to_leave();
                Err(Error::input(format!("no command given, and no ./{} to train from", train::DEFAULT_CONFIG))
                    .shared())
            }
        }
    }
}

/// Returns the error for settings written as options (`--lr 3e-5`), if the arguments were refused because of an unknown
/// option.
pub fn settings_as_options(refused: &clap::Error) -> Option<Error> {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let mut cli = Cli::command();
    cli.build();
    let name = words.iter().find(|word| ["train", "launch", "plan", "cross-validate"].contains(&word.as_str()))?;
    let command = cli.find_subcommand(name)?;
    let known: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    let unknown = refused.kind() == clap::error::ErrorKind::UnknownArgument;
    unknown.then(|| config::check_options(&words, &known).err()).flatten()
}

/// Returns the peak memory of the run's tensors on this rank, by use; `None` outside a run.
pub fn memory_account() -> Option<String> {
    memory_report::account()
}
