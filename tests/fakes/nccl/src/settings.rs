//! Settings of the fake NCCL from the environment. An invalid value ends the process.

use std::ffi::c_int;
use std::str::FromStr;
use std::sync::OnceLock;

/// Injected faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    InitHangs,
    CallFails,
    CallHangs,
    AsyncError,
    CollectiveHangs,
}

struct Settings {
    version: c_int,
    fault: Option<(Fault, u64)>,
    rank: Option<usize>,
}

fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings {
        version: read("FAKE_NCCL_VERSION", number).unwrap_or(22907),
        fault: read("FAKE_NCCL_FAULT", fault),
        rank: read("FAKE_NCCL_FAULT_RANK", number),
    })
}

pub fn version() -> c_int {
    settings().version
}

/// Like NCCL from 2.30 on, if its variable allows it.
pub fn shares_gpus() -> bool {
    version() >= 23000 && read("NCCL_MULTI_RANK_GPU_ENABLE", number::<i64>).is_some_and(|on| on != 0)
}

/// Whether this fault applies to this rank at this collective.
pub fn goes_wrong(fault: Fault, rank: usize, sequence: u64) -> bool {
    settings().fault == Some((fault, sequence)) && settings().rank.is_none_or(|only| only == rank)
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn fault(text: &str) -> Option<(Fault, u64)> {
    let (kind, at) = text.split_once(':').unwrap_or((text, "0"));
    let kind = match kind {
        "init-hangs" => Fault::InitHangs,
        "call-fails" => Fault::CallFails,
        "call-hangs" => Fault::CallHangs,
        "async-error" => Fault::AsyncError,
        "collective-hangs" => Fault::CollectiveHangs,
        _ => return None,
    };
    Some((kind, number(at)?))
}

fn read<T>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(parse(&text).unwrap_or_else(|| panic!("{name}={text}: see the fake NCCL for its values")))
}
