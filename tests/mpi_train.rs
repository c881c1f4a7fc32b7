//! Training under a real `mpirun`, with two to four ranks on this machine.

mod common;

use common::mistakes::mistakes;
use common::process::{checkpoints, is_alive, kill, mpi_is_here, mpirun, numbers_after, run, start, trainer};
use common::runs::{Bench, assert_equivalent};
use common::scenarios::{a_full_disk, endless, goes_on_as_if_uncut, stopped_with_a_checkpoint, train};
use serde_json::Value;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Open MPI gives the others a second for SIGTERM and another for SIGKILL; the rest is for a busy machine.
const SECONDS: Duration = Duration::from_secs(60);

fn bench() -> Bench {
    Bench::new("bert-classification")
}

fn two(bench: &Bench) -> Command {
    mpirun(2, bench)
}

/// The same mistakes as on one rank: one message over both ranks, mpirun's exit code, no hang.
#[test]
fn mistakes_get_one_clear_message_on_two_ranks() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    // Some at a time: most of it is waiting for mpirun.
    thread::scope(|scope| {
        for some in mistakes(&bench).chunks(8) {
            let (bench, some) = (&bench, some.to_vec());
            scope.spawn(move || some.iter().for_each(|m| m.check(&run(two(bench).args(&m.args)), bench)));
        }
    });
}

/// Ctrl-C at mpirun kills the ranks within about a second: what is left is said at once.
#[test]
fn ctrl_c_at_mpirun_is_answered() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let running = endless(&bench, two, "run");
    running.signal(libc::SIGINT);
    let ended = running.wait();
    assert!(!ended.status.success(), "{}", ended.text());
    let said = ended.stderr.replace("\n  ", " ");
    for part in ["SIGTERM: mpirun ends the ranks within about a second, without a checkpoint", "trainer launch"] {
        assert!(said.contains(part), "{part}: {}", ended.text());
    }
    let named = format!("the last one is {}", bench.path("run/checkpoint-").display());
    let told = numbers_after(&said, &named);
    let [last] = told[..] else { panic!("{named}: {told:?}: {}", ended.text()) };
    // The next one may have been completed after rank 0 had looked.
    let (last, complete) = (last as u64, checkpoints(&bench.path("run")));
    assert!(complete.contains(&last) && last + 20 >= complete[complete.len() - 1], "{complete:?}: {}", ended.text());
    goes_on_as_if_uncut(&bench, two, "run");
}

/// Each rank writes a trace of the steps that `train.profile` names, with its waits for the other rank; the log has the
/// times of both ranks.
#[test]
fn steps_of_all_ranks_are_profiled() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let more = ["max_steps=4", "logging_steps=2", "train.profile=2..3"];
    run(two(&bench).args(train(&bench, "run", &more))).expect(0);
    for rank in 0..2 {
        let text = fs::read_to_string(bench.path(&format!("run/trace-rank{rank}.json"))).unwrap();
        let trace: Value = serde_json::from_str(&text).unwrap();
        let events: Vec<(&str, f64, f64)> = trace["traceEvents"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|e| e["ph"] == "X")
            .map(|e| (e["name"].as_str().unwrap(), e["ts"].as_f64().unwrap(), e["dur"].as_f64().unwrap()))
            .collect();
        let named =
            |start: &str| events.iter().filter(|(name, ..)| name.starts_with(start)).copied().collect::<Vec<_>>();
        let steps: Vec<&str> = named("step ").iter().map(|step| step.0).collect();
        assert_eq!(steps, ["step 2", "step 3"]);
        // These ranges follow each other in a step.
        let parts = [named("forward "), named("backward "), named("optimizer")].concat();
        for (_, start, length) in named("step ") {
            let inside = parts.iter().filter(|(_, at, _)| (start..start + length).contains(at));
            let sum: f64 = inside.map(|(_, _, length)| length).sum();
            // The rest are waits, for as long as the other rank is slower.
            assert!(sum > 0.0 && sum < 1.01 * length, "{sum} of {length} microseconds");
        }
        assert!(!named("wait for loss and gradient norm").is_empty() && !named("aten::").is_empty());
    }
    let lines = bench.lines("run", "compute_seconds");
    assert_eq!(lines.len(), 2);
    for line in lines {
        let seconds = |key: &str| line[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
        assert!(seconds("compute_seconds").iter().all(|seconds| *seconds > 0.0), "{line}");
        assert!(seconds("wait_seconds").iter().any(|seconds| *seconds > 0.0), "{line}");
    }
    let ended = run(two(&bench).args(train(&bench, "late", &["max_steps=2", "train.profile=2..3"]))).expect(2);
    assert!(ended.stderr.contains("train.profile: 2..3: the run has only 2 steps"), "{}", ended.stderr);
}

