//! The time that training takes, evaluation and saving left out.

use std::time::Instant;

/// Wall time in training alone, and tokens.
#[derive(Debug)]
pub struct Clock {
    since: Instant,
    /// Tokens since the last line.
    pub tokens: u64,
    /// Up to the last line.
    pub seconds: f64,
    /// Up to the last line.
    pub all_tokens: u64,
    /// Bytes that collectives of steps were given, as [`crate::comm::traffic`] counts them.
    pub communicated: u64,
    /// Steps of this process.
    pub steps: u64,
    /// Seconds from the start of the process.
    pub first_step: Option<f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Starts now.
    pub fn new() -> Self {
        Clock {
            since: Instant::now(),
            tokens: 0,
            seconds: 0.0,
            communicated: 0,
            steps: 0,
            all_tokens: 0,
            first_step: None,
        }
    }

    /// Real tokens of all ranks over wall time since the last line.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }

    /// Starts the next line.
    pub fn lap(&mut self) {
        self.seconds += self.since.elapsed().as_secs_f64();
        self.all_tokens += self.tokens;
        self.tokens = 0;
        self.since = Instant::now();
    }

    /// Seconds that `steps` more take at the pace so far; `None` before the first or after the last.
    pub fn left(&self, steps: u64) -> Option<f64> {
        let so_far = self.seconds + self.since.elapsed().as_secs_f64();
        (self.steps > 0 && steps > 0).then(|| so_far / self.steps as f64 * steps as f64)
    }

    /// Leaves out what happened since: evaluation and saving.
    pub fn pause<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let value = work();
        self.since += before.elapsed();
        value
    }
}
