//! A link from measured collectives: latency and bandwidth.

use crate::comm::{Action, Op};
use crate::plan::link::{Link, Network};

/// A collective that was timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    pub action: Action,
    /// Bytes of its whole buffer.
    pub bytes: f64,
    pub seconds: f64,
}

/// The operations that a step uses, with their names.
pub const ACTIONS: [(Action, &str); 3] = [
    (Action::AllReduce(Op::Sum), "all-reduce"),
    (Action::ReduceScatter, "reduce-scatter"),
    (Action::AllGather, "all-gather"),
];

/// The link whose times are closest to what was measured between ranks of one machine: least squares of relative errors.
pub fn link(timed: &[Timed], ranks: usize) -> Link {
    let named = |latency, bandwidth| Link { name: "measured", bandwidth, share: 1.0, latency, source: "measured here" };
    // Seconds are linear in latency and in 1 / bandwidth: a is what a unit of each adds.
    let unit = |timed: &Timed| {
        let network = |link: Link| Network { near: link, far: link, ranks_per_node: ranks, overlaps: false };
        let of = |latency, bandwidth| network(named(latency, bandwidth)).seconds(timed.action, timed.bytes, ranks);
        let nothing = of(0.0, f64::INFINITY);
        [of(1.0, f64::INFINITY) - nothing, of(0.0, 1.0) - nothing, timed.seconds - nothing].map(|x| x / timed.seconds)
    };
    let (mut ll, mut lb, mut bb, mut lt, mut bt) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for [l, b, t] in timed.iter().map(unit) {
        ll += l * l;
        lb += l * b;
        bb += b * b;
        lt += l * t;
        bt += b * t;
    }
    let det = ll * bb - lb * lb;
    let solved = [(lt * bb - bt * lb) / det, (bt * ll - lt * lb) / det];
    // Neither is below nothing: the other is then fitted alone.
    let [latency, slowness] = match solved {
        [latency, _] if latency < 0.0 => [0.0, bt / bb],
        [_, slowness] if slowness < 0.0 => [lt / ll, 0.0],
        both => both,
    };
    named(latency, 1.0 / slowness.max(1e-15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_model_is_found_again() {
        for (latency, bandwidth) in [(2e-5, 3e9), (5e-4, 2e8)] {
            let near = Link { name: "", bandwidth, share: 1.0, latency, source: "" };
            let network = Network { near, far: near, ranks_per_node: 4, overlaps: false };
            let sizes = [1e4, 1e6, 3e7];
            let all = ACTIONS.iter().flat_map(|&(action, _)| sizes.map(|bytes| (action, bytes)));
            let timed: Vec<Timed> = all
                .map(|(action, bytes)| Timed { action, bytes, seconds: network.seconds(action, bytes, 4) })
                .collect();
            let found = link(&timed, 4);
            assert!((found.latency / latency - 1.0).abs() < 1e-6, "{found:?}");
            assert!((found.bandwidth / bandwidth - 1.0).abs() < 1e-6, "{found:?}");
        }
    }
}