/// Hosts that read other files or settings under the same names must not train together.
#[test]
fn ranks_that_read_different_things_are_refused() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let (train, other) = (bench.path("train.jsonl"), bench.path("other.jsonl"));
    let text = fs::read_to_string(&train).unwrap();
    fs::write(&other, text.replacen("sport", "science", 1)).unwrap();
    let other = format!("data.train={}", other.display());
    for (setting, what) in [("learning_rate=1e-5", "the configuration"), (other.as_str(), "the training data")] {
        let mut command = mpirun(1, &bench);
        command.arg("train").args(bench.settings("run", &[]));
        command.args([":", "-n", "1", common::process::program(), "train"]).args(bench.settings("run", &[setting]));
        let ended = run(&mut command).expect(2);
        let differs = format!("not the same as on rank 0: {what}");
        assert!(ended.text().contains("rank 1 on ") && ended.text().contains(&differs), "{}", ended.text());
    }
}

#[test]
fn usage_and_configuration_are_printed_once() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let ended = run(&mut two(&bench)).expect(2);
    assert_eq!(ended.text().matches("no ./trainer.toml").count(), 1, "{}", ended.text());
    assert_eq!(ended.text().matches("Usage:").count(), 1, "{}", ended.text());
    let ended = run(two(&bench).args(["train", "--resum", "auto"])).expect(2);
    assert_eq!(ended.text().matches("Usage:").count(), 1, "{}", ended.text());
    let ended = run(two(&bench).arg("--version")).expect(0);
    assert_eq!(ended.text().matches(env!("CARGO_PKG_VERSION")).count(), 1, "{}", ended.text());
    let ended = run(two(&bench).args(["train", "--print-config"]).args(bench.settings("run", &[]))).expect(0);
    assert_eq!(ended.text().matches("[model]").count(), 1, "{}", ended.text());
}

/// Worlds 1, 2, 4 x one micro-batch or several: 20 steps, dropout 0, against one rank without MPI.
#[test]
fn worlds_and_accumulation_agree() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let no_dropout = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];
    run(trainer(&bench).args(train(&bench, "alone", &no_dropout))).expect(0);
    let base = bench.steps("alone");
    assert_eq!(base.len(), 20);
    for world in [1, 2, 4] {
        for budget in ["micro_batch_tokens=4096", "micro_batch_tokens=40"] {
            let (out, what) = (format!("{world}-{budget}"), format!("world {world}, {budget}"));
            let more = [&no_dropout[..], &[budget]].concat();
            let ended = run(mpirun(world, &bench).args(train(&bench, &out, &more))).expect(0);
            let ranks = format!("ranks     {world} (mpi");
            assert_eq!(ended.stderr.matches(&ranks).count(), 1, "{what}: {}", ended.text());
            assert_equivalent(&bench.steps(&out), &base, &what);
        }
    }
}

