//! Sharding within each host (`parallel.shard_within = "host"`): the steps of ZeRO over all ranks, with weights that stay
//! on the host and one all-reduce of gradient shards between hosts. Hosts are simulated by the threads backend;
//! `tests/mpi_hosts.rs` has network namespaces.

mod common;

use common::counting::{Counting, Counts};
use common::runs::{Bench, assert_equivalent};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trainer::checkpoint::run_dir::Resume;
use trainer::comm::{Collective, threads};
use trainer::models::family::DropoutOverrides;
use trainer::models::registry;
use trainer::nn::Layout;
use trainer::nn::layout::Content;
use trainer::tasks::Head;
use trainer::train::model_loading::Declared;

const NO_DROPOUT: [&str; 3] = ["hidden_dropout_prob=0", "attention_probs_dropout_prob=0", "classifier_dropout=0"];

fn hosts(world: usize, per_host: usize) -> Vec<Arc<dyn Collective>> {
    threads::hosts(world, per_host, Duration::from_secs(60))
}

fn settings<'a>(zero: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&NO_DROPOUT[..], &[zero, "parallel.shard_within=host"], more].concat()
}

/// Stages, precisions, one micro-batch and several, checkpointing, several shapes of hosts.
#[test]
fn grouping_changes_no_step() {
    let bench = Bench::new("bert-classification");
    let plain = [&NO_DROPOUT[..], &["parallel.zero_stage=3", "save_strategy=no"]].concat();
    bench.run(4, "base", &plain, &Resume::None).unwrap();
    let base = bench.steps("base");
    let cases = [
        (4, 2, "parallel.zero_stage=3", "micro_batch_tokens=4096", "parallel.recompute=none"),
        (4, 2, "parallel.zero_stage=3", "micro_batch_tokens=20", "parallel.recompute=all"),
        (4, 2, "parallel.zero_stage=2", "micro_batch_tokens=20", "parallel.recompute=none"),
        (4, 2, "parallel.zero_stage=1", "micro_batch_tokens=20", "parallel.recompute=none"),
        (4, 4, "parallel.zero_stage=3", "micro_batch_tokens=20", "parallel.recompute=none"),
        (3, 1, "parallel.zero_stage=3", "micro_batch_tokens=20", "parallel.recompute=none"),
    ];
    for (world, per_host, zero, tokens, recompute) in cases {
        let out = format!("{world}-{per_host}-{zero}-{tokens}-{recompute}");
        let more = settings(zero, &[tokens, recompute, "save_strategy=no"]);
        bench.run_on(hosts(world, per_host), &out, &more, &Resume::None).unwrap();
        assert_equivalent(&bench.steps(&out), &base, &out);
        let eval = |out: &str| bench.lines(out, "eval_loss").pop().unwrap()["eval_loss"].as_f64().unwrap();
        assert!((eval(&out) / eval("base") - 1.0).abs() < 1e-5, "{out}: the evaluation differs");
    }
}

/// In half precision, whose sums are rounded in another order, the losses stay near.
#[test]
fn half_precision_is_near() {
    let bench = Bench::new("bert-classification");
    let more = ["parallel.precision=bf16", "save_strategy=no", "max_steps=8"];
    let plain = [&NO_DROPOUT[..], &["parallel.zero_stage=3"], &more].concat();
    bench.run(4, "base", &plain, &Resume::None).unwrap();
    bench.run_on(hosts(4, 2), "host", &settings("parallel.zero_stage=3", &more), &Resume::None).unwrap();
    for (ours, base) in bench.steps("host").iter().zip(bench.steps("base")) {
        assert!((ours.0 / base.0 - 1.0).abs() < 2e-2, "{ours:?} and {base:?}");
    }
}

