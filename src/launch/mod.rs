//! Launches a job: on this machine, on several hosts, or in Slurm.
//!
//! A job runs mpirun repeatedly until one run succeeds ([`run`]). A [`Job`] says what to run, a [`layout::Place`]
//! where; [`mpirun::command`] builds the command line, `supervise` watches one start, and [`restart`] decides whether
//! there is another. In [`slurm`] a batch script does the same.

pub mod hosts;
mod job;
pub mod layout;
pub mod mpirun;
mod output;
mod reach;
pub mod restart;
pub mod runs;
pub mod slurm;
mod supervise;
pub mod sweep;

pub use job::{Job, Variable, quote};

use crate::comm::NO_ACKNOWLEDGEMENT;
use crate::error::{Error, Result};
use crate::machine;
use crate::observe::logs;
use layout::Layout;
use mpirun::Here;
use output::JobOutput;
use restart::{History, LatestCheckpoint, Next};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use supervise::Requests;

/// Returns the command that starts a job; `listens` if [`run`] reads its output, not a person.
///
/// # Errors
/// If this process has no working directory any more.
pub fn command(job: &Job, layout: &Layout, root: bool, listens: bool) -> Result<Vec<String>> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let variables: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
    let folder = std::env::current_dir()?.display().to_string();
    Ok(mpirun::command(job, layout, root, &Here { variables, folder, listens }))
}

/// Runs a job with restarts after transient faults; prints why it ended and returns its exit code.
///
/// # Errors
/// If mpirun cannot be started.
pub fn run(job: &Job, layout: &Layout, root: bool) -> Result<i32> {
    let requests = Requests::listen()?;
    let output_dir = &job.config.output_dir;
    let at_start = LatestCheckpoint::of(output_dir);
    let mut latest = at_start;
    let mut history = History { restarts: 0, fruitless: 0, had_output: false };
    let mut start = job.clone();
    loop {
        let ended = supervise::run(&command(&start, layout, root, true)?, &requests, job.grace)?;
        history.had_output |= ended.output.anything();
        let before = std::mem::replace(&mut latest, LatestCheckpoint::of(output_dir));
        history.fruitless = if latest.is_some() && latest != before { 0 } else { history.fruitless + 1 };
        let pause = match restart::next(ended.code, requests.stop(), history, job.max_restarts) {
            Next::Again(pause) => pause,
            Next::Leave(why) => {
                tell_end(ended.code, &ended.output, layout, why.as_deref());
                return Ok(ended.code);
            }
        };
        history.restarts += 1;
        let resume =
            restart::resume(&job.resume, latest.is_some() && latest != at_start, job.config.overwrite_output_dir);
        start.resume = resume.to_owned();
        let from = match latest.filter(|_| resume == "auto") {
            Some(latest) => format!("from step {}", latest.step),
            None => "from scratch, because there is no checkpoint yet".into(),
        };
        let (code, seconds, cause) = (ended.code, pause.as_secs(), cause_of(&ended.output, layout));
        let (n, most) = (history.restarts, job.max_restarts);
        logs::tell(&format!("launch: exit {code}: {cause}\nlaunch: restart {n} of {most} in {seconds} s, {from}"));
        if requests.sleep(pause) {
            logs::tell_error("trainer: launch: stop requested while waiting for a restart");
            return Ok(ended.code);
        }
    }
}

/// Describes why a start ended, with the name and the ranks of a host that the output names by address.
fn cause_of(output: &JobOutput, layout: &Layout) -> String {
    let Some(cause) = output.cause() else {
        let agent =
            ["OMPI_MCA_plm_rsh_agent", "PRTE_MCA_plm_ssh_agent"].iter().find_map(|name| std::env::var(name).ok());
        let hosts = if output.anything() { &[][..] } else { &layout.hosts };
        // mpirun needs no remote shell for its own host.
        let others = hosts.iter().map(|host| host.name.as_str()).filter(|&name| name != machine::host_name());
        let lost = reach::unreachable(others, agent.as_deref());
        let lost: Vec<String> = lost.iter().map(|(host, why)| format!("{host} cannot be reached ({why})")).collect();
        return if lost.is_empty() {
            "no rank has reported the cause; see the output of mpirun above".into()
        } else {
            lost.join("; ")
        };
    };
    let mut text = cause.to_owned();
    let addresses = cause.split_once(NO_ACKNOWLEDGEMENT).map_or("", |(_, rest)| rest);
    for host in layout.hosts.iter().filter(|_| !addresses.is_empty()) {
        let own = (host.name.as_str(), 0).to_socket_addrs().into_iter().flatten();
        for address in own.map(|own| own.ip().to_string()).filter(|own| is_among(own, addresses)) {
            let ranks: Vec<String> =
                (0..layout.ranks).filter(|&r| layout.host_of(r) == Some(&host.name)).map(|r| r.to_string()).collect();
            text += &format!(" ({address} is {}, rank {})", host.name, ranks.join(", "));
        }
    }
    text
}

/// Whether the text contains this address, not only as a prefix of another.
fn is_among(address: &str, text: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'))
        .any(|word| word.trim_end_matches(':') == address)
}

/// Prints the ranks' last lines and why the job ended, unless all exited together: rank 0 has printed the cause then.
fn tell_end(code: i32, output: &JobOutput, layout: &Layout, why: Option<&str>) {
    // A shared error of all ranks has no rank prefix.
    let shared = output.cause().is_some_and(|cause| cause.starts_with("error: "));
    if matches!(code, 0 | 3 | 130) || (shared && (why.is_none() || matches!(code, 2 | 4 | 6))) {
        return;
    }
    if layout.ranks > 1 && !shared && output.anything() {
        let host_of = |rank| layout.host_of(rank).map(str::to_owned);
        logs::tell(&format!("launch: {}", output.last_lines(layout.ranks, host_of)));
    }
    let why = why.map_or_else(String::new, |why| format!(", {why}"));
    logs::tell_error(&format!("trainer: launch: exit {code}{why}: {}", cause_of(output, layout)));
}

impl Job {
    /// Checks what would fail on all ranks.
    ///
    /// # Errors
    /// Exit 2 for a missing checkpoint to resume from, or a missing variable, before all ranks fail.
    pub fn check(&self) -> Result<()> {
        for variable in &self.environment {
            variable.here()?;
        }
        match self.resume.as_str() {
            "auto" | "none" => Ok(()),
            path if PathBuf::from(path).is_dir() => Ok(()),
            path => Err(Error::input(format!("--resume {path}: no such folder"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_whole_words() {
        assert!(is_among("10.0.0.1", " 10.0.0.3, 10.0.0.1: that host or its link is down"));
        assert!(!is_among("10.0.0.1", " 10.0.0.11: that host or its link is down"));
        assert!(is_among("fe80::2", " fe80::2: that host"));
    }
}
