//! Checks of a `config.json` that families share; each message names the key.

use crate::error::{Error, Result};
use crate::nn::activation::Activation;

/// Sizes from 1 to 2^31.
///
/// # Errors
/// Exit 2.
pub fn sizes(values: &[(&str, i64)]) -> Result<()> {
    match values.iter().find(|(_, value)| !(1..1 << 31).contains(value)) {
        Some((key, value)) => Err(Error::input(format!("{key} = {value}: a size from 1 to 2^31 is wanted"))),
        None => Ok(()),
    }
}

/// Dropout probabilities.
///
/// # Errors
/// Exit 2.
pub fn probabilities(values: &[(&str, f64)]) -> Result<()> {
    match values.iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
        Some((key, p)) => Err(Error::input(format!("{key} = {p}: a probability from 0 up and below 1 is wanted"))),
        None => Ok(()),
    }
}

/// One size divides another; both are at least 1.
///
/// # Errors
/// Exit 2.
pub fn multiple((key, value): (&str, i64), (of, unit): (&str, i64)) -> Result<()> {
    if value % unit == 0 {
        return Ok(());
    }
    Err(Error::input(format!("{key} {value} is not a multiple of {of} {unit}")))
}

/// The activation of a Hugging Face name.
///
/// # Errors
/// Exit 2: one that is not known.
pub fn activation(key: &str, name: &str) -> Result<Activation> {
    Activation::from_name(name).ok_or_else(|| Error::input(format!("{key} \"{name}\" is not known")))
}
