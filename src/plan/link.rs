//! Links by name, and the time of a collective over them.
//!
//! A ring of n ranks takes n - 1 steps for a reduce-scatter or an all-gather of S bytes. Each step takes the latency
//! and the transfer of S / n bytes, which a reduce-scatter also reduces. An all-reduce is a reduce-scatter and an
//! all-gather (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009; Thakur
//! et al., "Optimization of collective communication operations in MPICH", 2005).

use crate::comm::Action;

/// A connection between two ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    pub name: &'static str,
    /// Peak bandwidth per rank in one direction, in bytes per second.
    pub bandwidth: f64,
    /// Fraction of the bandwidth that large collectives reach.
    pub reached: f64,
    /// Latency of a ring step, in seconds.
    pub latency: f64,
    /// Additional seconds to reduce a byte; 0 on a GPU, which reduces during the transfer.
    pub adding: f64,
    pub source: &'static str,
}

/// The ring latencies are those of NCCL's tuning model (`hwLat` in `src/graph/tuning.cc` of NCCL 2.18 to 2.30, ring,
/// protocol Simple).
pub const LINKS: &[Link] = &[
    Link {
        name: "nvlink4",
        bandwidth: 450e9,
        reached: 0.8,
        latency: 3.4e-6,
        adding: 0.0,
        source: "NVIDIA H100 data sheet: 900 GB/s in both directions",
    },
    Link {
        name: "nvlink3",
        bandwidth: 300e9,
        reached: 0.78,
        latency: 3.4e-6,
        adding: 0.0,
        source: "NVIDIA A100 data sheet: 600 GB/s in both directions; NCCL assumes at most 235 GB/s",
    },
    Link {
        name: "pcie5",
        bandwidth: 64e9,
        reached: 0.7,
        latency: 5.7e-6,
        adding: 0.0,
        source: "PCI Express 5.0, 16 lanes",
    },
    Link {
        name: "pcie4",
        bandwidth: 32e9,
        reached: 0.7,
        latency: 5.7e-6,
        adding: 0.0,
        source: "PCI Express 4.0, 16 lanes",
    },
    Link {
        name: "ib400",
        bandwidth: 50e9,
        reached: 0.9,
        latency: 14.0e-6,
        adding: 0.0,
        source: "InfiniBand NDR, one adapter per GPU",
    },
    Link {
        name: "ib200",
        bandwidth: 25e9,
        reached: 0.9,
        latency: 14.0e-6,
        adding: 0.0,
        source: "InfiniBand HDR, one adapter per GPU",
    },
    Link {
        name: "eth100",
        bandwidth: 12.5e9,
        reached: 0.8,
        latency: 30e-6,
        adding: 0.0,
        source: "100 Gb/s Ethernet, one adapter per GPU",
    },
    Link {
        name: "eth25",
        bandwidth: 3.125e9,
        reached: 0.8,
        latency: 30e-6,
        adding: 0.0,
        source: "25 Gb/s Ethernet, one adapter per GPU",
    },
    Link {
        name: "shared-memory",
        bandwidth: 4.9e9,
        reached: 1.0,
        latency: 20e-6,
        adding: 1.2e-10,
        source: "the MPI backend, two ranks on two cores of a Xeon (16 MB: all-gather 1.7 ms, reduce-scatter 2.7 ms)",
    },
];

/// Startup latency of a ring: NCCL's `baseLat`, ring, protocol Simple.
const START: f64 = 8.4e-6;

impl Link {
    pub fn named(name: &str) -> Option<Link> {
        LINKS.iter().find(|link| link.name.eq_ignore_ascii_case(name)).copied()
    }

    /// Achieved bandwidth of collectives, in bytes per second.
    pub fn reached(&self) -> f64 {
        self.bandwidth * self.reached
    }
}

/// The network between ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// The link within a machine.
    pub near: Link,
    /// The link between machines, one per rank.
    pub far: Link,
    pub ranks_per_node: usize,
    /// Whether communication overlaps with computation (on GPUs, not on CPU cores).
    pub overlaps: bool,
}

impl Network {
    /// Returns the time of a collective in seconds; `bytes` is the size of the whole buffer.
    ///
    /// Rings visit all ranks of a machine before the next machine. There is one ring per adapter, all in parallel, so
    /// the total bandwidth is the minimum of a rank's near link and the sum of a machine's far links.
    pub fn seconds(&self, action: Action, bytes: f64, ranks: usize) -> f64 {
        if ranks < 2 {
            return 0.0;
        }
        let nodes = ranks.div_ceil(self.ranks_per_node);
        let on_node = ranks.min(self.ranks_per_node) as f64;
        let bandwidth = match (nodes, self.ranks_per_node) {
            (1, _) => self.near.reached(),
            (_, 1) => self.far.reached(),
            _ => self.near.reached().min(self.far.reached() * on_node),
        };
        let turns = if matches!(action, Action::AllReduce(_)) { 2.0 } else { 1.0 };
        let adds = !matches!(action, Action::AllGather);
        let adding = if adds { self.near.adding } else { 0.0 };
        let (steps, far) = ((ranks - 1) as f64, (nodes - 1) as f64);
        let latency = (steps - far) * self.near.latency + far * self.far.latency;
        START + turns * latency + steps / ranks as f64 * bytes * (turns / bandwidth + adding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Op;

    fn network(ranks_per_node: usize) -> Network {
        let link =
            |bandwidth, latency| Link { name: "test", bandwidth, reached: 1.0, latency, adding: 0.0, source: "" };
        Network { near: link(100e9, 1e-6), far: link(10e9, 5e-6), ranks_per_node, overlaps: true }
    }

    #[test]
    fn a_ring_on_one_machine() {
        // 4 ranks, 1 GB: 3 steps of 1 us and 250 MB at 100 GB/s.
        let near = network(8).seconds(Action::AllGather, 1e9, 4);
        assert!((near - (8.4e-6 + 3e-6 + 7.5e-3)).abs() < 1e-9, "{near}");
        let both = network(8).seconds(Action::AllReduce(Op::Sum), 1e9, 4);
        assert!((both - (8.4e-6 + 6e-6 + 15e-3)).abs() < 1e-9, "{both}");
        assert_eq!(network(8).seconds(Action::AllGather, 1e9, 1), 0.0);
    }

    #[test]
    fn machines_share_their_adapters() {
        // 4 ranks on each of 2 machines: 4 x 10 GB/s leave a machine; 6 near steps and 1 far.
        let far = network(4).seconds(Action::ReduceScatter, 8e9, 8);
        assert!((far - (8.4e-6 + 6e-6 + 5e-6 + 7.0 / 8.0 * 8e9 / 40e9)).abs() < 1e-9, "{far}");
        let single = network(1).seconds(Action::ReduceScatter, 8e9, 2);
        assert!((single - (8.4e-6 + 5e-6 + 0.4)).abs() < 1e-9, "{single}");
    }
}
