//! `trainer sweep` and `trainer cross-validate` on two ranks: results, a run that fails, what is run again, and a stop.

mod common;

use common::process::{Ended, mpi_is_here, run, start, trainer};
use common::runs::Bench;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// Writes the file of a sweep over `parameters` whose runs are those of the bench with these settings.
fn write(bench: &Bench, head: &str, settings: &[&str], parameters: &str) {
    let words = bench.settings("unused", settings);
    // The last of several values counts on a command line; a file has a key once.
    let own: BTreeMap<&str, &str> = words.iter().map(|word| word.split_once('=').unwrap()).collect();
    let searched = |key: &str| parameters.contains(&format!("{key} ="));
    let own = own.iter().filter(|(key, _)| **key != "output_dir" && !searched(key)).map(|(key, value)| {
        let is_toml = format!("x = {value}").parse::<toml::Table>().is_ok();
        if is_toml { format!("{key} = {value}\n") } else { format!("{key} = {value:?}\n") }
    });
    let own: String = own.collect();
    let text = format!("output_dir = \"sweep\"\n{head}\n[settings]\n{own}\n[parameters]\n{parameters}\n");
    fs::write(bench.path("sweep.toml"), text).unwrap();
}

fn sweep(bench: &Bench, options: &[&str]) -> Command {
    let mut command = trainer(bench);
    command.env_remove("OMPI_ALLOW_RUN_AS_ROOT").env_remove("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
    command.env_remove("SLURM_JOB_ID").args(["sweep", "sweep.toml", "-n", "2"]).args(options);
    command
}

/// The lines of results that have an end.
fn results(bench: &Bench) -> Vec<Value> {
    let text = fs::read_to_string(bench.path("sweep/results.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line.get("exit_code").is_some()).collect()
}

/// The rows of the table, cell by cell.
fn table(ended: &Ended) -> Vec<Vec<String>> {
    let rows = ended.stdout.lines().filter(|line| line.starts_with('│'));
    rows.map(|row| row.trim_matches('│').split_whitespace().map(str::to_owned).collect()).collect()
}

const SETTINGS: [&str; 3] = ["max_steps=6", "eval_steps=3", "metric_for_best_model=accuracy"];

#[test]
fn a_sweep_compares_its_runs_and_outlives_a_failure() {
    if !mpi_is_here() {
        return;
    }
    let bench = Bench::new("bert-classification");
    write(&bench, "", &SETTINGS, "learning_rate = [1e-3, 1e30]\nseed = [1, 2, 3]");
    let bad = "sweep/run-004";
    let ended = run(&mut sweep(&bench, &["--parallel", "2"])).expect(1);
    assert!(ended.stderr.contains("trainer: error: 3 of 6 runs failed: run-004 (exit code 4)"), "{}", ended.text());
    assert!(ended.stderr.contains("sweep: run-002 (2 of 6): learning_rate=0.001 seed=2"), "{}", ended.text());
    assert!(ended.stderr.contains("run-004: failed with exit code 4 after"), "{}", ended.text());
    assert!(bench.path(bad).is_dir() && bench.path("sweep/run-004.log").is_file());
    let rows = table(&ended);
    assert_eq!(rows[0], ["run", "learning_rate", "seed", "eval_accuracy", "time", "end"], "{}", ended.text());
    let accuracies: Vec<f64> = rows[1..4].iter().map(|row| row[3].parse().unwrap()).collect();
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{}", ended.text());
    assert!(rows[4..].iter().all(|row| row[1] == "1e30" && row[3] == "-"), "{}", ended.text());
    // What it shows is what the run's own file says, of the evaluation after the last step.
    for line in results(&bench).iter().filter(|line| line["exit_code"] == 0) {
        let own = bench.lines(&format!("sweep/{}", line["run"].as_str().unwrap()), "eval_loss");
        assert_eq!(line["metrics"]["eval_loss"], own.last().unwrap()["eval_loss"]);
        assert_eq!(line["metrics"]["step"], 6.0);
    }

    // Again, with values that keep one run, add one, and drop those that failed: only the new one runs.
    let before = results(&bench).len();
    write(&bench, "", &SETTINGS, "seed = [4, 2]\nlearning_rate = [1e-3]");
    let ended = run(&mut sweep(&bench, &[])).expect(0);
    assert!(ended.stderr.contains("sweep: 1 of 2 runs have finished before"), "{}", ended.text());
    let names: Vec<String> = table(&ended)[1..].iter().map(|row| row[0].clone()).collect();
    assert!(names.contains(&"run-007".to_owned()) && names.contains(&"run-002".to_owned()), "{}", ended.text());
    assert_eq!(results(&bench).len(), before + 1);

    // Nothing is left to do.
    let ended = run(&mut sweep(&bench, &[])).expect(0);
    assert_eq!((results(&bench).len(), table(&ended).len()), (before + 1, 3), "{}", ended.text());
}

#[test]
fn a_stopped_sweep_goes_on() {
    if !mpi_is_here() {
        return;
    }
    let bench = Bench::new("bert-classification");
    write(&bench, "", &["max_steps=2000", "eval_steps=2000"], "seed = [1, 2]");
    let mut running = start(&mut sweep(&bench, &[]));
    running.until_step(&bench.path("sweep/run-001"), 5);
    running.signal(libc::SIGINT);
    let ended = running.wait().expect(3);
    assert!(ended.stderr.contains("stopped with 2 of 2 runs left; the same command continues"), "{}", ended.text());
    assert!(!bench.path("sweep/run-002").exists());
    let stopped = bench.steps("sweep/run-001").len();
    assert!((5..2000).contains(&stopped));
    // It goes on from the checkpoint of its stop; a stop of the second run leaves the first one finished.
    let mut running = start(&mut sweep(&bench, &[]));
    running.until_step(&bench.path("sweep/run-002"), 5);
    running.signal(libc::SIGTERM);
    running.wait().expect(3);
    let results = results(&bench);
    assert_eq!((results.len(), &results[0]["run"]), (1, &Value::from("run-001")));
    let log = fs::read_to_string(bench.path("sweep/run-001.log")).unwrap();
    assert!(log.contains(&format!("checkpoint-{stopped}")), "{log}");
    assert_eq!(bench.steps("sweep/run-001").len(), 2000);
}

#[test]
fn folds_are_runs_whose_mean_and_spread_are_told() {
    if !mpi_is_here() {
        return;
    }
    let bench = Bench::new("bert-classification");
    let validate = |more: &[&str]| {
        let words = bench.settings("folds", &["max_steps=4"]);
        let mut command = trainer(&bench);
        command.env_remove("OMPI_ALLOW_RUN_AS_ROOT").env_remove("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM");
        command.env_remove("SLURM_JOB_ID").args(["cross-validate", "-n", "2"]);
        command.args(words.iter().filter(|word| !word.starts_with("data.eval="))).args(more);
        command
    };
    let ended = run(&mut validate(&["--folds", "91"])).expect(1);
    assert!(ended.stderr.contains("train.jsonl: 90 records cannot be divided into 91 parts"), "{}", ended.text());
    assert!(ended.stderr.contains("1 of 91 runs failed: run-001 (exit code 2)"), "{}", ended.text());
    fs::remove_dir_all(bench.path("folds")).unwrap();

    let ended = run(&mut validate(&["--folds", "3"])).expect(0);
    assert_eq!(table(&ended)[0].join(" "), "metric mean std fold 1 fold 2 fold 3", "{}", ended.text());
    let text = fs::read_to_string(bench.path("folds/cross_validation.json")).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let loss = |run: &Value| {
        let own = bench.lines(&format!("folds/{}", run.as_str().unwrap()), "eval_loss");
        own.last().unwrap()["eval_loss"].as_f64().unwrap()
    };
    let losses: Vec<f64> = summary["runs"].as_array().unwrap().iter().map(loss).collect();
    assert_eq!(summary["metrics"]["eval_loss"]["folds"], Value::from(losses.clone()));
    let mean = summary["metrics"]["eval_loss"]["mean"].as_f64().unwrap();
    assert!((mean - losses.iter().sum::<f64>() / 3.0).abs() < 1e-12 && losses[0] != losses[1]);

    let ended = run(&mut validate(&["--folds", "3"])).expect(0);
    assert!(ended.stderr.contains("cross-validate: 3 of 3 runs have finished before"), "{}", ended.text());
    let ended = run(&mut validate(&["--folds", "3", "data.eval=eval.jsonl"])).expect(2);
    assert!(ended.stderr.contains("data.eval is set too: remove one"), "{}", ended.text());
    let ended = run(&mut validate(&["--folds", "1"])).expect(2);
    assert!(ended.stderr.contains("--folds 1: expected at least 2"), "{}", ended.text());
}

#[test]
fn a_dry_run_and_mistakes_start_nothing() {
    let bench = Bench::new("bert-classification");
    write(&bench, "method = \"random\"\nruns = 3", &SETTINGS, "learning_rate = { min = 1e-5, max = 1e-3, log = true }");
    let ended = run(&mut sweep(&bench, &["--dry-run"])).expect(0);
    assert_eq!(table(&ended).len(), 4, "{}", ended.text());
    write(&bench, "", &SETTINGS, "learning_rat = [1e-5]");
    let ended = run(&mut sweep(&bench, &[])).expect(2);
    assert!(ended.stderr.contains("learning_rat: unknown key, did you mean train.learning_rate?"), "{}", ended.text());
    write(&bench, "", &SETTINGS, "learning_rate = [1e-5]");
    let ended = run(trainer(&bench).args(["sweep", "sweep.toml", "--parallel", "2"])).expect(2);
    assert!(ended.stderr.contains("--parallel needs -n"), "{}", ended.text());
    assert!(!bench.path("sweep").exists());
}
