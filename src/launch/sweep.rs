//! The file of a sweep, and the runs that it asks for.

use super::runs::Run;
use crate::config::{self, Config};
use crate::error::{Context, Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use toml::{Spanned, Table, Value};

/// How often a random search tries to find settings that no earlier run has.
const TRIES: u64 = 1000;
/// Settings that a sweep determines itself.
const OWN: [&str; 2] = ["output_dir", "overwrite_output_dir"];

/// The order in which values are combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// Every combination; the last parameter changes fastest.
    #[default]
    Grid,
    /// A number of random combinations.
    Random,
}

/// The file of a sweep.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The configuration that all runs share.
    config: Option<PathBuf>,
    /// The folder of the run folders.
    output_dir: PathBuf,
    #[serde(default)]
    method: Method,
    /// Number of runs of a random search.
    runs: Option<Spanned<u64>>,
    #[serde(default)]
    seed: u64,
    /// Settings of all runs.
    #[serde(default)]
    settings: BTreeMap<String, Spanned<Value>>,
    parameters: Spanned<BTreeMap<String, Spanned<Value>>>,
}

/// What a parameter may be.
#[derive(Debug, Clone, PartialEq)]
enum Values {
    List(Vec<Value>),
    Whole { min: i64, max: i64, log: bool },
    Number { min: f64, max: f64, log: bool },
}

#[derive(Debug)]
struct Parameter {
    /// As it is written in the file.
    name: String,
    values: Values,
}

/// The runs of a sweep.
#[derive(Debug)]
pub struct Sweep {
    pub output_dir: PathBuf,
    /// The configuration file that all runs share.
    pub config: Option<PathBuf>,
    /// Names of the parameters, as in the file.
    pub parameters: Vec<String>,
    /// Each with the values of the parameters, in their order, as `key=value`; and its configuration.
    pub runs: Vec<(Run, Vec<String>)>,
}

impl Sweep {
    /// Reads a sweep's file and checks the configuration of every run.
    ///
    /// # Errors
    /// Exit 2, with the line: what is wrong with the file; unknown keys; a run whose configuration is invalid, or which
    /// makes no evaluation to compare.
    pub fn load(path: &Path) -> Result<Sweep> {
        let text = std::fs::read_to_string(path).input_context(format!("cannot read {}", path.display()))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the text of a sweep's file; `name` is the file's name in messages.
    ///
    /// # Errors
    /// As [`Sweep::load`].
    pub fn parse(text: &str, name: &str) -> Result<Sweep> {
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or_else(String::new, |span| format!(":{}", line(text, span.start)));
            Error::input(format!("{name}{line}: {}", e.message()))
        })?;
        let at = |place: usize, what: &dyn Display| Error::input(format!("{name}:{}: {what}", line(text, place)));
        let (mut names, mut parameters, mut shared) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (key, value) in flat(file.parameters.get_ref(), &is_range) {
            known(&key, &mut names).map_err(|why| at(value.span().start, &why))?;
            let values = Values::of(value.get_ref(), file.method)
                .map_err(|why| at(value.span().start, &format!("parameters.{key}: {why}")))?;
            parameters.push((value.span().start, Parameter { name: key, values }));
        }
        for (key, value) in flat(&file.settings, &|_| false) {
            known(&key, &mut names).map_err(|why| at(value.span().start, &why))?;
            shared.push(format!("{key}={}", text_of(value.get_ref())));
        }
        if parameters.is_empty() {
            return Err(at(file.parameters.span().start, &"parameters: there are none to search"));
        }
        parameters.sort_by_key(|(place, _)| *place);
        let parameters: Vec<Parameter> = parameters.into_iter().map(|(_, parameter)| parameter).collect();
        let combinations = match (file.method, file.runs) {
            (Method::Grid, None) => grid(&parameters),
            (Method::Grid, Some(runs)) => {
                return Err(at(
                    runs.span().start,
                    &"runs: a grid has a run for every combination; remove it, or set method = \"random\"",
                ));
            }
            (Method::Random, Some(runs)) if *runs.get_ref() > 0 => {
                random(&parameters, file.seed, *runs.get_ref()).map_err(|why| at(runs.span().start, &why))?
            }
            (Method::Random, _) => {
                return Err(Error::input(format!("{name}: method = \"random\" needs runs, the number of runs")));
            }
        };
        let mut runs: Vec<(Run, Vec<String>)> = Vec::new();
        for values in combinations {
            let own: Vec<String> =
                parameters.iter().zip(&values).map(|(p, value)| format!("{}={}", p.name, text_of(value))).collect();
            let settings: Vec<String> = shared.iter().chain(&own).cloned().collect();
            let run = Run::new(&file.output_dir, file.config.as_deref(), settings)
                .context(format!("{name}: the run with {}", own.join(" ")))?;
            if run.config.train.eval_strategy == config::IntervalStrategy::No {
                let why = "a sweep compares evaluations: set data.eval and train.eval_strategy";
                return Err(Error::input(format!("{name}: {why}")));
            }
            if runs.iter().all(|(other, _)| other.identity() != run.identity()) {
                runs.push((run, own));
            }
        }
        let names = parameters.into_iter().map(|parameter| parameter.name).collect();
        Ok(Sweep { output_dir: file.output_dir, config: file.config, parameters: names, runs })
    }

    /// Returns the configuration of the first run.
    pub fn first(&self) -> &Config {
        &self.runs[0].0.config
    }
}

