//! One rank that is interrupted, crowded out, or short of disk: nothing is lost, and the run goes on as if nothing had been.

mod common;

use common::process::{checkpoints, command, kill, names, program, run, start, trainer};
use common::runs::Bench;
use common::scenarios::{a_full_disk, endless, goes_on_as_if_uncut, start_endless, stopped_with_a_checkpoint, train};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

fn bench() -> Bench {
    Bench::new("bert-classification")
}

#[test]
fn a_signal_writes_a_checkpoint_and_stops() {
    let bench = bench();
    for (out, signal) in [("int", libc::SIGINT), ("term", libc::SIGTERM), ("usr1", libc::SIGUSR1)] {
        let running = endless(&bench, trainer, out);
        running.signal(signal);
        stopped_with_a_checkpoint(&bench, running.wait(), out);
        goes_on_as_if_uncut(&bench, trainer, out);
    }
}

/// A signal that comes before the first step, or in one of the first.
#[test]
fn a_signal_at_the_start_is_heard_too() {
    let bench = bench();
    let mut running = start_endless(&bench, trainer, "run");
    running.until("the header", |text| text.contains("\nranks     1"));
    running.signal(libc::SIGTERM);
    stopped_with_a_checkpoint(&bench, running.wait(), "run");
    goes_on_as_if_uncut(&bench, trainer, "run");
}

/// A time limit stops the run as a signal does.
#[test]
fn a_time_limit_writes_a_checkpoint_and_stops() {
    let bench = bench();
    let more = ["max_steps=1000000", "max_time=2", "lr_scheduler_type=constant_with_warmup"];
    let ended = run(trainer(&bench).args(train(&bench, "run", &more))).expect(3);
    let last = checkpoints(&bench.path("run")).pop().expect("a checkpoint");
    let message = format!("trainer: stopped by train.max_time after step {last}; checkpoint written: ");
    assert!(ended.stderr.contains(&message), "{}", ended.text());
    assert!(ended.stderr.contains("train.max_time: stopping after this step"), "{}", ended.text());
}

/// Killed between two checkpoints, and with the leftovers of a kill inside one: resuming clears them away.
#[test]
fn a_killed_run_goes_on_from_its_newest_complete_checkpoint() {
    let bench = bench();
    let running = endless(&bench, trainer, "run");
    running.signal(libc::SIGKILL);
    assert_eq!(running.wait().status.code(), None);
    for half in [".checkpoint-8888.tmp", "checkpoint-9999"] {
        fs::create_dir(bench.path("run").join(half)).unwrap();
        fs::write(bench.path("run").join(half).join("model.safetensors"), "half").unwrap();
    }
    goes_on_as_if_uncut(&bench, trainer, "run");
    let left = names(&bench.path("run"));
    assert!(left.iter().all(|name| !name.contains("8888") && !name.contains("9999")), "{left:?}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let bench = bench();
    let more = ["save_steps=5", "hidden_dropout_prob=0.1"];
    run(trainer(&bench).args(train(&bench, "whole", &more))).expect(0);
    run(trainer(&bench).args(train(&bench, "run", &more))).expect(0);
    let cut = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    cut(&bench.path("run/checkpoint-20/model.safetensors"));
    cut(&bench.path("run/checkpoint-15/optimizer/adamw.safetensors"));
    let named = bench.path("run/checkpoint-20").display().to_string();
    let refused = run(trainer(&bench).args(train(&bench, "run", &more)).args(["--resume", &named])).expect(2);
    let message = format!("trainer: error: {named}/model.safetensors: not a complete safetensors file");
    assert!(refused.stderr.contains(&message), "{}", refused.text());
    let resumed = run(trainer(&bench).args(train(&bench, "run", &more)).args(["--resume", "auto"])).expect(0);
    for part in ["checkpoint-20/model.safetensors", "checkpoint-15/optimizer/adamw.safetensors"] {
        let told = |line: &str| line.contains("skipped: ") && line.contains(part);
        assert!(resumed.stderr.lines().any(told), "{part}: {}", resumed.text());
    }
    let from = format!("resumed   from {}", bench.path("run/checkpoint-10").display());
    assert!(resumed.stderr.contains(&from), "{}", resumed.text());
    assert_eq!(bench.steps("run"), bench.steps("whole"));
    assert_eq!(checkpoints(&bench.path("run")), [5, 10, 15, 20]);
}

/// A second run in the same folder waits for the first: in vain while that is at work, and not in vain when it dies.
#[test]
fn a_folder_is_one_runs_at_a_time() {
    let bench = bench();
    let second = |resume: &'static str| {
        let mut command = trainer(&bench);
        command.args(train(&bench, "run", &["max_steps=1000000", "lr_scheduler_type=constant_with_warmup"]));
        command.args(["--resume", resume]);
        command
    };
    let first = endless(&bench, trainer, "run");
    let since = Instant::now();
    let refused = run(&mut second("auto")).expect(2);
    assert!(since.elapsed() > Duration::from_secs(9), "it waits: {:?}", since.elapsed());
    assert!(refused.stderr.contains("another run is using this output_dir"), "{}", refused.text());
    assert!(refused.stderr.contains(&bench.path("run").display().to_string()), "{}", refused.text());
    assert_eq!(refused.stderr.matches("trainer: ").count(), 1, "{}", refused.text());
    assert!(refused.stderr.contains("waiting for another run"), "it says why it waits: {}", refused.text());

    let mut waiting = start(&mut second("auto"));
    let since = Instant::now();
    waiting.until("two seconds of waiting", |_| since.elapsed() > Duration::from_secs(2));
    assert!(!waiting.text().contains("resumed"), "{}", waiting.text());
    kill(first.pid(), libc::SIGKILL);
    first.wait();
    waiting.until("the folder", |text| text.contains("resumed   from"));
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    a_full_disk(&bench(), trainer, &[]);
}

