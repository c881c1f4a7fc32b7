//! Checks of `config.json` that families share; each message names the key.

use crate::error::{Error, Result};
use crate::ops::gated::activation::Activation;

/// Checks that sizes are from 1 to 2^31.
///
/// # Errors
/// Exit 2.
pub fn sizes(values: &[(&str, i64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(1..1 << 31).contains(value)) {
        Some((key, value)) => Err(Error::input(format!("{key} = {value}: expected a size from 1 to 2^31"))),
        None => Ok(()),
    }
}

/// Checks dropout probabilities.
///
/// # Errors
/// Exit 2.
pub fn probabilities(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
        Some((key, p)) => Err(Error::input(format!("{key} = {p}: expected a probability of at least 0 and below 1"))),
        None => Ok(()),
    }
}

/// Checks that one size is a multiple of another; both are at least 1.
///
/// # Errors
/// Exit 2.
pub fn multiple((key, value): (&str, i64), (of, unit): (&str, i64)) -> Result<()> {
    if value % unit == 0 {
        return Ok(());
    }
    Err(Error::input(format!("{key} {value} is not a multiple of {of} {unit}")))
}

/// Returns the activation of a Hugging Face name.
///
/// # Errors
/// Exit 2: an unknown name.
pub fn activation(key: &str, name: &str) -> Result<Activation> {
    Activation::from_name(name).ok_or_else(|| Error::input(format!("{key} \"{name}\" is not known")))
}

/// Returns for each of `layers` layers whether `layer_types` gives it a sliding window.
///
/// # Errors
/// Exit 2: another number of entries, or another kind of attention.
pub fn layer_types(kinds: &[String], layers: usize) -> Result<Vec<bool>> {
    if kinds.len() != layers {
        let entries = kinds.len();
        return Err(Error::input(format!("layer_types has {entries} entries, num_hidden_layers is {layers}")));
    }
    let slides = |kind: &String| match kind.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(Error::input(format!("layer_types: \"{other}\" is not supported"))),
    };
    kinds.iter().map(slides).collect()
}