/// A checkpoint knows no grouping.
#[test]
fn a_checkpoint_is_taken_up_in_any_grouping() {
    let bench = Bench::new("bert-classification");
    let plain = [&NO_DROPOUT[..], &["parallel.zero_stage=3", "save_steps=10"]].concat();
    bench.run(4, "base", &plain, &Resume::None).unwrap();
    let base = bench.steps("base");
    let host = settings("parallel.zero_stage=3", &["save_steps=10"]);
    bench.run_on(hosts(4, 2), "host", &host, &Resume::None).unwrap();
    let from = |out: &str| Resume::Path(bench.path(out).join("checkpoint-10"));
    bench.run_on(hosts(4, 2), "same", &host, &from("host")).unwrap();
    assert_eq!(bench.steps("same"), bench.steps("host"), "resumed in the same grouping: the same bits");
    bench.run_on(hosts(4, 2), "into", &host, &from("base")).unwrap();
    bench.run(4, "out-of", &plain, &from("host")).unwrap();
    bench.run(1, "alone", &[&NO_DROPOUT[..], &["save_steps=10"]].concat(), &from("host")).unwrap();
    for out in ["same", "into", "out-of", "alone"] {
        assert_equivalent(&bench.steps(out), &base, out);
    }
}

/// Runs and returns each rank's counts.
fn counted(bench: &Bench, group: Vec<Arc<dyn Collective>>, out: &str, more: &[&str]) -> Vec<Counts> {
    let (ranks, counts): (Vec<_>, Vec<Arc<Mutex<Counts>>>) = group.into_iter().map(Counting::around).unzip();
    bench.run_on(ranks, out, more, &Resume::None).unwrap();
    counts.iter().map(|counts| counts.lock().unwrap().clone()).collect()
}

/// Elements of the dense units of the model, in each shard of `shards`.
fn dense(model: &Path, shards: usize) -> u64 {
    let head = Head::Classes(vec!["science".into(), "sport".into(), "weather".into()]);
    let config = registry::read_config(model).unwrap();
    let declared = Declared::read(model, config, DropoutOverrides::default(), head.role()).unwrap();
    let shaped = declared.with_head(&head);
    let layout = Layout::new(&shaped.specs, shards);
    layout.units().iter().filter(|unit| unit.content == Content::Dense).map(|unit| unit.shard as u64).sum()
}

/// Between hosts pass one all-reduce of a shard's gradients in a step, whatever the number of micro-batches, the rows of
/// the embedding matrix, and a few numbers; weights never do.
#[test]
fn only_gradient_shards_pass_between_hosts() {
    let bench = Bench::new("bert-classification");
    const STEPS: u64 = 4;
    for tokens in ["micro_batch_tokens=4096", "micro_batch_tokens=20"] {
        let more = settings("parallel.zero_stage=3", &[tokens, "max_steps=4", "save_strategy=no"]);
        let out = format!("run-{tokens}");
        for counts in counted(&bench, hosts(4, 2), &out, &more) {
            let of = |group: &str, action: &str, what: &str| {
                let matching = counts.iter().filter(|((g, a, w), _)| g == group && *a == action && w == what);
                matching.map(|(_, bytes)| *bytes).sum::<u64>()
            };
            let all = |group: &str| counts.iter().filter(|((g, ..), _)| g == group).map(|(_, n)| n).sum::<u64>();
            // The second split has the ranks of all hosts with the same shard.
            let shards = of("all/1", "all-reduce", "gradients");
            assert_eq!(shards, STEPS * 4 * dense(&bench.model, 2), "{tokens}: {counts:?}");
            assert_eq!(all("all/1"), shards, "nothing else passes between replicas: {counts:?}");
            // Weights and whole gradients stay on the host, the rows of the embedding matrix go to all.
            assert!(of("all/0", "all-gather", "weights") > 0 && of("all/0", "reduce-scatter", "gradients") > 0);
            assert_eq!(of("all", "all-gather", "weights") + of("all", "reduce-scatter", "gradients"), 0, "{counts:?}");
            assert!(of("all", "all-reduce", "gradients") > 0, "the rows of the embedding matrix: {counts:?}");
        }
    }
}

#[test]
fn hosts_with_different_numbers_of_ranks_are_refused() {
    let bench = Bench::new("bert-classification");
    let more = settings("parallel.zero_stage=3", &["max_steps=1", "save_strategy=no"]);
    let error = bench.run_on(hosts(3, 2), "run", &more, &Resume::None).unwrap_err().to_string();
    assert!(error.contains("same number of ranks on every host, and hosts have from 1 to 2"), "{error}");
}
