//! The page of one run.

use super::{bytes, classes, curves, digits, evaluations, examples, metric, metric_names};
use crate::checkpoint::TrainerState;
use crate::checkpoint::run_dir::REPORT;
use crate::config::Config;
use crate::metrics::ClassReport;
use crate::observe::page::{Cell, Page};
use crate::observe::{logs, progress};
use crate::tasks::ExampleTable;
use serde_json::Value;
use std::path::PathBuf;

/// Most evaluations in the table: the last ones.
const EVALUATIONS: usize = 50;
/// Most numbers in the table of evaluations: with very many metrics it has fewer evaluations, or the page were large.
const NUMBERS: usize = 5000;

/// What the page shows of the latest evaluation besides its metrics.
#[derive(Debug, Default)]
pub struct Evaluated {
    pub step: u64,
    pub classes: Option<ClassReport>,
    pub examples: Option<ExampleTable>,
}

/// The page of a run that is being trained. A run does not end because the page cannot be written: there is one warning.
#[derive(Debug)]
pub struct RunReport {
    path: PathBuf,
    title: String,
    settings: String,
    /// The metric by which evaluations are compared.
    metric: String,
    environment: Vec<(&'static str, String)>,
    pub evaluated: Evaluated,
    has_failed: bool,
}

impl RunReport {
    /// Creates the report of a run in its folder; nothing is written yet.
    pub fn new(config: &Config, environment: Vec<(&'static str, String)>) -> Self {
        RunReport {
            path: config.output_dir.join(REPORT),
            title: config.output_dir.display().to_string(),
            settings: config.to_toml(),
            metric: config.train.metric_for_best_model.clone(),
            environment,
            evaluated: Evaluated::default(),
            has_failed: false,
        }
    }

    /// Writes the page; `summary` is the last line of `metrics.jsonl` once the run is finished.
    pub fn write(&mut self, state: &TrainerState, summary: Option<&Value>) {
        if let Err(e) = self.page(state, summary).write(&self.path)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            logs::warn(&format!("{e}: the run goes on without its report; metrics.jsonl has all metrics"));
        }
    }