/// Returns a value in TOML; numbers of many digits with an exponent.
fn text_of(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && !(1e-3..1e6).contains(&x.abs()) && x.is_finite() => format!("{x:e}"),
        other => other.to_string(),
    }
}

/// Returns the line of a place in a text, from 1.
fn line(text: &str, place: usize) -> usize {
    1 + text.bytes().take(place).filter(|&byte| byte == b'\n').count()
}

/// Returns the entries with dotted keys: a table is a section unless it is a value.
fn flat(table: &BTreeMap<String, Spanned<Value>>, is_value: &dyn Fn(&Table) -> bool) -> Vec<(String, Spanned<Value>)> {
    let entries = table.iter().flat_map(|(key, value)| match value.get_ref() {
        Value::Table(section) if !is_value(section) => {
            let inner = section.iter();
            inner.map(|(name, inner)| (format!("{key}.{name}"), Spanned::new(value.span(), inner.clone()))).collect()
        }
        _ => vec![(key.clone(), value.clone())],
    });
    entries.collect()
}

fn is_range(table: &Table) -> bool {
    ["min", "max", "log"].iter().any(|&key| table.get(key).is_some_and(|value| !value.is_array() && !value.is_table()))
}

/// Checks a key, which may be set once and by the user.
fn known(key: &str, names: &mut BTreeSet<String>) -> Result<()> {
    let name = config::full_name(key)?;
    if OWN.contains(&name.as_str()) {
        return Err(Error::input(format!("{key}: each run has a folder of its own in the sweep's output_dir")));
    }
    if !names.insert(name) {
        return Err(Error::input(format!("{key}: is set twice")));
    }
    Ok(())
}

impl Values {
    fn of(value: &Value, method: Method) -> Result<Values, String> {
        let range = match value {
            Value::Array(values) if values.is_empty() => return Err("an empty list".into()),
            Value::Array(values) => return Ok(Values::List(values.clone())),
            Value::Table(range) => range,
            other => return Err(format!("found {other}, expected a list of values or {{ min = ..., max = ... }}")),
        };
        if method == Method::Grid {
            return Err("a grid needs a list of values; a range needs method = \"random\"".into());
        }
        if let Some(key) = range.keys().find(|key| !["min", "max", "log"].contains(&key.as_str())) {
            return Err(format!("unknown key {key:?} of a range, expected min, max and log"));
        }
        let log = match range.get("log") {
            None => false,
            Some(Value::Boolean(log)) => *log,
            Some(other) => return Err(format!("log: found {other}, expected true or false")),
        };
        let number = |value: &Value| value.as_float().or(value.as_integer().map(|n| n as f64));
        let [min, max] = ["min", "max"].map(|key| range.get(key));
        let (Some(low), Some(high)) = (min.and_then(number), max.and_then(number)) else {
            return Err("a range needs the numbers min and max".into());
        };
        if !(low < high && low.is_finite() && high.is_finite()) {
            return Err(format!("min {low} is not below max {high}"));
        }
        if log && low <= 0.0 {
            return Err(format!("a logarithmic range needs min > 0, found {low}"));
        }
        Ok(match (min.and_then(Value::as_integer), max.and_then(Value::as_integer)) {
            (Some(min), Some(max)) => Values::Whole { min, max, log },
            _ => Values::Number { min: low, max: high, log },
        })
    }

    /// Returns the value for `u` in [0, 1).
    fn at(&self, u: f64) -> Value {
        let between = |min: f64, max: f64, log: bool| {
            if log { min * (max / min).powf(u) } else { min + (max - min) * u }
        };
        match *self {
            Values::List(ref values) => values[(u * values.len() as f64) as usize].clone(),
            Values::Whole { min, max, log } => {
                Value::Integer((between(min as f64, max as f64 + 1.0, log).floor() as i64).clamp(min, max))
            }
            Values::Number { min, max, log } => {
                // Three significant digits are enough for a search, and can be read and typed again.
                let value = format!("{:.2e}", between(min, max, log)).parse().unwrap_or(min);
                Value::Float(value.clamp(min, max))
            }
        }
    }
}

fn grid(parameters: &[Parameter]) -> Vec<Vec<Value>> {
    parameters.iter().fold(vec![Vec::new()], |before, parameter| {
        let Values::List(values) = &parameter.values else { return before };
        before
            .iter()
            .flat_map(|start| values.iter().map(|value| [start.as_slice(), std::slice::from_ref(value)].concat()))
            .collect()
    })
}

