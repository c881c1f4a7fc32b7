//! The output of the ranks: forwarded as it arrives, and recorded for the report of a failure.

use crate::comm::{EXIT_NOTICE, LISTENING};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Number of lines per rank that are shown again when the job fails.
const LAST_LINES: usize = 5;

/// The state of a job according to its output.
#[derive(Debug, Default)]
pub struct JobOutput {
    /// The last lines of each rank.
    last: BTreeMap<usize, VecDeque<String>>,
    /// The first error of a rank.
    error: Option<String>,
    /// mpirun's message about a rank that was ended by a signal.
    killed: Option<String>,
    /// The exit code of the first failed rank.
    pub code: Option<i32>,
    /// Whether the ranks handle signals by writing a checkpoint.
    pub listening: bool,
    /// Time since which the job is ending.
    pub ending: Option<Instant>,
    /// The lines so far of a box in mpirun's output.
    boxed: Option<Vec<String>>,
}

/// Messages of mpirun that add nothing to the cause that we report.
const NOISE: [&str; 5] = [
    "exited on signal",
    "MPI_ABORT was invoked",
    "Primary job  terminated normally",
    "detected that one or more processes exited",
    "Forwarding signal",
];

impl JobOutput {
    /// Processes a line of mpirun's output (`--tag-output`); returns the text to show.
    pub fn process_line(&mut self, line: &str) -> Option<String> {
        let (rank, text) = untagged(line);
        let Some(rank) = rank else { return self.hear_mpirun(text) };
        if let Some(code) = text.strip_prefix(EXIT_NOTICE) {
            self.code = self.code.or(code.trim().parse().ok());
            self.ending.get_or_insert_with(Instant::now);
            return None;
        }
        if text == LISTENING {
            self.listening = true;
            return None;
        }
        if let Some(error) = error_of(&text) {
            self.error.get_or_insert(error);
        }
        let last = self.last.entry(rank).or_default();
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text.clone());
        Some(text)
    }

    /// mpirun's own lines: messages are boxes between two dashed lines, and are filtered as a whole.
    fn hear_mpirun(&mut self, text: String) -> Option<String> {
        if text.contains("exited on signal") {
            self.killed.get_or_insert_with(|| text.trim().to_owned());
        }
        let edge = text.len() > 20 && text.bytes().all(|byte| byte == b'-');
        match &mut self.boxed {
            None if edge => self.boxed = Some(vec![text]),
            None => return Some(text).filter(|text| !is_noise(text)),
            Some(lines) => lines.push(text),
        }
        let complete = edge && self.boxed.as_ref().is_some_and(|lines| lines.len() > 1);
        if complete { self.rest().filter(|text| !is_noise(text)) } else { None }
    }

    /// Returns the lines of an unclosed box.
    pub fn rest(&mut self) -> Option<String> {
        self.boxed.take().map(|lines| lines.join("\n"))
    }

    /// Whether any rank has written output.
    pub fn anything(&self) -> bool {
        !self.last.is_empty() || self.killed.is_some()
    }

    /// Returns the known cause of a failure: a killed rank could report nothing, and the others' errors follow from it.
    pub fn cause(&self) -> Option<&str> {
        self.killed.as_deref().or(self.error.as_deref())
    }

    /// Formats the last lines of each of `ranks` ranks; `host_of` returns the host of a rank, if known.
    pub fn last_lines(&self, ranks: usize, host_of: impl Fn(usize) -> Option<String>) -> String {
        let mut out = String::from("the last lines of each rank:");
        for (rank, lines) in &self.last {
            let name =
                host_of(rank.to_owned()).map_or_else(|| format!("rank {rank}"), |host| format!("rank {rank} ({host})"));
            lines.iter().for_each(|line| out += &format!("\n  {name} | {line}"));
        }
        let silent: Vec<String> =
            (0..ranks).filter(|rank| !self.last.contains_key(rank)).map(|rank| rank.to_string()).collect();
        match silent.len() {
            0 => out,
            1 => out + &format!("\n  no output from rank {}", silent[0]),
            n if n > 16 => out + &format!("\n  no output from {n} ranks"),
            _ => out + &format!("\n  no output from ranks {}", silent.join(", ")),
        }
    }
}

fn is_noise(text: &str) -> bool {
    NOISE.iter().any(|noise| text.contains(noise))
}

