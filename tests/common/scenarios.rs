//! What happens to runs, alone and under `mpirun` alike: interruptions, and a disk that fills up.

use super::process::{self, Ended, Running, checkpoints, names, run, start};
use super::runs::Bench;
use std::fs;
use std::path::Path;
use std::process::Command;

/// How a scenario starts the program: alone, or on several ranks.
pub type Launch = fn(&Bench) -> Command;

/// Settings of a run that must be interrupted to end; with dropout, and with a learning rate that does not depend on
/// how many steps there are.
const ENDLESS: [&str; 7] = [
    "max_steps=1000000",
    "lr_scheduler_type=constant_with_warmup",
    "hidden_dropout_prob=0.1",
    "attention_probs_dropout_prob=0.1",
    "micro_batch_tokens=60",
    "save_steps=20",
    "save_total_limit=3",
];

/// The arguments of `trainer` for a run into `out`.
pub fn train(bench: &Bench, out: &str, more: &[&str]) -> Vec<String> {
    [vec!["train".to_owned()], bench.settings(out, more)].concat()
}

/// Starts a run into `out` that ends only when it is stopped.
pub fn start_endless(bench: &Bench, launch: Launch, out: &str) -> Running {
    start(launch(bench).args(train(bench, out, &ENDLESS)))
}

/// The same; returns when the run has written two checkpoints and more.
pub fn endless(bench: &Bench, launch: Launch, out: &str) -> Running {
    let mut running = start_endless(bench, launch, out);
    running.until_step(&bench.path(out), 45);
    running
}

/// Goes on with an interrupted run and asserts that from its newest complete checkpoint on it takes the very steps of a
/// run that nothing interrupted.
pub fn goes_on_as_if_uncut(bench: &Bench, launch: Launch, out: &str) {
    let newest = *checkpoints(&bench.path(out)).last().expect("a complete checkpoint");
    let steps = format!("max_steps={}", newest + 15);
    let more = [&ENDLESS[..], &[&steps]].concat();
    let resumed = run(launch(bench).args(train(bench, out, &more)).args(["--resume", "auto"])).expect(0);
    let from = format!("resumed   from {}", bench.path(out).join(format!("checkpoint-{newest}")).display());
    assert!(resumed.stderr.contains(&from), "{from}: {}", resumed.text());

    let whole = format!("{out}-whole");
    run(launch(bench).args(train(bench, &whole, &more))).expect(0);
    assert_eq!(bench.steps(out).len() as u64, newest + 15);
    assert_eq!(bench.steps(out), bench.steps(&whole), "resumed at step {newest}");
}

/// Asserts that a run was stopped on a signal as it should be: it said so once, with a complete checkpoint of its last
/// step, and exit code 3.
pub fn stopped_with_a_checkpoint(bench: &Bench, ended: Ended, out: &str) {
    let ended = ended.expect(3);
    let last = bench.steps(out).len();
    let message = format!("trainer: stopped on a signal after step {last}; checkpoint written: ");
    assert_eq!(ended.text().matches(&message).count(), 1, "{message}: {}", ended.text());
    assert_eq!(checkpoints(&bench.path(out)).last(), Some(&(last as u64)), "{}", ended.text());
}

/// A disk on which the first checkpoint fits and the second does not: the run says so and ends with exit code 1, the
/// first checkpoint stays and can be gone on from, and no part of the second is left.
pub fn a_full_disk(bench: &Bench, launch: Launch, settings: &[&str]) {
    let more = ["save_steps=5", "hidden_dropout_prob=0.1", "attention_probs_dropout_prob=0.1"];
    let more = [&more[..], settings].concat();
    run(launch(bench).args(train(bench, "whole", &more))).expect(0);
    let one = size_on_disk(&bench.path("whole/checkpoint-5"));
    let (disk, copy) = (bench.path("disk"), bench.path("copy"));
    fs::create_dir(&disk).unwrap();
    fs::create_dir(&copy).unwrap();
    let mut inner = launch(bench);
    inner.args(train(bench, "disk/run", &more));
    let Some(mut command) = on_a_small_disk(bench, &inner, one * 3 / 2, &disk, &copy) else { return };

    let ended = run(&mut command).expect(1);
    let text = ended.text();
    assert_eq!(text.matches("trainer: ").count(), 1, "one message: {text}");
    assert!(text.contains("trainer: error: checkpoint of step 10 not written"), "{text}");
    assert!(text.contains("No space left on device") && text.contains("--resume auto"), "{text}");
    assert_eq!(names(&copy.join("run")), ["checkpoint-5", "config.toml", "metrics.jsonl"]);
    run(launch(bench).args(train(bench, "copy/run", &more)).args(["--resume", "auto"])).expect(0);
    assert_eq!(bench.steps("copy/run"), bench.steps("whole"), "resumed with room enough");
}

fn size_on_disk(folder: &Path) -> u64 {
    let file = |path: &Path| fs::metadata(path).unwrap().len().next_multiple_of(4096);
    let sizes = names(folder).into_iter().map(|name| folder.join(name)).map(|path| match path.is_dir() {
        true => size_on_disk(&path),
        false => file(&path),
    });
    sizes.sum()
}

/// `inner` with a file system of so many bytes mounted at `disk`, which only it can see; what is there in the end is
/// copied to `copy`. `None`, and a message, where this system does not let us mount.
fn on_a_small_disk(bench: &Bench, inner: &Command, bytes: u64, disk: &Path, copy: &Path) -> Option<Command> {
    const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$2" || exit
        disk=$2 copy=$3; shift 3; "$@"; code=$?; cp -R "$disk/." "$copy"; exit $code"#;
    let shell = |options: &[&str]| {
        let mut command = process::command("unshare", bench);
        command.args(options).args(["sh", "-c", SCRIPT, "sh", &bytes.to_string()]).arg(disk).arg(copy);
        command
    };
    let ways: [&[&str]; 2] = [&["--mount", "--map-root-user"], &["--mount"]];
    let works = |options: &&&[&str]| shell(options).arg("true").output().is_ok_and(|output| output.status.success());
    let Some(options) = ways.iter().find(works) else {
        println!("SKIPPED: a small file system cannot be mounted here (unshare --mount, mount -t tmpfs)");
        return None;
    };
    let mut command = shell(options);
    command.arg(inner.get_program()).args(inner.get_args());
    Some(command)
}
