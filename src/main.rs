//! The binary: runs the command; on an error or a panic reports which rank failed and ends all ranks.

use clap::Parser;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;
use std::{env, panic};
use trainer::cli::{self, Cli};
use trainer::comm::exit_now;
use trainer::error::{Error, Kind, catches_panics};
use trainer::ffi::{device, memory};
use trainer::observe::logs::{self, tell_error};
use trainer::observe::{printed, rank_of_environment, signals};

fn main() {
    let began = Instant::now();
    // Before anything is written.
    let limit = signals::outlive_file_limit();
    let cli = Cli::try_parse().unwrap_or_else(|e| usage(&e));
    if cli.computes() {
        wait_passively();
    }
    // Before the first tensor.
    memory::install();
    let allocator = device::use_expandable_segments();
    logs::start(cli.log_format, rank_of_environment());
    die_on_panic();
    match limit.and(allocator).and_then(|()| cli.run(began)).and_then(|()| printed()) {
        Ok(()) => leave(0),
        Err(e) => fail(&e),
    }
}

/// Restarts this program with `OMP_WAIT_POLICY=passive`, unless the user has set how threads wait.
///
/// By default the threads of an OpenMP region spin while they wait for each other, which makes a run several times
/// slower on cores that other processes also use. The OpenMP runtime reads the variable when it is loaded, before
/// `main`.
fn wait_passively() {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if [POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME"].iter().any(|name| env::var_os(name).is_some()) {
        return;
    }
    let mut words = env::args_os();
    let (Some(name), Ok(program)) = (words.next(), env::current_exe()) else { return };
    // Returns only if it fails, for example after an update that replaced the file; then threads spin.
    _ = Command::new(program).arg0(name).args(words).env(POLICY, "passive").exec();
}

/// Prints help, or what is wrong with the arguments. All ranks have the same arguments; only rank 0 prints.
fn usage(e: &clap::Error) -> ! {
    if rank_of_environment() == 0 {
        match cli::settings_as_options(e) {
            Some(e) => tell_error(&format!("trainer: error: {e}")),
            // A failure to print cannot be reported.
            None => _ = e.print(),
        }
    }
    if e.exit_code() != 0 {
        cli::join_to_leave();
    }
    leave(e.exit_code())
}

/// Reports the error and exits: together with all ranks if they share the error, else at once, ending the job.
fn fail(e: &Error) -> ! {
    let code = e.kind().exit_code();
    let rank = rank_of_environment();
    if !e.is_shared() {
        report(e);
        report_memory(e.kind());
        abort(code);
    }
    if rank == 0 {
        report(e);
        report_memory(e.kind());
    }
    leave(code)
}

fn report(e: &Error) {
    match (cli::group(), e.kind()) {
        (Some(group), _) if group.world() > 1 && !e.is_shared() => {
            tell_error(&format!("trainer: rank {}: error: {e}", group.rank()));
        }
        (_, Kind::Stopped) => tell_error(&format!("trainer: {e}")),
        _ => tell_error(&format!("trainer: error: {e}")),
    }
}

/// Reports memory by use after an out-of-memory error.
fn report_memory(kind: Kind) {
    if let Some(account) = cli::memory_account().filter(|_| kind == Kind::OutOfMemory) {
        tell_error(&format!("trainer: rank {}: {account}", rank_of_environment()));
    }
}

/// Leaves the group of ranks and exits.
fn leave(code: i32) -> ! {
    let finished = cli::group().map_or(Ok(()), |group| group.finish());
    if let Err(e) = finished {
        tell_error(&format!("trainer: {e}"));
    }
    exit_now(code)
}

/// Ends this rank and the job.
fn abort(code: i32) -> ! {
    match cli::group() {
        Some(group) => group.abort(code),
        None => exit_now(code),
    }
}

/// Makes panics end the job as errors do. tch panics on errors of libtorch in functions without a `Result`.
fn die_on_panic() {
    panic::set_hook(Box::new(|info| {
        if catches_panics() {
            return;
        }
        let message = info.payload_as_str().unwrap_or("a panic without a message");
        let place = info.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
        let e = trainer::ffi::libtorch_error(message);
        tell_error(&format!("trainer: rank {}: error: {e}{place}", rank_of_environment()));
        report_memory(e.kind());
        abort(e.kind().exit_code())
    }));
}
