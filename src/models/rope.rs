//! Rotary settings of `config.json`: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of 5.

use crate::error::{Error, Result};
use crate::nn::rotary::{Rotary, Scaling};
use serde_json::{Value, json};

/// Returns the rotary embedding of a configuration.
///
/// # Errors
/// As [`settings`].
pub fn read(config: &Value, head_dim: i64, max_positions: i64) -> Result<Rotary> {
    let (base, scaling) = settings(config, head_dim, max_positions)?;
    Ok(Rotary::new(head_dim, base, scaling))
}

/// Returns the base of the frequencies and their scaling.
///
/// # Errors
/// Exit 2, naming the key: an unsupported type, or a missing number.
pub fn settings(config: &Value, head_dim: i64, max_positions: i64) -> Result<(f64, Scaling)> {
    let nothing = json!({});
    let found = ["rope_scaling", "rope_parameters"].into_iter().find_map(|key| {
        let settings = config.get(key)?;
        settings.as_object().is_some_and(|map| !map.is_empty()).then_some((key, settings))
    });
    let (key, inner) = found.unwrap_or(("config", &nothing));
    let refuse = |why: String| Err(Error::input(format!("{key}: {why}")));
    if head_dim % 2 != 0 {
        return Err(Error::input(format!("head_dim {head_dim} is odd: rotary embeddings need an even head_dim")));
    }
    if let Some((kind, _)) = inner.as_object().and_then(|map| map.iter().find(|(_, value)| value.is_object())) {
        return refuse(format!(
            "\"{kind}\" has separate settings; only the same settings for all layers are supported"
        ));
    }
    let settings = Settings { key, inner };
    let outer = Settings { key: "config", inner: config };
    let either = |first: &Settings, second: &Settings, name| Ok::<_, Error>(first.get(name)?.or(second.get(name)?));
    let partial = either(&settings, &outer, "partial_rotary_factor")?.unwrap_or(1.0);
    if partial != 1.0 {
        return refuse(format!("partial_rotary_factor = {partial} is not supported, only 1"));
    }
    let base = either(&settings, &outer, "rope_theta")?.unwrap_or(10_000.0);
    let original = either(&outer, &settings, "original_max_position_embeddings")?.unwrap_or(max_positions as f64);
    let kind = ["rope_type", "type"].iter().find_map(|name| inner.get(*name).and_then(Value::as_str));
    let scaling = match kind.unwrap_or("default") {
        // Up to max_position_embeddings, which no sequence exceeds here, "dynamic" leaves the frequencies unchanged.
        "default" | "dynamic" => Scaling::None,
        "linear" => Scaling::Linear { factor: settings.needed("factor")? },
        "llama3" => Scaling::Llama3 {
            factor: settings.needed("factor")?,
            low: settings.needed("low_freq_factor")?,
            high: settings.needed("high_freq_factor")?,
            original,
        },
        "yarn" => yarn(&settings, max_positions as f64, original)?,
        other => {
            return refuse(format!(
                "rope_type \"{other}\" is not supported, only default, linear, dynamic, llama3 and yarn"
            ));
        }
    };
    Ok((base, scaling))
}

/// The numbers of the object `key`.
struct Settings<'a> {
    key: &'static str,
    inner: &'a Value,
}

impl Settings<'_> {
    fn get(&self, name: &str) -> Result<Option<f64>> {
        match self.inner.get(name).filter(|value| !value.is_null()).map(|value| (value, value.as_f64())) {
            None => Ok(None),
            Some((_, Some(number))) if number > 0.0 => Ok(Some(number)),
            Some((value, _)) => Err(Error::input(format!("{}: {name} = {value}: expected a number above 0", self.key))),
        }
    }

    fn needed(&self, name: &str) -> Result<f64> {
        self.get(name)?.ok_or_else(|| Error::input(format!("{}: {name} is missing", self.key)))
    }
}

/// With the defaults of transformers (arXiv 2309.00071, section 3.4 for the factor on attention).
fn yarn(settings: &Settings, max_positions: f64, original: f64) -> Result<Scaling> {
    let factor = settings.get("factor")?.unwrap_or(max_positions / original);
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let inferred = match (settings.get("mscale")?, settings.get("mscale_all_dim")?) {
        (Some(own), Some(all)) => grown(own) / grown(all),
        _ => grown(1.0),
    };
    Ok(Scaling::Yarn {
        factor,
        attention: settings.get("attention_factor")?.unwrap_or(inferred),
        fast: settings.get("beta_fast")?.unwrap_or(32.0),
        slow: settings.get("beta_slow")?.unwrap_or(1.0),
        truncate: settings.inner.get("truncate").and_then(Value::as_bool).unwrap_or(true),
        original,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &Value) -> Rotary {
        read(config, 8, 64).unwrap()
    }

    #[test]
    fn transformers_4_and_5_say_the_same() {
        let llama3 = |kind: &str| {
            json!({kind: "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 32})
        };
        let mut new = llama3("rope_type");
        new["rope_theta"] = json!(500_000.0);
        let new = of(&json!({"rope_parameters": new}));
        for kind in ["type", "rope_type"] {
            assert_eq!(of(&json!({"rope_theta": 500_000.0, "rope_scaling": llama3(kind)})), new);
        }
        assert_ne!(of(&json!({"rope_theta": 500_000.0})), new);
        let plain = of(&json!({}));
        assert_eq!(of(&json!({"rope_theta": 10_000, "rope_scaling": null})), plain);
        assert_eq!(of(&json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}})), plain);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (config, part) in [
            (json!({"rope_scaling": {"type": "longrope"}}), "rope_scaling: rope_type \"longrope\" is not supported"),
            (json!({"rope_parameters": {"rope_type": "linear"}}), "rope_parameters: factor is missing"),
            (json!({"rope_parameters": {"full_attention": {}}}), "\"full_attention\" has separate settings"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor = 0.5 is not supported"),
            (json!({"rope_theta": "1e4"}), "config: rope_theta = \"1e4\": expected a number above 0"),
        ] {
            let e = read(&config, 8, 64).unwrap_err().to_string();
            assert!(e.contains(part), "{config}: {e}");
        }
    }
}
