//! `trainer launch --slurm` in a real Slurm on this machine (`tests/slurm/cluster.sh`): skipped without root or packages.

mod common;

use common::process::{checkpoints, kill, mpirun, program, programs_with, run, steps_logged};
use common::runs::{Bench, assert_equivalent};
use common::slurm::{Cluster, Job};
use std::fs;

const MODEL: &str = "bert-classification";

/// What is trained into `out`: a file with the number of steps, which a test changes while a job waits in the queue, and
/// settings.
fn train(bench: &Bench, out: &str, more: &[&str]) -> Vec<String> {
    let settings = bench.settings(out, more);
    let settings = settings.into_iter().filter(|setting| !setting.starts_with("max_steps="));
    [steps_file(out)].into_iter().chain(settings).collect()
}

fn steps_file(out: &str) -> String {
    format!("{out}.toml")
}

fn set_steps(bench: &Bench, out: &str, steps: u64) {
    fs::write(bench.path(&steps_file(out)), format!("[train]\nmax_steps = {steps}\n")).unwrap();
}

/// Settings under which a step does not depend on how many there are; with dropout.
const ENDLESS: [&str; 6] = [
    "lr_scheduler_type=constant_with_warmup",
    "hidden_dropout_prob=0.1",
    "attention_probs_dropout_prob=0.1",
    "micro_batch_tokens=60",
    "save_steps=20",
    "save_total_limit=2",
];

/// Submits a run that ends only when it is stopped; returns when it has taken some steps. If Slurm queues it again, it
/// starts no ranks before [`let_go_on`].
fn endless<'a>(cluster: &'a Cluster, out: &str, options: &[&str]) -> Job<'a> {
    let bench = &cluster.bench;
    set_steps(bench, out, 1_000_000);
    let (setup, go) = (format!("{out}-setup.sh"), go_file(out));
    let waits = format!("((${{SLURM_RESTART_COUNT:-0}} == 0)) || until [[ -e {go} ]]; do sleep 0.1; done\n");
    fs::write(bench.path(&setup), waits).unwrap();
    let job = cluster.submit(&[options, &["--setup", &setup]].concat(), &train(bench, out, &ENDLESS));
    job.until("steps", |_| steps_logged(&bench.path(out)) >= 20);
    job
}

fn go_file(out: &str) -> String {
    format!("{out}-go")
}

/// Lets a job that was queued again go on to so many steps.
fn let_go_on(bench: &Bench, out: &str, steps: u64) {
    set_steps(bench, out, steps);
    fs::write(bench.path(&go_file(out)), "").unwrap();
}

/// Waits until a job that was told so is in the queue again, and lets it end 15 steps after its checkpoint.
fn goes_on_from_the_queue(cluster: &Cluster, job: &Job, out: &str) {
    job.until("the requeue", |job| job.fact("Restarts") == "1");
    let newest = *checkpoints(&cluster.bench.path(out)).last().expect("a complete checkpoint");
    let_go_on(&cluster.bench, out, newest + 15);
    let log = ends_as_if_uncut(cluster, job, out, newest + 15);
    let stopped = format!("trainer: stopped on a signal after step {newest}; checkpoint written");
    assert_eq!(log.matches(&stopped).count(), 1, "{log}");
    let again = format!(": the time limit is near: requeued, to resume from step {newest}\n");
    assert!(log.contains(&again), "{log}");
    let resumed = format!("resumed   from {}", cluster.bench.path(out).join(format!("checkpoint-{newest}")).display());
    assert!(log.contains(&resumed), "{log}");
}

/// Waits for the end of a job that was queued again once, and asserts that it has taken the very steps of a run that
/// nothing interrupted; returns its log.
fn ends_as_if_uncut(cluster: &Cluster, job: &Job, out: &str, steps: u64) -> String {
    let bench = &cluster.bench;
    let log = job.expect("COMPLETED", 0, 1);
    assert!(log.contains("\nresumed   from "), "{log}");
    let (whole, max_steps) = (format!("{out}-whole"), format!("max_steps={steps}"));
    let settings = bench.settings(&whole, &[&ENDLESS[..], &[&max_steps]].concat());
    run(mpirun(2, bench).arg("train").args(settings)).expect(0);
    assert_eq!(bench.steps(out).len() as u64, steps);
    assert_eq!(bench.steps(out), bench.steps(&whole), "{log}");
    log
}

