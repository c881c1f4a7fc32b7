//! Parsers of option values.

/// A time in seconds, with the bounds of `comm.timeout_seconds`.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|&seconds: &f64| seconds > 0.0 && seconds <= 1e9);
    seconds.ok_or_else(|| "expected a number greater than 0 and at most 1e9".into())
}

/// An integer from 1 up.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected an integer >= 1".into())
}
