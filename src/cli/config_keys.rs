//! `trainer config`, and the completion of keys on command lines.

use crate::config;
use crate::error::Result;
use crate::observe;
use crate::observe::logs::wrap;
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command};
use std::ffi::OsStr;

/// `trainer config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The key, such as learning_rate or train.learning_rate.
    #[arg(required_unless_present = "all")]
    key: Option<String>,
    /// List all keys.
    #[arg(long, conflicts_with = "key")]
    all: bool,
}

/// Explains a key of the configuration, or lists all.
///
/// # Errors
/// Exit code 2 for an unknown key.
pub fn run(args: &ConfigArgs) -> Result<()> {
    const INDENT: usize = 13;
    let line = |(label, text): &(&str, String)| match *label {
        "" => format!("\n{}\n", wrap(text, 0)),
        label => wrap(&format!("{label:INDENT$}{text}"), INDENT) + "\n",
    };
    let text = match &args.key {
        Some(key) => config::explain(key)?.iter().map(line).collect(),
        None => config::list(),
    };
    observe::print(&text);
    Ok(())
}

/// Accepts any word; `key=` words are its completions.
#[derive(Debug, Clone)]
pub struct OverrideParser;

impl TypedValueParser for OverrideParser {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(config::names().map(|name| PossibleValue::new(&*format!("{name}=").leak()))))
    }
}

/// Returns a completion script in which, in bash, no space follows a completed `key=`, and files come before keys.
pub fn adapted(script: &str) -> String {
    const COMPLETE: &str = "COMPREPLY=( $(compgen -W \"${opts}\" -- \"${cur}\") )\n";
    const KEYS: &str = "[[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace\n";
    const FILES: &str = "[[ ${COMPREPLY[*]} == *= && -n ${cur} && $(compgen -f -- \"${cur}\") ]] && COMPREPLY=()\n";
    script.replace(COMPLETE, &[COMPLETE, KEYS, FILES].concat())
}
