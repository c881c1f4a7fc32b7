//! `report.html`, a page about a run, and a page that compares runs.

mod classes;
mod curves;
mod environment;
mod examples;
mod run;
mod runs;

pub use curves::of_run as curves;
pub use environment::environment;
pub use run::{Evaluated, RunReport};
pub use runs::{RunFolder, compare};

use crate::checkpoint::run_dir::REPORT;
use crate::error::{Context, Result};
use crate::observe::memory::human;
use crate::observe::page::Cell;
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Removes the page of an earlier part of a run, which this part does not write again.
///
/// # Errors
/// The file's name and the system's error.
pub fn remove(run: &Path) -> Result<()> {
    let page = run.join(REPORT);
    match fs::remove_file(&page) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context(page.display()),
        _ => Ok(()),
    }
}

/// Returns a metric as a cell; one that is not defined is empty.
fn metric(value: Option<&Value>) -> Cell {
    Cell::Number(value.and_then(Value::as_f64).map_or_else(String::new, digits))
}

/// Returns a metric with four decimals, or four digits of a small number.
fn digits(x: f64) -> String {
    match x.abs() {
        0.0 | 0.01.. => format!("{x:.4}"),
        _ => format!("{x:.3e}"),
    }
}

/// Returns the greatest of a list of numbers of bytes, or of one number.
fn bytes(value: Option<&Value>) -> Option<String> {
    let all = value?.as_array().map_or_else(|| vec![value], |items| items.iter().map(Some).collect());
    all.into_iter().filter_map(|item| item?.as_u64()).max().map(human)
}

/// Returns the lines of evaluations.
fn evaluations(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line.get("eval_loss").is_some()).collect()
}

/// Returns the metrics of these lines without the prefix `eval_`, each once, in the order of the lines.
fn metric_names<'a>(evaluations: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for key in evaluations.into_iter().filter_map(Value::as_object).flat_map(|line| line.keys()) {
        match key.strip_prefix("eval_") {
            Some(name) if !names.contains(&name) => names.push(name),
            _ => {}
        }
    }
    names
}
