//! The page that compares runs, from their configurations and `metrics.jsonl`.

use super::{curves, evaluations, metric, metric_names};
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::observe::page::{Cell, Page};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Settings whose differences say nothing about a run.
const OWN: [&str; 2] = ["output_dir", "overwrite_output_dir"];

/// The folder of a run, as far as pages need it.
#[derive(Debug)]
pub struct RunFolder {
    /// The path as it was given.
    pub name: String,
    pub config: Config,
    /// The lines of `metrics.jsonl`.
    pub lines: Vec<Value>,
}

impl RunFolder {
    /// Reads a run, which may be running; or the runs in the folders of a folder (a sweep), by name.
    ///
    /// # Errors
    /// Exit 2: a folder without a run; a file that cannot be read, with its line.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        if metrics(path).exists() {
            return Ok(vec![Self::read_one(path)?]);
        }
        let entries = fs::read_dir(path).input_context(path.display())?.flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = entries.filter(|folder| metrics(folder).exists()).collect();
        folders.sort();
        if folders.is_empty() {
            let why =
                "no metrics.jsonl here or in a folder in it: give the output_dir of a run, or the folder of a sweep";
            return Err(Error::input(format!("{}: {why}", path.display())));
        }
        folders.iter().map(|folder| Self::read_one(folder)).collect()
    }

    fn read_one(path: &Path) -> Result<Self> {
        let (file, name) = (metrics(path), path.display().to_string());
        let config = Config::load(Some(&path.join("config.toml")), &[])?;
        let text = fs::read_to_string(&file).input_context(file.display())?;
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            match serde_json::from_str(line) {
                Ok(value) => lines.push(value),
                // It is being written.
                Err(_) if !line.ends_with('\n') => {}
                Err(e) => return Err(Error::input(format!("{}:{number}: {e}: remove the line", file.display()))),
            }
        }
        Ok(RunFolder { name, config, lines })
    }

    /// Returns the best evaluation by `train.metric_for_best_model`, the first of equal ones.
    pub fn best(&self) -> Option<&Value> {
        let train = &self.config.train;
        let key = format!("eval_{}", train.metric_for_best_model);
        let sign = if train.is_greater_better() { 1.0 } else { -1.0 };
        let value = |line: &Value| line.get(&key).and_then(Value::as_f64).map(|value| sign * value);
        let found = evaluations(&self.lines).into_iter().filter_map(|line| Some((value(line)?, line)));
        found.rev().max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, line)| line)
    }
}

fn metrics(run: &Path) -> PathBuf {
    run.join("metrics.jsonl")
}

/// Returns the page that compares runs.
pub fn compare(runs: &[RunFolder]) -> Page {
    let mut page = Page::new(&format!("{} run{}", runs.len(), if runs.len() == 1 { "" } else { "s" }));
    page.heading("Results");
    let evaluated = || runs.iter().flat_map(|run| evaluations(&run.lines));
    let names = metric_names(evaluated());
    let mut head = vec!["run", "last step", "last loss", "best evaluation at step"];
    let of_metrics: Vec<String> = names.iter().map(|name| format!("eval_{name} (best step)")).collect();
    head.extend(of_metrics.iter().map(String::as_str));
    head.push("tokens per second");
    let row = |run: &RunFolder| {
        let last =
            |key: &str| run.lines.iter().rev().filter(|line| line.get("event").is_none()).find_map(|l| l.get(key));
        let step = |line: Option<&Value>| Cell::number(line.map(Value::to_string).unwrap_or_default());
        let best = run.best();
        let mut row = vec![Cell::text(&run.name), step(last("step")), metric(last("loss"))];
        row.push(step(best.and_then(|line| line.get("step"))));
        row.extend(names.iter().map(|name| metric(best.and_then(|line| line.get(format!("eval_{name}"))))));
        let rate = last("tokens_per_second").and_then(Value::as_f64);
        row.push(Cell::number(rate.map_or_else(String::new, |rate| format!("{rate:.0}"))));
        row
    };
    page.table(&head, &runs.iter().map(row).collect::<Vec<_>>());
    let names: Vec<&str> = ["setting"].into_iter().chain(runs.iter().map(|run| run.name.as_str())).collect();
    let rows = differences(runs);
    if !rows.is_empty() {
        page.heading("Settings that differ");
        page.table(&names, &rows);
    }
    page.heading("Curves by optimizer step");
    let lines: Vec<(&str, &[Value])> = runs.iter().map(|run| (run.name.as_str(), run.lines.as_slice())).collect();
    page.charts(&curves::of_runs(&lines));
    page
}