#[test]
fn ranks_train_by_srun_and_by_mpirun() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let bench = &cluster.bench;
    run(mpirun(2, bench).arg("train").args(bench.settings("plain", &[]))).expect(0);
    // The nodes are one machine, whose loopback is the one address that is always there.
    let two_nodes = ["--nodes", "2", "-n", "1", "--env", "OMPI_MCA_btl_tcp_if_include=lo"];
    for (out, options) in [
        ("srun", &["-n", "2", "--threads", "1", "--job-name", "it's \"a\" job"][..]),
        ("mpirun", &["-n", "2", "--launcher", "mpirun"]),
        ("srun-two", &two_nodes),
        (
            "mpirun-two",
            &[&two_nodes[..], &["--env", "OMPI_MCA_oob_tcp_if_include=lo", "--launcher", "mpirun"]].concat(),
        ),
    ] {
        set_steps(bench, out, 20);
        let job = cluster.submit(options, &train(bench, out, &[]));
        let log = job.expect("COMPLETED", 0, 0);
        assert!(log.contains("\nranks     2 (mpi"), "{out}: {log}");
        assert_equivalent(&bench.steps(out), &bench.steps("plain"), out);
        if out == "srun" {
            let shown = cluster.slurm("scontrol", &["show", "job", &job.number]).stdout;
            assert!(shown.contains("JobName=it's \"a\" job\n") && shown.contains("CPUs/Task=1"), "{shown}");
        }
    }

    let refused =
        run(&mut cluster.launch(&["-n", "2", "--partition", "nowhere"], &train(bench, "srun", &[]))).expect(1);
    assert!(refused.stderr.contains("sbatch: error:") && refused.stdout.is_empty(), "{}", refused.text());
    let last = refused.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("trainer: error: sbatch rejected the job"), "{}", refused.text());
}

#[test]
fn a_job_cut_by_its_time_limit_goes_on() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    // Slurm looks at time limits every half minute: the signal comes after 30 to 60 seconds.
    let job = endless(&cluster, "run", &["-n", "2", "--time", "2", "--signal-before", "60"]);
    goes_on_from_the_queue(&cluster, &job, "run");
}

#[test]
fn signals_ask_for_a_checkpoint() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    for launcher in ["srun", "mpirun"] {
        let options = ["-n", "2", "--launcher", launcher];
        let stopped = format!("{launcher}-stopped");
        let job = endless(&cluster, &stopped, &options);
        job.signal(&["--full", "--signal=USR1"]);
        let log = job.expect("FAILED", 3, 0);
        let last = steps_logged(&cluster.bench.path(&stopped));
        assert_eq!(log.matches("trainer: stopped on a signal after step").count(), 1, "{log}");
        assert_eq!(checkpoints(&cluster.bench.path(&stopped)).last(), Some(&(last as u64)), "{log}");

        let requeued = format!("{launcher}-requeued");
        let job = endless(&cluster, &requeued, &options);
        job.signal(&["--batch", "--signal=USR2"]);
        goes_on_from_the_queue(&cluster, &job, &requeued);
    }
}

/// A fault that the node survives.
#[test]
fn a_killed_rank_is_a_restart_inside_the_job() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let job = endless(&cluster, "run", &["-n", "2"]);
    job.until("a checkpoint", |_| !checkpoints(&cluster.bench.path("run")).is_empty());
    // Another cluster may have a job of this number.
    let is_ours = |&pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == cluster.bench.path(""));
    let mut ranks = programs_with(&[&format!("SLURM_JOB_ID={}", job.number), "SLURM_PROCID=1"]);
    ranks.retain(is_ours);
    assert_eq!(ranks.len(), 1, "{}", job.log());
    kill(ranks[0], libc::SIGKILL);
    job.until("the restart", |job| job.log().contains("\nresumed   from "));
    let so_far = steps_logged(&cluster.bench.path("run"));
    job.until("steps", |_| steps_logged(&cluster.bench.path("run")) >= so_far + 5);
    job.signal(&["--full", "--signal=USR1"]);
    let log = job.expect("FAILED", 3, 0);
    assert!(log.contains(": restart 1 of 3, from step ") && !log.contains("restart 2"), "{log}");
    assert_eq!(log.matches("trainer: stopped on a signal after step").count(), 1, "{log}");
}

/// By hand, in the shell of `salloc`.
#[test]
fn launch_takes_the_nodes_of_an_allocation() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let bench = &cluster.bench;
    let mut salloc = cluster.command("salloc");
    salloc.args(["--nodes", "2", "--ntasks-per-node", "1", program(), "launch"]).args(bench.settings("run", &[]));
    salloc.envs(["OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_oob_tcp_if_include"].map(|name| (name, "lo")));
    let ended = run(&mut salloc).expect(0);
    assert!(
        ended.stderr.contains("launch: 2 ranks on the 2 nodes of this Slurm job; -n changes the number"),
        "{}",
        ended.text()
    );
    assert!(ended.stderr.contains("\nranks     2 (mpi"), "{}", ended.text());
    run(mpirun(2, bench).arg("train").args(bench.settings("plain", &[]))).expect(0);
    assert_equivalent(&bench.steps("run"), &bench.steps("plain"), "run");
}

