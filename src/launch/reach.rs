//! Finds hosts that a remote shell cannot reach: mpirun reports that there is one, but not always which.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Timeout for a host to respond.
const TIME_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Returns the hosts on which mpirun's remote shell cannot run a command, with the reason, in the order of `hosts`.
/// `agent` is the value of `OMPI_MCA_plm_rsh_agent`.
pub fn unreachable<'a>(hosts: impl Iterator<Item = &'a str>, agent: Option<&str>) -> Vec<(&'a str, String)> {
    let words = agent.and_then(|agent| shell_words::split(agent).ok()).filter(|words| !words.is_empty());
    let usual = || ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=8"].map(str::to_owned).to_vec();
    let words = words.unwrap_or_else(usual);
    let ask = |host| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args([host, "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| e.to_string())
    };
    // All hosts in parallel.
    let asked: Vec<_> = hosts.map(|host| (host, ask(host))).collect();
    let until = Instant::now() + TIME_LIMIT;
    let answer = |(host, child): (&'a str, Result<Child, String>)| {
        let why = child.and_then(|child| wait(child, until)).err()?;
        Some((host, format!("{}: {why}", words[0])))
    };
    asked.into_iter().filter_map(answer).collect()
}

/// Waits for a shell; the error is its last line of output.
fn wait(mut child: Child, until: Instant) -> Result<(), String> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let mut said = String::new();
                if let Some(mut from) = child.stderr.take() {
                    // Ignore unreadable output.
                    _ = from.read_to_string(&mut said);
                }
                return Err(said.trim().lines().last().map_or_else(|| status.to_string(), str::to_owned));
            }
            Ok(None) if Instant::now() < until => thread::sleep(POLL),
            ended => {
                _ = child.kill();
                _ = child.wait();
                return Err(ended
                    .err()
                    .map_or_else(|| format!("no answer within {} s", TIME_LIMIT.as_secs()), |e| e.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn hosts_that_do_not_answer_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("my shell");
        std::fs::write(
            &agent,
            "#!/bin/sh\n[ \"$2\" != b ] || { echo a word >&2; echo \"no route to $2\" >&2; exit 255; }\n",
        )
        .unwrap();
        std::fs::set_permissions(&agent, PermissionsExt::from_mode(0o755)).unwrap();
        let agent = format!("'{}' -q", agent.display());
        let found = unreachable(["a", "b", "c"].into_iter(), Some(&agent));
        let [(host, why)] = found.as_slice() else { panic!("{found:?}") };
        assert!(*host == "b" && why.ends_with("my shell: no route to b"), "{found:?}");
        let none = unreachable(["a"].into_iter(), Some("/nowhere/shell"));
        assert!(none[0].1.starts_with("/nowhere/shell: "), "{none:?}");
    }
}
