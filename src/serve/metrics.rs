//! What a server counts, in Prometheus' text format.

use crate::error::{Error, Result};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, exponential_buckets,
};
use std::time::Duration;

/// The metrics of one server.
pub struct Metrics {
    registry: Registry,
    /// By route and status.
    requests: IntCounterVec,
    /// By route.
    seconds: HistogramVec,
    /// Requests whose work waits for a batch.
    pub queued: IntGauge,
    /// Requests whose work is in a batch.
    pub running: IntGauge,
    batch_sequences: Histogram,
    batch_tokens: Histogram,
    /// By kind: of texts and prompts that were read, and generated ones.
    tokens: IntCounterVec,
}

/// Creates a metric and registers it.
macro_rules! register {
    ($registry:expr, $metric:expr) => {{
        let metric = $metric.map_err(failed)?;
        $registry.register(Box::new(metric.clone())).map_err(failed)?;
        metric
    }};
}

impl Metrics {
    /// # Errors
    /// None in practice: the names are valid and different.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        let buckets = |start: f64, factor: f64, n: usize| exponential_buckets(start, factor, n).map_err(failed);
        let sizes = |name: &str, help: &str, n: usize| -> Result<Histogram> {
            let opts = HistogramOpts::new(name, help).buckets(buckets(1.0, 2.0, n)?);
            Ok(register!(registry, Histogram::with_opts(opts)))
        };
        let seconds = HistogramOpts::new("trainer_request_seconds", "Time from a request to the end of its response");
        let seconds = seconds.buckets(buckets(0.001, 2.0, 19)?);
        let opts = Opts::new;
        Ok(Metrics {
            requests: register!(
                registry,
                IntCounterVec::new(
                    opts("trainer_requests_total", "Finished requests by route and status"),
                    &["route", "status"]
                )
            ),
            seconds: register!(registry, HistogramVec::new(seconds, &["route"])),
            queued: register!(registry, IntGauge::new("trainer_queued_requests", "Requests that wait for a batch")),
            running: register!(registry, IntGauge::new("trainer_running_requests", "Requests in the current batch")),
            batch_sequences: sizes("trainer_batch_sequences", "Sequences of each batch", 12)?,
            batch_tokens: sizes("trainer_batch_tokens", "Tokens that the model reads in each batch", 18)?,
            tokens: register!(
                registry,
                IntCounterVec::new(opts("trainer_tokens_total", "Tokens that were read and generated"), &["kind"])
            ),
            registry,
        })
    }

    /// Counts a finished request.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[route, &status.to_string()]).inc();
        self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Counts a batch of `sequences` with `read` tokens of new texts and `continued` ones of running texts.
    pub fn batch(&self, sequences: usize, read: usize, continued: usize) {
        self.batch_sequences.observe(sequences as f64);
        self.batch_tokens.observe((read + continued) as f64);
        self.tokens.with_label_values(&["read"]).inc_by(read as u64);
    }

    /// Counts generated tokens.
    pub fn generated(&self, tokens: usize) {
        self.tokens.with_label_values(&["generated"]).inc_by(tokens as u64);
    }

    /// Returns all metrics as text.
    ///
    /// # Errors
    /// None in practice: every metric has a name.
    pub fn text(&self) -> Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather()).map_err(failed)
    }
}

fn failed(e: prometheus::Error) -> Error {
    Error::other(format!("metrics: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    impl Metrics {
        /// Waits until no request is in a batch.
        pub fn wait_for_idle(&self) {
            for _ in 0..1000 {
                if self.running.get() == 0 {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
            panic!("{} requests are running", self.running.get());
        }
    }

    #[test]
    fn metrics_are_text() {
        let metrics = Metrics::new().unwrap();
        metrics.request("/v1/classify", 200, Duration::from_millis(3));
        metrics.request("/v1/classify", 429, Duration::ZERO);
        metrics.batch(3, 40, 2);
        metrics.generated(5);
        metrics.running.set(2);
        let text = metrics.text().unwrap();
        for line in [
            "# TYPE trainer_requests_total counter",
            "trainer_requests_total{route=\"/v1/classify\",status=\"200\"} 1",
            "trainer_requests_total{route=\"/v1/classify\",status=\"429\"} 1",
            "trainer_request_seconds_count{route=\"/v1/classify\"} 2",
            "trainer_batch_sequences_sum 3",
            "trainer_batch_tokens_sum 42",
            "trainer_tokens_total{kind=\"read\"} 40",
            "trainer_tokens_total{kind=\"generated\"} 5",
            "trainer_running_requests 2",
        ] {
            assert!(text.lines().any(|own| own == line), "{line}: {text}");
        }
    }
}
