//! The same tasks on two ranks, under a real `mpirun`.

mod common;

use common::process::{mpi_is_here, mpirun, trainer};
use common::runs::Bench;
use common::tagging::{CHOICES, LABELS, Scenario, TAGS, evaluated, predicted, trained};
use std::process::Command;

fn two(bench: &Bench) -> Command {
    mpirun(2, bench)
}

/// Two ranks train, evaluate and predict as one does.
fn agrees_with_one_rank(scenario: &Scenario) {
    if !mpi_is_here() {
        return;
    }
    let (bench, last) = trained(scenario, two);
    let (metric, least) = scenario.learns;
    assert!(last[&format!("eval_{metric}")].as_f64().unwrap() > least, "{last}");
    let [one, both] = [trainer, two].map(|launch| evaluated(scenario, &bench, launch));
    for (name, value) in one.as_object().unwrap() {
        let difference = (value.as_f64().unwrap() - both[name].as_f64().unwrap()).abs();
        assert!(difference < 1e-6, "{name}: {one} {both}");
    }
    let [one, both] = [trainer, two].map(|launch| predicted(scenario, &bench, launch).0);
    assert_eq!(one.len(), both.len());
    for (one, both) in one.iter().zip(&both) {
        for answer in ["tags", "labels", "label"] {
            assert_eq!(one[answer], both[answer]);
        }
    }
}

#[test]
fn words_are_tagged() {
    agrees_with_one_rank(&TAGS);
}

#[test]
fn texts_get_any_number_of_labels() {
    agrees_with_one_rank(&LABELS);
}

#[test]
fn choices_are_made() {
    agrees_with_one_rank(&CHOICES);
}