#[test]
fn evaluate_and_predict_agree_with_one_rank() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    run(two(&bench).args(train(&bench, "run", &["max_steps=30"]))).expect(0);
    let evaluate =
        ["evaluate", "--model", "run/final", "--task", "sequence-classification", "--data", "eval.jsonl", "--json"];
    let [one, both] = [trainer(&bench), two(&bench)].map(|mut command| {
        let said = run(command.args(evaluate)).expect(0).stdout;
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{said}");
        lines[0].clone()
    });
    assert_eq!(one["eval_accuracy"], both["eval_accuracy"]);
    assert!(
        (one["eval_loss"].as_f64().unwrap() / both["eval_loss"].as_f64().unwrap() - 1.0).abs() < 1e-6,
        "{one} {both}"
    );

    let [one, both] = [("one.jsonl", trainer(&bench)), ("both.jsonl", two(&bench))].map(|(output, mut command)| {
        let args = ["predict", "--scores", "--model", "run/final", "--input", "train.jsonl", "--output", output];
        run(command.args(args)).expect(0);
        let text = fs::read_to_string(bench.path(output)).unwrap();
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    });
    assert_eq!((one.len(), both.len()), (90, 90));
    for (a, b) in one.iter().zip(&both) {
        assert_eq!(a["label"], b["label"]);
        for i in 0..3 {
            let difference = a["logits"][i].as_f64().unwrap() - b["logits"][i].as_f64().unwrap();
            assert!(difference.abs() < 5e-6, "{a} {b}");
        }
    }
}

/// `kill -9` of one rank: the others end within seconds, and the run goes on with the very same losses.
#[test]
fn a_killed_rank_ends_the_others_and_costs_no_step() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    for victim in [1, 0] {
        let out = format!("run-{victim}");
        let running = endless(&bench, two, &out);
        let ranks = running.ranks();
        assert_eq!(ranks.len(), 2, "{}", running.text());
        let since = Instant::now();
        kill(ranks[victim], libc::SIGKILL);
        let ended = running.wait();
        while ranks.iter().any(|&pid| is_alive(pid)) {
            assert!(since.elapsed() < SECONDS, "a rank lives on: {}", ended.text());
            thread::sleep(Duration::from_millis(20));
        }
        assert!(since.elapsed() < SECONDS, "{:?}: {}", since.elapsed(), ended.text());
        assert_eq!(ended.status.code(), Some(137), "{}", ended.text());
        assert!(ended.text().contains("on signal 9"), "mpirun tells why: {}", ended.text());
        goes_on_as_if_uncut(&bench, two, &out);
    }
}

#[test]
fn a_signal_to_mpirun_writes_a_checkpoint_and_stops() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let running = endless(&bench, two, "run");
    running.signal(libc::SIGUSR1);
    stopped_with_a_checkpoint(&bench, running.wait(), "run");
    goes_on_as_if_uncut(&bench, two, "run");
}

/// After mpirun itself was killed, its ranks live on for about two seconds: a run that starts at once waits for them.
#[test]
fn a_run_waits_for_a_predecessor_that_is_still_dying() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let running = endless(&bench, two, "run");
    let ranks = running.ranks();
    running.signal(libc::SIGKILL);
    let more = ["max_steps=1000000", "lr_scheduler_type=constant_with_warmup"];
    let mut next = start(two(&bench).args(train(&bench, "run", &more)).args(["--resume", "auto"]));
    next.until("the folder", |text| text.contains("resumed   from"));
    assert!(!is_alive(ranks[0]), "rank 0 writes in the folder: {}", next.text());
    assert_eq!(next.ranks().len(), 2);
    running.wait();
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint_on_two_ranks() {
    if mpi_is_here() {
        a_full_disk(&bench(), two, &[]);
    }
}

/// Two ranks write the cache file of one, to the byte, and `trainer cache` lists it.
#[test]
fn ranks_of_a_host_write_the_cache_of_one() {
    if !mpi_is_here() {
        return;
    }
    let bench = bench();
    let files = |out: &str, command: &mut Command| -> Vec<(String, Vec<u8>)> {
        let cache = format!("cache_dir={}", bench.path(&format!("{out}-cache")).display());
        run(command.args(train(&bench, out, &["max_steps=1", &cache]))).expect(0);
        let folder = bench.path(&format!("{out}-cache"));
        let names = common::process::names(&folder);
        names.into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
    };
    let (one, two) = (files("one", &mut trainer(&bench)), files("two", &mut two(&bench)));
    assert!(!one.is_empty() && one == two);
    let listed = run(mpirun(2, &bench).args(["cache", "--cache-dir", "two-cache"])).expect(0).stdout;
    assert!(listed.starts_with(&format!("two-cache: {} file", two.len())), "one rank prints: {listed}");
}