    fn page(&self, state: &TrainerState, summary: Option<&Value>) -> Page {
        let lines = &state.log_history;
        let mut page = Page::new(&self.title);
        page.table(&["", ""], &overview(state, &self.metric, summary));
        page.paragraph("Curves by optimizer step:");
        page.charts(&curves::of_run(lines));
        let evaluations = evaluations(lines);
        let most = EVALUATIONS.min(NUMBERS / metric_names(evaluations.iter().copied()).len().max(1)).max(1);
        let shown = &evaluations[evaluations.len().saturating_sub(most)..];
        if !shown.is_empty() {
            page.heading("Evaluations");
            if shown.len() < evaluations.len() {
                page.paragraph(&format!("The last {} of {}:", shown.len(), evaluations.len()));
            }
            let names = metric_names(shown.iter().copied());
            let head: Vec<&str> = ["step"].into_iter().chain(names.iter().copied()).collect();
            let row = |line: &&Value| {
                let step = line.get("step").and_then(Value::as_u64).unwrap_or_default();
                let best = if state.best_global_step == Some(step) { " (best)" } else { "" };
                let numbers = names.iter().map(|name| metric(line.get(format!("eval_{name}"))));
                [Cell::number(format_args!("{step}{best}"))].into_iter().chain(numbers).collect()
            };
            page.table(&head, &shown.iter().map(row).collect::<Vec<Vec<Cell>>>());
        }
        if let Some(classes) = &self.evaluated.classes {
            page.heading(&format!("Classes at step {}", self.evaluated.step));
            classes::add(&mut page, classes);
        }
        if let Some(table) = &self.evaluated.examples {
            examples::add(&mut page, self.evaluated.step, table);
        }
        let resumed = resumed(lines);
        if !resumed.is_empty() {
            page.heading("Resumed");
            page.table(&["step", "ranks", "from", "changed settings"], &resumed);
        }
        page.heading("Environment");
        let row = |(name, value): &(&str, String)| vec![Cell::text(name), Cell::text(value)];
        page.table(&["", ""], &self.environment.iter().map(row).collect::<Vec<_>>());
        page.heading("Configuration");
        page.details("config.toml", &self.settings);
        page
    }
}

/// Returns how far the run is, and its results.
fn overview(state: &TrainerState, metric: &str, summary: Option<&Value>) -> Vec<Vec<Cell>> {
    let ended = if summary.is_some() { "finished" } else { "running when this page was written" };
    let mut rows = vec![
        ("state", ended.to_owned()),
        ("page written", logs::now()),
        ("step", format!("{} of {} (epoch {:.2})", state.global_step, state.max_steps, state.epoch)),
    ];
    if let (Some(step), Some(best)) = (state.best_global_step, state.best_metric) {
        rows.push(("best evaluation", format!("{metric} {} at step {step}", digits(best))));
    }
    if state.skipped_steps > 0 {
        rows.push(("skipped steps", state.skipped_steps.to_string()));
    }
    let number = |key: &str| summary?.get(key)?.as_f64();
    rows.extend(number("train_seconds").map(|seconds| ("training time", progress::clock(seconds))));
    rows.extend(number("train_tokens_per_second").map(|rate| ("tokens per second", format!("{rate:.0}"))));
    rows.extend(number("trained_parameters").map(|count| ("trained parameters", count.to_string())));
    let peak = bytes(summary.and_then(|line| line.get("peak_rss_bytes")));
    rows.extend(peak.map(|peak| ("largest resident set of a rank", peak)));
    rows.into_iter().map(|(name, value)| vec![Cell::text(name), Cell::text(value)]).collect()
}

/// Returns a row for each time that the run was resumed.
fn resumed(lines: &[Value]) -> Vec<Vec<Cell>> {
    let resumed = lines.iter().filter(|line| line.get("event").and_then(Value::as_str) == Some("resumed"));
    let text = |line: &Value, key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |line: &Value| {
        let number = |key: &str| Cell::number(line.get(key).map(Value::to_string).unwrap_or_default());
        let changed = line.get("changed").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let changed = Cell::Text(changed.collect::<Vec<_>>().join("; "));
        vec![number("step"), number("world"), Cell::Text(text(line, "from")), changed]
    };
    resumed.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Confusion;
    use crate::tasks::ExampleRow;
    use serde_json::json;

    fn report(folder: &std::path::Path) -> RunReport {
        let words = ["model.path=m", "task.kind=sequence-classification", "data.train=t", "data.eval=e"];
        let words = words.map(str::to_owned).into_iter().chain([format!("output_dir={}", folder.display())]);
        let config = Config::parse("", "a test", &words.collect::<Vec<_>>()).unwrap();
        RunReport::new(&config, vec![("host of rank 0", "<host>".into())])
    }

    #[test]
    fn the_numbers_are_those_of_the_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = report(folder.path());
        let log_history = vec![
            json!({"step": 10, "loss": 2.25, "learning_rate": 5e-5, "grad_norm": 1.0}),
            json!({"step": 10, "eval_loss": 1.5, "eval_accuracy": 0.625}),
            json!({"event": "resumed", "step": 10, "world": 2, "from": "a", "changed": ["seed = 1 (was <0>)"]}),
            json!({"step": 20, "loss": 1.125, "learning_rate": 2.5e-5, "grad_norm": null}),
            json!({"step": 20, "eval_loss": 1.25, "eval_accuracy": 0.75}),
        ];
        let state = TrainerState {
            global_step: 20,
            max_steps: 30,
            best_global_step: Some(20),
            best_metric: Some(1.25),
            log_history,
            ..Default::default()
        };
        let names = ["no", "yes"].map(str::to_owned).to_vec();
        let classes = ClassReport::of_confusion("examples", names, Confusion::from_pairs(2, [(0, 0), (1, 0)]));
        let row = ExampleRow {
            example: 1,
            label: "yes".into(),
            predicted: "no".into(),
            numbers: vec![0.875, 2.5],
            text: "<b>text</b>".into(),
        };
        let examples = ExampleTable { title: "Worst errors", columns: &["score", "loss"], rows: vec![row] };
        report.evaluated = Evaluated { step: 20, classes: Some(classes), examples: Some(examples) };
        report.write(&state, None);
        let html = std::fs::read_to_string(folder.path().join(REPORT)).unwrap();
        for part in [
            "data-name=\"loss\" data-points=\"[[10,2.25],[20,1.125]]\"",
            "data-name=\"eval_loss\" data-points=\"[[10,1.5],[20,1.25]]\"",
            "data-name=\"learning_rate\" data-points=\"[[10,0.00005],[20,0.000025]]\"",
            "data-name=\"grad_norm\" data-points=\"[[10,1]]\"",
            "data-name=\"eval_accuracy\" data-points=\"[[10,0.625],[20,0.75]]\"",
            "<td class=\"n\">20 (best)</td><td class=\"n\">1.2500</td><td class=\"n\">0.7500</td>",
            "<td>step</td><td>20 of 30 (epoch 0.00)</td>",
            "<td>best evaluation</td><td>loss 1.2500 at step 20</td>",
            "<td>a</td><td>seed = 1 (was &lt;0&gt;)</td>",
            "<td>yes</td><td class=\"n s\" style=\"--share:1.000\">1</td>",
            "<td>yes</td><td>no</td><td class=\"n\">0.8750</td><td class=\"n\">2.5000</td><td>&lt;b&gt;text&lt;/b&gt;</td>",
            "<td>&lt;host&gt;</td>",
            "kind = &quot;sequence-classification&quot;",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        report.write(&state, Some(&json!({"train_seconds": 90.0})));
        let html = std::fs::read_to_string(folder.path().join(REPORT)).unwrap();
        assert!(html.contains("<td>state</td><td>finished</td>") && html.contains("<td>1:30</td>"), "{html}");
    }

    /// As in the table of evaluations.
    #[test]
    fn a_small_best_metric_has_its_digits() {
        let state = TrainerState { best_global_step: Some(3), best_metric: Some(4e-5), ..Default::default() };
        let row = vec![Cell::text("best evaluation"), Cell::text("loss 4.000e-5 at step 3")];
        assert!(overview(&state, "loss", None).contains(&row));
        assert_eq!([0.0, 0.01, -0.5, 0.0099].map(digits), ["0.0000", "0.0100", "-0.5000", "9.900e-3"]);
    }

    #[test]
    fn many_metrics_have_a_small_page() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64| {
            let metric = |i: u64| (format!("eval_set{}_metric{i}", i / 8), json!(1.0 / (step + i) as f64));
            let mut line: serde_json::Map<String, Value> = (0..100).map(metric).collect();
            line.insert("step".into(), json!(step));
            line.insert("eval_loss".into(), json!(1.0 / step as f64));
            Value::Object(line)
        };
        let state = TrainerState { log_history: (1..=2000).map(line).collect(), ..Default::default() };
        report(folder.path()).write(&state, None);
        let size = std::fs::metadata(folder.path().join(REPORT)).unwrap().len();
        assert!((500_000..2_000_000).contains(&size), "{size} bytes");
        let html = std::fs::read_to_string(folder.path().join(REPORT)).unwrap();
        assert_eq!(html.matches("<figure>").count(), 101);
        assert!(html.contains("<p>The last 49 of 2000:</p>"));
    }

    #[test]
    fn a_long_run_has_a_small_page_and_a_failure_is_reported_once() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step: u64| match step % 100 {
            0 => json!({"step": step, "eval_loss": 1.0 / step as f64, "eval_accuracy": 0.123_456_789_012}),
            _ => json!({
                "step": step, "loss": 1.0 / step as f64, "grad_norm": (step as f64).sin(), "learning_rate": 1e-5,
                "tokens_per_second": 12_345.678_9, "peak_tensor_bytes": step, "resident_bytes": step * 7,
            }),
        };
        let state = TrainerState { log_history: (1..=100_000).map(line).collect(), ..Default::default() };
        let mut report = report(folder.path());
        report.write(&state, None);
        let size = std::fs::metadata(folder.path().join(REPORT)).unwrap().len();
        assert!(!report.has_failed && (50_000..1_000_000).contains(&size), "{size} bytes");
        std::fs::remove_dir_all(folder.path()).unwrap();
        report.write(&state, None);
        assert!(report.has_failed);
        report.write(&state, None);
    }
}
