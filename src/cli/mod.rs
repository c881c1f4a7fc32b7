//! The command line: arguments to calls, nothing else.

mod answers;
mod chat;
mod doctor;
mod evaluate;
mod generation;
mod group;
mod launch;
mod output;
mod parse;
mod plan;
mod predict;
mod reading;
mod slurm;
mod tokenizer;
mod train;

pub use group::{group, join_to_leave};

use crate::config;
use crate::error::{Error, Result};
use crate::observe::logs::LogFormat;
use crate::observe::{self, rank_of_environment};
use crate::train::memory_report;
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Instant;

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
    Train(train::TrainArgs),
    /// Starts a training run on all GPUs of this machine, on several hosts, or in Slurm, and again after a fault.
    Launch(Box<launch::LaunchArgs>),
    /// Shows what this machine and these ranks have, and what is wrong with it; also under mpirun or srun.
    Doctor(doctor::DoctorArgs),
    /// Evaluates a fine-tuned model on labelled data.
    Evaluate(evaluate::EvaluateArgs),
    /// Predicts one line of output for each line of input.
    Predict(predict::PredictArgs),
    /// Talks with a language model at the terminal.
    Chat(chat::ChatArgs),
    /// Tells what a training run would need: memory, disk and time.
    Plan(plan::PlanArgs),
    /// Trains a tokenizer on texts, for a model that starts from nothing.
    Tokenizer(tokenizer::TokenizerArgs),
    /// Writes what a shell completes commands by to standard output.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
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
            Some(Command::Completions { shell }) => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut text);
                observe::print(&String::from_utf8_lossy(&text));
                Ok(())
            }
            None if PathBuf::from(train::DEFAULT_CONFIG).exists() => train::run(train::TrainArgs::default(), began),
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

/// What a run's tensors on this rank have held at most, by use; `None` outside a run.
pub fn memory_account() -> Option<String> {
    memory_report::account()
}