/// `ulimit -f`: the signal for a file that may not grow does not end the process without a message.
#[test]
fn a_limit_of_file_sizes_is_as_a_full_disk() {
    let bench = bench();
    let mut limited = command("sh", &bench);
    // Blocks of 512 or 1024 bytes, by the shell: more than metrics.jsonl, less than a checkpoint.
    limited.args(["-c", "ulimit -f 64; exec \"$@\"", "sh", program()]);
    let ended = run(limited.args(train(&bench, "run", &["save_steps=5"]))).expect(1);
    assert!(ended.stderr.contains("checkpoint of step 5 not written"), "{}", ended.text());
    assert!(ended.stderr.contains("File too large"), "{}", ended.text());
}

/// The same for the files of other subcommands, and for standard output that is a file.
#[test]
fn a_limit_of_file_sizes_is_an_error_of_every_subcommand() {
    let bench = bench();
    run(trainer(&bench).args(train(&bench, "run", &["max_steps=2"]))).expect(0);
    let shell = |script: &str, words: &str| {
        run(command("sh", &bench).args(["-c", script, "sh", program()]).args(words.split(' ')))
    };
    for (code, file, words) in [
        (1, "out.jsonl", "predict --model run/final --input eval.jsonl --output out.jsonl"),
        (1, "runs.html", "report run"),
        (1, "made/tokenizer.json", "tokenizer --kind chars --input eval.jsonl --output made"),
        (2, "mine.toml", "init train.jsonl --output mine.toml"),
        (2, "pages", "man pages"),
    ] {
        let ended = shell("ulimit -f 0; exec \"$@\"", words).expect(code);
        let named = ended.stderr.contains(&format!("{file}: "));
        assert!(named && ended.stderr.contains("File too large"), "{words}: {}", ended.text());
    }
    for left in ["out.jsonl", "runs.html", "mine.toml"] {
        assert!(!bench.path(left).exists(), "{left} is incomplete");
    }
    for (script, why) in [
        ("ulimit -f 0; exec \"$@\" > drafted.toml", "File too large"),
        ("exec \"$@\" > /dev/full", "No space left on device"),
    ] {
        let ended = shell(script, "init train.jsonl --output -").expect(1);
        let message = format!("trainer: error: standard output: {why}");
        assert!(ended.stderr.contains(&message), "{}", ended.text());
    }
}

#[test]
fn a_folder_without_write_permission() {
    // SAFETY: geteuid only returns a number.
    if unsafe { libc::geteuid() } == 0 {
        println!(
            "SKIPPED: permissions do not hold for root; an output_dir in /proc is among the mistakes of tests/cli.rs"
        );
        return;
    }
    let bench = bench();
    fs::create_dir(bench.path("closed")).unwrap();
    fs::set_permissions(bench.path("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    for out in ["closed", "closed/run"] {
        let ended = run(trainer(&bench).args(train(&bench, out, &[]))).expect(2);
        let named =
            ended.stderr.contains("output_dir") && ended.stderr.contains(&bench.path(out).display().to_string());
        assert!(named && ended.stderr.contains("Permission denied"), "{}", ended.text());
    }
    fs::set_permissions(bench.path("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}