/// Returns a row for each setting that is not the same in all runs.
fn differences(runs: &[RunFolder]) -> Vec<Vec<Cell>> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    // Of each key the value of the first run, and those of the others where they differ.
    let mut found: BTreeMap<String, (String, BTreeMap<usize, String>)> = BTreeMap::new();
    for (index, run) in others.iter().enumerate() {
        for (key, own, of_first) in run.config.differences(&first.config) {
            found.entry(key).or_insert_with(|| (of_first, BTreeMap::new())).1.insert(index, own);
        }
    }
    let row = |(key, (of_first, own)): (String, (String, BTreeMap<usize, String>))| {
        let others = (0..others.len()).map(|index| Cell::text(own.get(&index).unwrap_or(&of_first)));
        [Cell::Text(key), Cell::text(&of_first)].into_iter().chain(others).collect()
    };
    found.into_iter().filter(|(key, _)| !OWN.contains(&key.as_str())).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, name: &str, more: &[&str], lines: &str) {
        let base = ["model.path=m", "task.kind=sequence-classification", "data.train=t", "data.eval=e"];
        let own = format!("output_dir={name}");
        let words: Vec<String> = base.iter().chain(more).map(|&word| word.to_owned()).chain([own]).collect();
        let config = Config::parse("", "a test", &words).unwrap();
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("config.toml"), config.to_toml()).unwrap();
        fs::write(folder.join(name).join("metrics.jsonl"), lines).unwrap();
    }

    #[test]
    fn the_runs_of_a_folder_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let lines = "{\"step\":1,\"loss\":2.5}\n{\"step\":1,\"eval_loss\":0.5}\n{\"step\":2,\"eval_loss\":0.75}\n\
                     {\"event\":\"summary\",\"step\":2}\n";
        run(folder.path(), "b", &["learning_rate=1e-3", "seed=7"], lines);
        run(folder.path(), "a", &["seed=7"], "{\"step\":3,\"loss\":1.5}\n{\"step\":4,\"lo");
        run(folder.path(), "c", &["seed=7"], "");
        fs::create_dir(folder.path().join("other")).unwrap();
        let runs = RunFolder::read(folder.path()).unwrap();
        assert_eq!(runs.iter().map(|run| run.lines.len()).collect::<Vec<_>>(), [1, 4, 0]);
        let html = compare(&runs).html();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for part in [
            format!(
                "<td>{}</td><td class=\"n\">2</td><td class=\"n\">2.5000</td><td class=\"n\">1</td>\
                     <td class=\"n\">0.5000</td>",
                path("b")
            ),
            "<td>train.learning_rate</td><td>5e-5</td><td>0.001</td><td>5e-5</td>".into(),
            format!("data-name=\"{}\" data-points=\"[[3,1.5]]\"", path("a")),
        ] {
            assert!(html.contains(&part), "{part}: {html}");
        }
        assert!(!html.contains("<td>seed</td>") && !html.contains("<td>output_dir</td>"), "{html}");
    }

    #[test]
    fn what_is_no_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| RunFolder::read(path).unwrap_err().to_string();
        assert!(refused(folder.path()).contains(": no metrics.jsonl here"));
        assert!(refused(&folder.path().join("nowhere")).contains("nowhere"));
        run(folder.path(), "a", &[], "{\"step\":1}\nnonsense\n{}\n");
        assert!(refused(&folder.path().join("a")).contains("metrics.jsonl:2: "));
    }
}