/// Splits a line of `mpirun --tag-output` into rank and text: `[1,0]<stderr>:text` in Open MPI 4; Open MPI 5 has a name
/// before the comma and a space after the colon. mpirun tags pieces of at most 4 kB, so a long line has the tag again
/// within it.
fn untagged(line: &str) -> (Option<usize>, String) {
    let tag = || -> Option<(usize, usize)> {
        let inside = line.strip_prefix('[')?;
        let (place, rest) = inside.split_once(']')?;
        let rank = place.rsplit_once(',')?.1.parse().ok()?;
        let stream = ["<stdout>:", "<stderr>:", "<stddiag>:"].into_iter().find(|stream| rest.starts_with(stream))?;
        let space = usize::from(place.contains('@') && rest[stream.len()..].starts_with(' '));
        Some((rank, 1 + place.len() + 1 + stream.len() + space))
    };
    match tag() {
        Some((rank, end)) => {
            let (tag, text) = line.split_at(end);
            (Some(rank), text.replace(tag, ""))
        }
        None => (None, line.to_owned()),
    }
}

/// Returns the error in a rank's line, plain or as an event of `--log-format json`.
fn error_of(line: &str) -> Option<String> {
    let json = || serde_json::from_str::<Value>(line).ok()?.get("message")?.as_str().map(str::to_owned);
    let text = if line.starts_with('{') { json()? } else { line.to_owned() };
    let message = text.strip_prefix("trainer: ")?;
    message.contains("error: ").then(|| message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_off() {
        assert_eq!(untagged("[1,12]<stderr>:step 1"), (Some(12), "step 1".into()));
        assert_eq!(untagged("[1,0]<stdout>:"), (Some(0), "".into()));
        assert_eq!(untagged("[1,0]<stdout>: indented"), (Some(0), " indented".into()));
        assert_eq!(untagged("[prterun-h1-7@1,3]<stderr>: step 1"), (Some(3), "step 1".into()));
        assert_eq!(untagged("[prterun-h1-7@1,3]<stderr>:"), (Some(3), "".into()));
        assert_eq!(untagged("[1,0]<stderr>:long[1,0]<stderr>: line"), (Some(0), "long line".into()));
        for own in ["[h1:18073] [ 0] /lib/libc.so.6", "[a,b] text", "-----", "[1,0] x"] {
            assert_eq!(untagged(own), (None, own.into()));
        }
    }

    #[test]
    fn the_first_error_is_the_cause_unless_a_rank_was_killed() {
        let mut output = JobOutput::default();
        assert_eq!(output.process_line("[1,0]<stderr>:step 1").as_deref(), Some("step 1"));
        assert_eq!(output.cause(), None);
        output.process_line("[1,1]<stderr>:trainer: rank 1: error: no memory");
        output.process_line("[1,0]<stderr>:trainer: rank 0: error: rank 1 is gone");
        assert_eq!(output.process_line(&format!("[1,1]<stderr>:{EXIT_NOTICE}6")), None, "not shown");
        assert_eq!((output.cause(), output.code), (Some("rank 1: error: no memory"), Some(6)));
        assert!(output.ending.is_some() && !output.listening);
        assert_eq!(output.process_line(&format!("[1,0]<stderr>:{LISTENING}")), None, "not shown");
        assert!(output.listening);
        output.process_line("mpirun noticed that process rank 1 with PID 7 on node h2 exited on signal 9 (Killed).");
        assert!(output.cause().unwrap().contains("signal 9"));
        let mut json = JobOutput::default();
        json.process_line(r#"[1,0]<stderr>:{"level":"ERROR","message":"trainer: error: bad","rank":0}"#);
        assert_eq!(json.cause(), Some("error: bad"));
    }

    #[test]
    fn redundant_boxes_of_mpirun_are_skipped() {
        let mut output = JobOutput::default();
        let edge = "-".repeat(74);
        let mut process =
            |lines: &[&str]| lines.iter().filter_map(|line| output.process_line(line)).collect::<Vec<_>>();
        assert!(process(&[&edge, "Primary job  terminated normally, but 1 process returned", &edge]).is_empty());
        let message = [edge.as_str(), "There are not enough slots available in the system", &edge];
        assert_eq!(process(&message), [message.join("\n")]);
        assert_eq!(process(&["[h1:18073] *** Process received signal ***"]).len(), 1);
        assert!(process(&[&edge, "cut"]).is_empty());
        assert_eq!(output.rest(), Some(format!("{edge}\ncut")));
    }

    #[test]
    fn the_last_lines_of_each_rank() {
        let mut output = JobOutput::default();
        (0..9).for_each(|step| drop(output.process_line(&format!("[1,0]<stderr>:step {step}"))));
        output.process_line("[1,2]<stderr>:bad");
        let host = |rank| (rank == 2).then(|| "b".to_owned());
        let text = output.last_lines(4, host);
        let expected = "the last lines of each rank:\n  rank 0 | step 4\n  rank 0 | step 5\n  rank 0 | step 6\n  rank \
                         0 | step 7\n  rank 0 | step 8\n  rank 2 (b) | bad\n  no output from ranks 1, 3";
        assert_eq!(text, expected);
    }
}
