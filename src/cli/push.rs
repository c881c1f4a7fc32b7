//! `trainer push`

use crate::error::{Error, Result};
use crate::hub::{self, Repo};
use crate::observe;
use crate::observe::rank_of_environment;
use clap::Args;
use std::path::PathBuf;

/// `trainer push`
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Model folder, such as a run's final.
    folder: PathBuf,
    /// Repository: ORG/NAME. It is created if it does not exist.
    #[arg(value_name = "ORG/NAME")]
    name: String,
    /// Create a private repository; one that exists stays as it is.
    #[arg(long)]
    private: bool,
    /// Branch to commit to, which is created from main if it does not exist [default: main].
    #[arg(long, value_name = "BRANCH")]
    revision: Option<String>,
}

/// Uploads a model folder as one commit, and prints the commit's URL.
///
/// # Errors
/// Exit 2: a name of another form; as [`hub::Hub::push`].
pub fn run(args: &PushArgs) -> Result<()> {
    // Rank 0 does all the work.
    if rank_of_environment() != 0 {
        return Ok(());
    }
    let PushArgs { folder, name, private, revision } = args;
    let text = revision.as_ref().map_or_else(|| name.clone(), |revision| format!("{name}@{revision}"));
    let repo = Repo::model(&text).filter(|_| !name.contains('@'));
    let repo = repo.ok_or_else(|| {
        let why = "not of the form ORG/NAME of letters, digits, '-', '_' and '.'; a branch is named by --revision";
        Error::input(format!("{text}: {why}"))
    })?;
    let url = hub::of_environment()?.push(folder, &repo, *private)?;
    observe::print(&format!("{url}\n"));
    Ok(())
}