/// Slurm itself queues the job again.
#[test]
fn a_job_goes_on_when_its_node_fails() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let job = endless(&cluster, "run", &["-n", "2"]);
    job.until("two checkpoints", |_| steps_logged(&cluster.bench.path("run")) >= 45);
    // The job reads it when it starts anew, after far fewer steps than these.
    let steps = steps_logged(&cluster.bench.path("run")) as u64 + 500;
    let_go_on(&cluster.bench, "run", steps);
    let node = format!("NodeName={}", job.fact("NodeList"));
    cluster.slurm("scontrol", &["update", &node, "State=DOWN", "Reason=test"]);
    ends_as_if_uncut(&cluster, &job, "run", steps);
}

#[test]
fn what_would_come_to_the_same_is_not_queued_again() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let bench = &cluster.bench;
    // The time is over before there is a rank.
    fs::write(bench.path("late.sh"), "kill -USR2 $$\n").unwrap();
    set_steps(bench, "late", 20);
    let log = cluster.submit(&["-n", "2", "--setup", "late.sh"], &train(bench, "late", &[])).expect("FAILED", 3, 0);
    assert!(log.contains("the time limit came before the first step (exit 3); not requeued"), "{log}");

    set_steps(bench, "bad", 20);
    let bad = train(bench, "bad", &["data.train=nowhere.jsonl"]);
    let log = cluster.submit(&["-n", "2"], &bad).expect("FAILED", 2, 0);
    assert_eq!(log.matches("nowhere.jsonl").count(), 1, "{log}");

    set_steps(bench, "nan", 20);
    let log = cluster.submit(&["-n", "2"], &train(bench, "nan", &["learning_rate=1e30"])).expect("FAILED", 4, 0);
    assert!(log.contains("trainer: error: step"), "{log}");

    // A fault that comes again: one restart, and no third start without a new checkpoint.
    fs::write(bench.path("broken.sh"), "export OMPI_MCA_btl=nowhere\n").unwrap();
    set_steps(bench, "broken", 20);
    let options = ["-n", "2", "--launcher", "mpirun", "--setup", "broken.sh"];
    let job = cluster.submit(&options, &train(bench, "broken", &[]));
    let log = job.expect("FAILED", 1, 0);
    assert_eq!(log.matches(": restart 1 of 3, from step 0\n").count(), 1, "{log}");
    assert!(log.contains("not restarted") && !log.contains("restart 2 of 3"), "{log}");
}

#[test]
fn one_rank_worlds_are_explained() {
    let Some(cluster) = Cluster::up(MODEL) else { return };
    let train = [vec!["train".to_owned()], cluster.bench.settings("run", &[])].concat();
    let step = |arguments: &[&str]| {
        let mut srun = cluster.command("srun");
        srun.args(arguments).arg(program()).args(&train);
        run(&mut srun)
    };
    let alone = step(&["-n", "2", "--mpi=none"]).expect(2);
    let told = "trainer: error: Slurm started 2 tasks, but MPI finds only one rank in each";
    assert_eq!(alone.stderr.matches(told).count(), 1, "{}", alone.text());
    assert!(alone.stderr.contains("srun --mpi=pmix"), "{}", alone.text());
    // Debian's Open MPI does not know PMI-2, and says so in its own words.
    let pmi2 = step(&["-n", "2", "--mpi=pmi2"]);
    assert!(!pmi2.status.success() && pmi2.stderr.contains("use `srun --mpi=pmix`"), "{}", pmi2.text());
    assert!(!cluster.bench.path("run").exists());
    // The doctor under srun: all is well, and then not.
    let doctor = |mpi: &str| {
        let mut srun = cluster.command("srun");
        run(srun.args(["-n", "2", mpi]).arg(program()).args(["doctor", "--no-sweep"]))
    };
    let well = doctor("--mpi=pmix").expect(0);
    // Other programs may use this machine's cores, and its disk: no problem, whatever else there is to say.
    assert!(!well.stdout.contains("PROBLEM") && well.stdout.contains("slurmstepd"), "{}", well.text());
    let alone = doctor("--mpi=none").expect(2);
    assert!(
        alone.stdout.contains("PROBLEM  ranks-alone") && alone.stdout.contains("srun --mpi=pmix"),
        "{}",
        alone.text()
    );
    // A step of one task, in a job of two.
    step(&["-n", "1", "--mpi=none"]).expect(0);
}
