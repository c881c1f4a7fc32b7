//! The curves of `metrics.jsonl`.

use super::metric_names;
use crate::observe::page::{Chart, Series};
use serde_json::Value;

/// Titles, the keys whose curves are in one chart, and a factor.
const CURVES: &[(&str, &[&str], f64)] = &[
    ("Loss", &["loss", "eval_loss"], 1.0),
    ("Learning rate", &["learning_rate"], 1.0),
    ("Gradient norm before clipping", &["grad_norm"], 1.0),
    ("Tokens per second", &["tokens_per_second"], 1.0),
    ("Memory of rank 0 in GB", &["peak_tensor_bytes", "resident_bytes"], 1e-9),
    ("Model FLOPs utilization", &["mfu"], 1.0),
    ("Loss scale", &["loss_scale"], 1.0),
];

/// Returns the charts of one run.
pub fn of_run(lines: &[Value]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = CURVES
        .iter()
        .map(|(title, keys, factor)| Chart {
            title: (*title).to_owned(),
            series: keys.iter().filter_map(|key| series(key, lines, key, *factor)).collect(),
        })
        .collect();
    charts.extend(
        other_metrics([lines])
            .into_iter()
            .map(|key| Chart { series: series(&key, lines, &key, 1.0).into_iter().collect(), title: key }),
    );
    charts
}

/// Returns the charts of several runs, given with their names: one for each key.
pub fn of_runs(runs: &[(&str, &[Value])]) -> Vec<Chart> {
    let chart = |title: String, key: &str, factor: f64| Chart {
        title,
        series: runs.iter().filter_map(|(name, lines)| series(name, lines, key, factor)).collect(),
    };
    let one = |title: &str, keys: &[&str], key: &str| match keys {
        [_] => title.to_owned(),
        _ => format!("{title}: {key}"),
    };
    let mut charts = Vec::new();
    for (title, keys, factor) in CURVES {
        charts.extend(keys.iter().map(|key| chart(one(title, keys, key), key, *factor)));
    }
    let others = other_metrics(runs.iter().map(|(_, lines)| *lines));
    charts.extend(others.into_iter().map(|key| chart(key.clone(), &key, 1.0)));
    charts
}

/// Returns the keys of evaluations but the loss.
fn other_metrics<'a>(runs: impl IntoIterator<Item = &'a [Value]>) -> Vec<String> {
    let names = metric_names(runs.into_iter().flatten());
    names.into_iter().filter(|name| *name != "loss").map(|name| format!("eval_{name}")).collect()
}

/// Returns the finite values of a key by step, times a factor.
fn series(name: &str, lines: &[Value], key: &str, factor: f64) -> Option<Series> {
    let point = |line: &Value| Some((line.get("step")?.as_f64()?, line.get(key)?.as_f64()? * factor));
    let points: Vec<_> = lines.iter().filter(|line| line.get("event").is_none()).filter_map(point).collect();
    (!points.is_empty()).then(|| Series { name: name.to_owned(), points })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(loss: f64) -> Vec<Value> {
        vec![
            json!({"step": 1, "loss": loss, "grad_norm": null, "peak_tensor_bytes": 2_000_000_000_u64}),
            json!({"step": 2, "eval_loss": 0.5, "eval_accuracy": 0.75}),
            json!({"event": "checkpoint", "step": 2, "loss": 7.0}),
        ]
    }

    #[test]
    fn a_run_has_a_chart_for_each_kind_of_number() {
        let charts: Vec<Chart> = of_run(&lines(2.5)).into_iter().filter(|chart| !chart.series.is_empty()).collect();
        let titles: Vec<&str> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["Loss", "Memory of rank 0 in GB", "eval_accuracy"]);
        assert_eq!(charts[0].series[0], Series { name: "loss".into(), points: vec![(1.0, 2.5)] });
        assert_eq!(charts[0].series[1], Series { name: "eval_loss".into(), points: vec![(2.0, 0.5)] });
        assert_eq!(charts[1].series[0].points, [(1.0, 2.0)]);
    }

    #[test]
    fn runs_are_compared_key_by_key() {
        let (a, b) = (lines(2.5), lines(3.5));
        let charts = of_runs(&[("a", &a), ("b", &b[..1])]);
        let named = |title: &str| charts.iter().find(|chart| chart.title == title).unwrap();
        let names = |title: &str| named(title).series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>();
        assert_eq!((names("Loss: loss"), names("Loss: eval_loss")), (vec!["a", "b"], vec!["a"]));
        assert_eq!(named("Loss: loss").series[1].points, [(1.0, 3.5)]);
        assert_eq!(names("eval_accuracy"), ["a"]);
    }
}
