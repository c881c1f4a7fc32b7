//! What a resumed run takes over, and what it must not lose.

mod common;

use common::process::names;
use common::runs::Bench;
use std::fs;
use trainer::checkpoint::run_dir::Resume;
use trainer::error::Kind;
use trainer::train::Ended;

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn summary(bench: &Bench, out: &str) -> serde_json::Value {
    bench.summary(out)
}

/// A best value of another metric means nothing: accuracies are not compared with a loss.
#[test]
fn another_metric_starts_its_own_comparison() {
    let bench = bench();
    bench.run(1, "a", &["max_steps=6", "save_steps=3", "eval_steps=3"], &Resume::None).unwrap();
    fs::remove_dir_all(bench.path("a/checkpoint-6")).unwrap();
    let more = ["max_steps=6", "save_steps=3", "eval_steps=3", "metric_for_best_model=accuracy"];
    bench.run(2, "a", &more, &Resume::Auto).unwrap();
    let last = bench.lines("a", "eval_accuracy").pop().unwrap();
    let summary = summary(&bench, "a");
    assert_eq!(summary["best_metric"], last["eval_accuracy"], "the only evaluation since the metric changed");
    assert_eq!(summary["best_global_step"], 6);
}

/// The best checkpoint of another folder is not at hand: the best of this run becomes the final model.
#[test]
fn the_best_of_another_folder_is_forgotten() {
    let bench = bench();
    bench.run(1, "a", &["max_steps=4", "save_steps=4", "eval_steps=4"], &Resume::None).unwrap();
    let from = Resume::Path(bench.path("a/checkpoint-4"));
    // So small a learning rate that no later evaluation is better by more than rounding.
    let more = ["max_steps=8", "eval_steps=4", "load_best_model_at_end=true", "learning_rate=1e-12"];
    bench.run(2, "b", &more, &from).unwrap();
    assert_eq!(summary(&bench, "b")["best_global_step"], 8);
    assert!(bench.path("b/final/model.safetensors").exists());
}

/// `auto` starts anew only where nothing is lost by it.
#[test]
fn auto_does_not_replace_a_finished_run_without_checkpoints() {
    let bench = bench();
    let settings = ["max_steps=2", "save_strategy=no"];
    bench.run(1, "a", &settings, &Resume::Auto).unwrap();
    let model = fs::read(bench.path("a/final/model.safetensors")).unwrap();
    let error = bench.run(1, "a", &settings, &Resume::Auto).unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("already contains a run"), "{error}");
    assert!(model == fs::read(bench.path("a/final/model.safetensors")).unwrap());
}

/// A checkpoint that was complete once and cannot be read now is kept under another name.
#[test]
fn a_damaged_checkpoint_is_kept_aside() {
    let bench = bench();
    let settings = ["max_steps=6", "save_steps=2"];
    bench.run(1, "a", &settings, &Resume::None).unwrap();
    let steps = bench.steps("a");
    fs::write(bench.path("a/checkpoint-6/trainer_state.json"), "{").unwrap();
    bench.run(1, "a", &settings, &Resume::Auto).unwrap();
    assert_eq!(bench.steps("a"), steps, "from step 4 on as before");
    assert!(bench.path("a/damaged-checkpoint-6/model.safetensors").exists());
}

/// A run that has taken all its steps has nothing to do, and says nothing wrong.
#[test]
fn a_finished_run_stays_as_it_is() {
    let bench = bench();
    let settings = ["max_steps=4", "save_steps=2"];
    bench.run(1, "a", &settings, &Resume::None).unwrap();
    let (steps, model) = (bench.steps("a"), fs::read(bench.path("a/final/model.safetensors")).unwrap());
    assert_eq!(bench.run(1, "a", &settings, &Resume::Auto).unwrap(), Ended::Finished);
    assert_eq!(bench.steps("a"), steps);
    assert!(model == fs::read(bench.path("a/final/model.safetensors")).unwrap());
}

/// The page of a run that goes on is removed if this part of the run does not write it again, and that of another run
/// in any case.
#[test]
fn a_page_is_that_of_the_run() {
    let bench = bench();
    let page = bench.path("a/report.html");
    bench.run(1, "a", &["max_steps=4", "save_steps=2"], &Resume::None).unwrap();
    assert!(page.exists());
    let without = ["max_steps=6", "save_steps=2", "report=false"];
    bench.run(1, "a", &without, &Resume::Auto).unwrap();
    assert!(!page.exists(), "it would show four steps for ever");
    fs::write(&page, "of another run").unwrap();
    bench.run(1, "a", &[&without[..], &["overwrite_output_dir=true"]].concat(), &Resume::None).unwrap();
    assert!(!page.exists());
    assert!(names(&bench.path("a")).iter().all(|name| !name.ends_with(".tmp")), "{:?}", names(&bench.path("a")));
}

/// The base model may lie beside a run, but not where the run would remove it.
#[test]
fn a_model_that_the_run_would_remove_is_refused() {
    let bench = bench();
    bench.run(1, "a", &["max_steps=2", "save_steps=2"], &Resume::None).unwrap();
    let base = format!("model.path={}", bench.path("a/checkpoint-2").display());
    let more = [base.as_str(), "max_steps=2", "overwrite_output_dir=true"];
    let error = bench.run(1, "a", &more, &Resume::None).unwrap_err();
    assert!(error.to_string().contains("this run would remove it"), "{error}");
    assert!(bench.path("a/checkpoint-2/model.safetensors").exists());
    // Elsewhere it is a model like any other, tokenizer included.
    bench.run(1, "b", &[base.as_str(), "max_steps=2"], &Resume::None).unwrap();
    assert!(bench.path("b/final/tokenizer.json").exists());
}

/// Training stops after evaluations without improvement, with a checkpoint and the final model, at the same step on two
/// ranks and when it is resumed before or after.
#[test]
fn training_stops_early() {
    let bench = Bench::new("bert-classification");
    let more = ["eval_steps=2", "save_steps=4", "early_stopping_patience=2", "early_stopping_threshold=0.01"];
    let more = [&more[..], &["learning_rate=1e-9", "logging_steps=5", "logging_first_step=true"]].concat();
    let more = [&more[..], &["eval_on_start=true", "checkpoint.writers=all"]].concat();
    let evaluated = |out: &str| {
        let lines = bench.lines(out, "eval_loss");
        lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for (world, out) in [(1, "one"), (2, "two")] {
        bench.run(world, out, &more, &Resume::None).unwrap();
        assert_eq!(evaluated(out), [0, 2, 4, 6], "{out}");
        let logged = bench.lines(out, "loss");
        assert_eq!(logged.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 5]);
        assert_eq!(summary(&bench, out)["step"], 6);
        let finished = |name: &str| bench.path(out).join(name).exists();
        assert!(
            finished("checkpoint-4/COMPLETE") && finished("checkpoint-6/COMPLETE") && finished("final/config.json")
        );
        // Resumed at its end, there is nothing left.
        bench.run(world, out, &more, &Resume::Auto).unwrap();
        assert_eq!(evaluated(out), [0, 2, 4, 6], "{out}");
        let resumed = format!("{out}-resumed");
        bench.run(world, &resumed, &more, &Resume::Path(bench.path(out).join("checkpoint-4"))).unwrap();
        assert_eq!(evaluated(&resumed), [0, 2, 4, 6], "{out}");
        assert_eq!(summary(&bench, &resumed)["step"], 6);
    }
    // With more patience it goes on.
    bench.run(1, "on", &[&more[..], &["early_stopping_patience=20"]].concat(), &Resume::None).unwrap();
    assert_eq!(summary(&bench, "on")["step"], 20);
}
