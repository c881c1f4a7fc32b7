//! Links by name, and the time of a collective over them.
//!
//! Time is latency and size: a ring of n ranks takes n - 1 steps for a reduce-scatter or an all-gather of S bytes, each
//! of them a latency and the passing of S / n bytes, which a reduce-scatter also adds up; an all-reduce is both, one after
//! the other (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009; Thakur et
//! al., "Optimization of collective communication operations in MPICH", 2005).

use crate::comm::Action;

/// A way between two ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    pub name: &'static str,
    /// Bytes a second of a rank in one direction, at most.
    pub bandwidth: f64,
    /// The share of it that large collectives reach.
    pub share: f64,
    /// Seconds of a step of a ring.
    pub latency: f64,
    /// Seconds that it takes to add a byte to another, beside passing it. A GPU adds while it passes.
    pub adding: f64,
    pub source: &'static str,
}

/// Latencies of the steps of NCCL's rings are those that it chooses algorithms by (`hwLat` in `src/graph/tuning.cc` of NCCL
/// 2.18 to 2.30, ring, protocol Simple).
pub const LINKS: &[Link] = &[
    Link {
        name: "nvlink4",
        bandwidth: 450e9,
        share: 0.8,
        latency: 3.4e-6,
        adding: 0.0,
        source: "NVIDIA H100 data sheet: 900 GB/s in both directions",
    },
    Link {
        name: "nvlink3",
        bandwidth: 300e9,
        share: 0.78,
        latency: 3.4e-6,
        adding: 0.0,
        source: "NVIDIA A100 data sheet: 600 GB/s in both directions; NCCL takes 235 GB/s for its most",
    },
    Link {
        name: "pcie5",
        bandwidth: 64e9,
        share: 0.7,
        latency: 5.7e-6,
        adding: 0.0,
        source: "PCI Express 5.0, 16 lanes",
    },
    Link {
        name: "pcie4",
        bandwidth: 32e9,
        share: 0.7,
        latency: 5.7e-6,
        adding: 0.0,
        source: "PCI Express 4.0, 16 lanes",
    },
    Link {
        name: "ib400",
        bandwidth: 50e9,
        share: 0.9,
        latency: 14.0e-6,
        adding: 0.0,
        source: "InfiniBand NDR, an adapter a GPU",
    },
    Link {
        name: "ib200",
        bandwidth: 25e9,
        share: 0.9,
        latency: 14.0e-6,
        adding: 0.0,
        source: "InfiniBand HDR, an adapter a GPU",
    },
    Link {
        name: "eth100",
        bandwidth: 12.5e9,
        share: 0.8,
        latency: 30e-6,
        adding: 0.0,
        source: "100 Gb/s Ethernet, an adapter a GPU",
    },
    Link {
        name: "eth25",
        bandwidth: 3.125e9,
        share: 0.8,
        latency: 30e-6,
        adding: 0.0,
        source: "25 Gb/s Ethernet, an adapter a GPU",
    },
    Link {
        name: "shared-memory",
        bandwidth: 4.9e9,
        share: 1.0,
        latency: 20e-6,
        adding: 1.2e-10,
        source: "this program's MPI backend, two ranks on two cores of a Xeon (16 MB: 1.7 ms gathered, 2.7 reduced)",
    },
];

/// Before the first step of a ring: NCCL's `baseLat`, ring, protocol Simple.
const START: f64 = 8.4e-6;

impl Link {
    /// The link of a name.
    pub fn named(name: &str) -> Option<Link> {
        LINKS.iter().find(|link| link.name.eq_ignore_ascii_case(name)).copied()
    }

    /// Bytes a second that collectives reach.
    pub fn reached(&self) -> f64 {
        self.bandwidth * self.share
    }
}

/// How ranks are connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Within a machine.
    pub near: Link,
    /// Between machines; each rank has one of its own.
    pub far: Link,
    pub ranks_per_node: usize,
    /// Whether collectives run beside computation; ranks on the cores of a CPU take turns with them.
    pub overlaps: bool,
}

impl Network {
    /// The seconds of a collective whose whole buffer has so many bytes.
    ///
    /// Rings pass every rank of a machine and then the next machine. As many rings as there are adapters run side by side,
    /// each of them leaving the machine by its own adapter, so that all of them are as fast as the slower of: a rank's
    /// near link, and all far links of a machine together.
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
        let link = |bandwidth, latency| Link { name: "test", bandwidth, share: 1.0, latency, adding: 0.0, source: "" };
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
