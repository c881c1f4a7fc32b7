//! The values that keys of `config.json` may have.

use crate::error::{Error, Result};

/// Sizes are from 1 to 2^31.
///
/// # Errors
/// Exit 2, naming the first key that is out.
pub fn sizes(keys: &[(&str, i64)]) -> Result<()> {
    match keys.iter().find(|(_, value)| !(1..1 << 31).contains(value)) {
        Some((key, value)) => Err(Error::input(format!("{key} = {value}: a size from 1 to 2^31 is wanted"))),
        None => Ok(()),
    }
}

/// Probabilities of dropout are from 0 up and below 1.
///
/// # Errors
/// Exit 2, naming the first key that is out.
pub fn dropouts(keys: &[(&str, f64)]) -> Result<()> {
    match keys.iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
        Some((key, p)) => Err(Error::input(format!("{key} = {p}: a probability from 0 up and below 1 is wanted"))),
        None => Ok(()),
    }
}