/// Returns `n` different combinations; the i-th depends on the seed, i and the parameters' names alone, so that more runs
/// repeat the earlier ones.
fn random(parameters: &[Parameter], seed: u64, n: u64) -> Result<Vec<Vec<Value>>, String> {
    let unit = |draw: u64, name: &str| {
        let hash = blake3::hash(format!("{seed} {draw} {name}").as_bytes());
        let bits = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        (bits >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut found: Vec<Vec<Value>> = Vec::new();
    for draw in 0..n.saturating_add(TRIES) {
        if found.len() as u64 == n {
            break;
        }
        let values: Vec<Value> = parameters.iter().map(|p| p.values.at(unit(draw, &p.name))).collect();
        if !found.contains(&values) {
            found.push(values);
        }
    }
    if (found.len() as u64) < n {
        return Err(format!("runs: there are only {} different combinations of these values", found.len()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "output_dir = \"runs/s\"\n[settings]\nmodel.path = \"m\"\ntask.kind = \"causal-lm\"\n\
        data = { train = \"t\", eval = \"e\" }\neval_steps = 5\n";

    fn runs(text: &str) -> Vec<String> {
        let sweep = Sweep::parse(&text.replace("HEAD", HEAD), "s.toml").unwrap();
        sweep.runs.iter().map(|(_, own)| own.join(" ")).collect()
    }

    fn refused(text: &str, expected: &str) {
        let error = Sweep::parse(&text.replace("HEAD", HEAD), "s.toml").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_grid_has_every_combination_once() {
        let found = runs("HEAD[parameters]\nweight_decay = [0.1, 0.0]\ntrain.learning_rate = [1e-5, 3e-5, 3e-5]\n");
        let rates = ["1e-5", "3e-5"];
        let expected: Vec<String> = ["0.1", "0.0"]
            .iter()
            .flat_map(|decay| rates.map(|rate| format!("weight_decay={decay} train.learning_rate={rate}")))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(
            runs("HEAD[parameters.train]\noptim = [\"lion\", \"adamw\"]\n"),
            ["train.optim=\"lion\"", "train.optim=\"adamw\""]
        );
    }

    #[test]
    fn a_random_search_stays_in_its_ranges_and_goes_on() {
        let text = |n: usize| {
            format!(
                "method = \"random\"\nruns = {n}\nHEAD[parameters]\nlearning_rate = {{ min = 1e-6, max = 1e-3, log = true }}\n\
                 max_steps = {{ min = 3, max = 9 }}\nadam_beta1 = [0.8, 0.9]\n"
            )
        };
        let (few, many) = (runs(&text(20)), runs(&text(60)));
        assert_eq!(few[..], many[..20]);
        let mut below = 0;
        let mut steps = BTreeSet::new();
        for run in &many {
            let values: Vec<f64> =
                run.split(' ').map(|word| word.split_once('=').unwrap().1.parse().unwrap()).collect();
            assert!((1e-6..=1e-3).contains(&values[0]) && [0.8, 0.9].contains(&values[2]), "{run}");
            below += usize::from(values[0] < 3.16e-5);
            steps.insert(values[1] as i64);
        }
        assert!((15..=45).contains(&below), "{below} of 60 in the lower half of the logarithmic range");
        assert_eq!(steps.into_iter().collect::<Vec<_>>(), (3..=9).collect::<Vec<_>>());
    }

    #[test]
    fn mistakes_name_their_line() {
        refused(
            "HEAD[parameters]\nlearning_rat = [1.0]\n",
            "s.toml:8: learning_rat: unknown key, did you mean train.learning_rate?",
        );
        refused(
            "HEAD[parameters]\nseed = [1]\nmax_steps = 3\n",
            "s.toml:9: parameters.max_steps: found 3, expected a list",
        );
        refused("HEAD[parameters]\nseed = []\n", "s.toml:8: parameters.seed: an empty list");
        refused("HEAD[parameters]\neval_steps = [1]\n", "eval_steps: is set twice");
        refused("HEAD[parameters]\noutput_dir = ['a']\n", "output_dir: each run has a folder of its own");
        refused("HEAD[parameters]\n", "parameters: there are none to search");
        refused("HEAD", "missing field `parameters`");
        refused("methd = 'grid'\nHEAD", "s.toml:1: unknown field `methd`");
        refused("runs = 3\nHEAD[parameters]\nseed = [1]\n", "s.toml:1: runs: a grid has a run for every combination");
        refused("HEAD[parameters]\nseed = { min = 1, max = 2 }\n", "a range needs method = \"random\"");
        let random = |range: &str| format!("method = \"random\"\nruns = 3\nHEAD[parameters]\nseed = {range}\n");
        refused(&random("{ min = 2, max = 2 }"), "min 2 is not below max 2");
        refused(&random("{ min = 0, max = 2, log = true }"), "a logarithmic range needs min > 0");
        refused(&random("{ min = 0, max = 2, step = 1 }"), "unknown key \"step\" of a range");
        refused(&random("[1, 2]"), "s.toml:2: runs: there are only 2 different combinations");
        refused("HEAD[parameters]\nlearning_rate = [1e-5, -1.0]\n", "the run with learning_rate=-1.0: ");
        refused(
            "output_dir = \"r\"\n[settings]\nmodel.path = \"m\"\ntask.kind = \"causal-lm\"\ndata.train = \"t\"\n[parameters]\nseed = [1]\n",
            "a sweep compares evaluations",
        );
    }
}
