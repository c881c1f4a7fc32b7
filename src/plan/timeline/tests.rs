use super::*;
use crate::nn::{Init, ParamBuilder};
use crate::parallel::Zero;
use crate::plan::link::Link;
use crate::plan::memory::{OptimizerBytes, Types};
use tch::Kind;

fn link() -> Link {
    Link { name: "test", bandwidth: 1e9, reached: 1.0, latency: 0.0, adding: 0.0, source: "" }
}

fn step(zero: usize, ranks: usize, bandwidth: f64, overlaps: bool) -> Step {
    sharded(zero, ranks, ranks, bandwidth, overlaps, (&[], None, 1))
}

/// Simulates two blocks of 1024 weights each, forward 1 s per block, backward 2 s; nodes have 8 ranks, or as many as
/// there are shards.
fn sharded(
    zero: usize,
    ranks: usize,
    shards: usize,
    bandwidth: f64,
    overlaps: bool,
    more: (&[Cost], Option<f64>, usize),
) -> Step {
    let mut b = ParamBuilder::new();
    for block in 0..2 {
        b.block(block, |b| b.weight(&format!("w{block}"), &[32, 32], Init::Zeros));
    }
    let layout = Layout::new(&b.finish(), shards);
    let setup = Setup {
        types: Types { compute: Kind::Float, reduce: Kind::Float },
        zero: Zero::ALL[zero],
        cpu: true,
        keeps: vec![true; 2],
        saves: false,
        offloads: false,
        noise: false,
        frozen_vocabulary: false,
        optimizer: OptimizerBytes::ADAMW,
    };
    let (near, ranks_per_node) = (Link { bandwidth, ..link() }, if shards < ranks { shards } else { 8 });
    let network = Network { near, far: near, ranks_per_node, overlaps };
    let speed = Speed { flops: 1.0, bytes: 1e12 };
    let (layout, setup, network, (taught, embeddings, micro_batches)) = (&layout, &setup, &network, more);
    let plan = Plan { layout, setup, speed, network, ranks, rows: 0.0, taught, embeddings };
    plan.step(&vec![vec![Cost { flops: 1.0, ..Cost::default() }; 2]; micro_batches])
}

#[test]
fn one_rank_only_computes() {
    let alone = step(0, 1, 1.0, true);
    assert!((alone.seconds - 6.0).abs() < 1e-6 && alone.exposed_communication == 0.0, "{alone:?}");
    assert_eq!((alone.bytes, step(3, 1, 1.0, true).bytes), (0.0, 0.0));
    // A teacher only runs forward.
    let taught = sharded(0, 1, 1, 1.0, true, (&[Cost { flops: 5.0, ..Cost::default() }], None, 1));
    assert!((taught.seconds - 11.0).abs() < 1e-6, "{taught:?}");
}

/// Two nodes of two ranks. A block's gradients are scattered on a node, 1/2 of 4096 bytes in 1/4 s, and their shard of
/// 2048 bytes is all-reduced between the nodes, in 1/2 s.
#[test]
fn shards_on_each_node_are_reduced_between_nodes() {
    let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-3, "{found}, not {wanted}");
    // The two small all-reduces over all four ranks, with 3/4 of their bytes.
    let small = 2.0 * 2.0 * 64.0;
    let hybrid = sharded(3, 4, 2, 8192.0, true, (&[], None, 1));
    // Two all-gathers of weights and one more for backward, two reduce-scatters, two all-reduces of shards.
    near(hybrid.bytes, 5.0 * 4096.0 + 2.0 * 2.0 * 2048.0 + small);
    near(hybrid.between_hosts, 2.0 * 2.0 * 2048.0 / 2.0 + small * 3.0 / 4.0 / 2.0);
    // Exposed: the first all-gather; after backward the last block's all-reduce, and the first block's
    // reduce-scatter and all-reduce.
    near(hybrid.seconds, 6.0 + 4.0 * 0.25 + small * 3.0 / 4.0 / 8192.0);
    assert_eq!(step(3, 4, 8192.0, true).between_hosts, 0.0, "one node");
}

/// All micro-batches but the first run forward again; embeddings of 4096 bytes and their gradients are reduced in a
/// second each.
#[test]
fn gradient_caching_runs_forward_twice() {
    let cached =
        |ranks, micro_batches| sharded(0, ranks, ranks, 4096.0, true, (&[], Some(4096.0), micro_batches)).seconds;
    assert!((cached(1, 1) - 6.0).abs() < 1e-6);
    assert!((cached(1, 3) - (3.0 * 6.0 + 2.0 * 2.0)).abs() < 1e-6);
    let wanted = step(0, 2, 4096.0, true).seconds + 2.0 + 64.0 / 4096.0;
    assert!((cached(2, 1) - wanted).abs() < 1e-3, "{}, not {wanted}", cached(2, 1));
}

/// Two ranks, 4096 bytes per block: an all-reduce takes 2 x 1/2 x 4096 / bandwidth.
#[test]
fn reductions_overlap_with_backward_except_the_last() {
    let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-3, "{found}, not {wanted}");
    // The all-reduces of counts and norms in every step: twice 64 bytes.
    let small = 2.0 * 64.0 / 4096.0;
    // One second each: the last block's overlaps with the first block's backward, the first block's is exposed.
    near(step(0, 2, 4096.0, true).seconds, 7.0 + small);
    near(step(0, 2, 4096.0, false).seconds, 8.0 + small);
    // Half a second each: exposed are the first block's reduce-scatter and both all-gathers of updated weights.
    let sharded = step(1, 2, 4096.0, true);
    near(sharded.seconds, 6.0 + 0.5 + 1.0 + small);
    near(sharded.bytes, 4.0 * 4096.0 + 2.0 * 2.0 * 64.0);
    // The first all-gather takes half a second; the next one overlaps. The second block's weights stay for its
    // backward, when the first block's are gathered again; the first block's reduce-scatter ends the step.
    near(step(3, 2, 4096.0, true).seconds, 6.0 + 0.5 + 0.5 + small);
}
