//! Training time without evaluation and saving.

use std::time::Instant;

/// Wall time of training, and tokens.
#[derive(Debug)]
pub struct Clock {
    since: Instant,
    /// Tokens since the last log line.
    pub tokens: u64,
    /// Seconds up to the last log line.
    pub seconds: f64,
    /// Tokens up to the last log line.
    pub all_tokens: u64,
    /// Bytes passed to the collectives of all steps, as counted by [`crate::comm::traffic`].
    pub communicated: u64,
    /// Bytes of them that this rank sent to other hosts, as counted by [`crate::comm::between_hosts`].
    pub between_hosts: u64,
    /// Steps taken by this process.
    pub steps: u64,
    /// Seconds from the start of the process to the end of the first step.
    pub first_step: Option<f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    pub fn new() -> Self {
        Clock {
            since: Instant::now(),
            tokens: 0,
            seconds: 0.0,
            communicated: 0,
            between_hosts: 0,
            steps: 0,
            all_tokens: 0,
            first_step: None,
        }
    }

    /// Returns tokens per second of all ranks since the last log line; padding does not count.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }

    /// Begins the interval of the next log line.
    pub fn lap(&mut self) {
        self.seconds += self.since.elapsed().as_secs_f64();
        self.all_tokens += self.tokens;
        self.tokens = 0;
        self.since = Instant::now();
    }

    /// Estimates the seconds for `steps` more steps; `None` before the first or after the last.
    pub fn left(&self, steps: u64) -> Option<f64> {
        let so_far = self.seconds + self.since.elapsed().as_secs_f64();
        (self.steps > 0 && steps > 0).then(|| so_far / self.steps as f64 * steps as f64)
    }

    /// Runs `work` (evaluation or saving) without counting its time.
    pub fn pause<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let value = work();
        self.since += before.elapsed();
        value
    }
}
