//! `trainer cross-validate`

use super::config_keys::OverrideParser;
use super::runs::{RunsArgs, conclude};
use super::train::config_and_settings;
use crate::config::{Config, IntervalStrategy};
use crate::error::{Context, Error, Result};
use crate::launch::runs::{self, Outcome, Run};
use crate::observe::logs::tell;
use crate::observe::{self, table, whole_file};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The file with mean and spread.
const SUMMARY: &str = "cross_validation.json";

/// `trainer cross-validate`
#[derive(Debug, Args)]
pub struct CrossValidateArgs {
    /// Configuration file (TOML).
    config: Option<PathBuf>,
    /// Settings that override those of the file, such as train.learning_rate=3e-5.
    #[arg(value_name = "KEY=VALUE", value_parser = OverrideParser, hide_possible_values = true)]
    overrides: Vec<String>,
    /// Number of parts of the training data.
    #[arg(long, value_name = "K", default_value_t = 5)]
    folds: usize,
    #[command(flatten)]
    runs: RunsArgs,
}

/// A metric over the folds.
struct Row {
    name: String,
    values: Vec<f64>,
    mean: f64,
    /// The sample standard deviation.
    std: f64,
}

/// Trains on all folds but one, for each fold, and prints mean and spread of the metrics.
///
/// # Errors
/// Exit 2: fewer than two folds; an invalid configuration; a folder that is a run's. As [`runs::run`] and [`conclude`].
pub fn run(args: &CrossValidateArgs) -> Result<()> {
    let folds = args.folds;
    if folds < 2 {
        return Err(Error::input(format!("--folds {folds}: expected at least 2")));
    }
    let (file, given) = config_and_settings(args.config.clone(), args.overrides.clone());
    let settings = |fold: usize, more: &[String]| {
        let own = format!("data.eval_split=\"{fold}/{folds}\"");
        given.iter().chain(more).cloned().chain([own]).collect::<Vec<String>>()
    };
    let base = Config::load(file.as_deref(), &settings(1, &[]))?;
    let folder = base.output_dir;
    if folder.join("metrics.jsonl").exists() {
        let why = "is the folder of a run; give the cross-validation another output_dir";
        return Err(Error::input(format!("{}: {why}", folder.display())));
    }
    let evaluates = base.train.eval_strategy != IntervalStrategy::No;
    let more = if evaluates { vec![] } else { vec!["train.eval_strategy=\"epoch\"".to_owned()] };
    let planned = (1..=folds)
        .map(|fold| Run::new(&folder, file.as_deref(), settings(fold, &more)))
        .collect::<Result<Vec<_>>>()?;
    let mut start = args.runs.start("cross-validate", &folder, file.clone())?;
    start.all_or_none = true;
    let ended = runs::run(&planned, &start, |run| format!("fold {} of {folds}", run + 1))?;
    conclude(&start, &ended)?;
    let outcomes: Vec<&Outcome> = ended.iter().filter_map(|(_, outcome)| outcome.as_ref()).collect();
    let rows = rows(&outcomes);
    let path = folder.join(SUMMARY);
    let names: Vec<&String> = ended.iter().map(|(name, _)| name).collect();
    let text = serde_json::to_string_pretty(&summary(&names, &rows)).context(SUMMARY)? + "\n";
    whole_file::write(&path, text)?;
    observe::print(&(shown(folds, &rows) + "\n"));
    tell(&format!("cross-validate: {}", path.display()));
    Ok(())
}

/// Returns the metrics that every fold has; the loss first.
fn rows(outcomes: &[&Outcome]) -> Vec<Row> {
    let row = |name: &String| {
        let values = outcomes.iter().map(|outcome| outcome.metrics.get(name).copied()).collect::<Option<Vec<f64>>>()?;
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Row { name: name.clone(), values, mean, std: (squares / (n - 1.0)).sqrt() })
    };
    let names = outcomes.first().into_iter().flat_map(|first| first.metrics.keys());
    let mut rows: Vec<Row> = names.filter(|name| name.starts_with("eval_")).filter_map(row).collect();
    rows.sort_by_key(|row| row.name != "eval_loss");
    rows
}

fn summary(names: &[&String], rows: &[Row]) -> Value {
    let metric = |row: &Row| {
        let Row { name, values, mean, std } = row;
        (name.clone(), json!({ "mean": mean, "std": std, "folds": values }))
    };
    json!({ "runs": names, "metrics": rows.iter().map(metric).collect::<serde_json::Map<_, _>>() })
}

fn shown(folds: usize, rows: &[Row]) -> String {
    let head: Vec<String> = (1..=folds).map(|fold| format!("fold {fold}")).collect();
    let head: Vec<&str> = ["metric", "mean", "std"].into_iter().chain(head.iter().map(String::as_str)).collect();
    let row = |row: &Row| {
        let numbers = [row.mean, row.std].into_iter().chain(row.values.iter().copied());
        [row.name.clone()].into_iter().chain(numbers.map(|number| format!("{number:.4}"))).collect()
    };
    table::table(&head, &rows.iter().map(row).collect::<Vec<Vec<String>>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn mean_and_spread() {
        let of = |loss: f64, accuracy: Option<f64>| {
            let metrics: BTreeMap<String, f64> =
                [("eval_accuracy".into(), accuracy), ("eval_loss".into(), Some(loss)), ("step".into(), Some(3.0))]
                    .into_iter()
                    .filter_map(|(name, value): (String, Option<f64>)| Some((name, value?)))
                    .collect();
            Outcome { exit_code: 0, seconds: 1.0, error: None, metrics }
        };
        let all = [of(1.0, Some(0.5)), of(2.0, Some(0.5)), of(3.0, Some(0.8))];
        let rows = rows(&all.iter().collect::<Vec<_>>());
        assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["eval_loss", "eval_accuracy"]);
        assert_eq!((rows[0].mean, rows[0].std), (2.0, 1.0));
        // statistics.stdev([0.5, 0.5, 0.8])
        assert!((rows[1].mean - 0.6).abs() < 1e-12 && (rows[1].std - 0.173_205_080_756_887_7).abs() < 1e-12);
        assert!(shown(3, &rows).contains("fold 3"));
        let partly = [of(1.0, None), of(2.0, Some(0.5))];
        assert_eq!(super::rows(&partly.iter().collect::<Vec<_>>()).len(), 1, "undefined in a fold");
    }
}
