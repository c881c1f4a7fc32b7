//! The doctor's facts about each rank and about the job: plain values that ranks send to each other and that `--json`
//! prints unchanged, without judgement.

mod hardware;
mod launch;
mod software;

use crate::comm::nccl::Sharing;
use serde::{Deserialize, Serialize};

/// One rank and its machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rank {
    pub rank: usize,
    pub local_rank: usize,
    pub pid: u32,
    pub host: Host,
    pub launch: Launch,
    pub software: Software,
    pub gpus: Gpus,
    pub cores: Cores,
    pub memory: Memory,
    pub network: Network,
    /// Unix time in seconds, read by all ranks at about the same moment.
    pub clock: f64,
}

/// The host of a rank. Two containers are two hosts; so are two machines with the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    pub name: String,
    /// The kernel's boot id.
    pub boot: String,
}

/// How this process was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// Program of the nearest launcher among the parent processes, such as "/usr/bin/mpirun".
    pub launcher: Option<String>,
    /// Processes of this program that the launcher started here as ranks, including this one; 0 without a launcher.
    pub together: usize,
    /// The environment variable with the number of started ranks, and that number.
    pub announced: Option<(String, usize)>,
    /// Whether a variable shows that an MPI library can connect the ranks.
    pub mpi: bool,
    /// Whether that variable is PMIx's.
    pub pmix: bool,
    /// Whether the solo backend was selected, which looks for no other rank.
    pub solo: bool,
    /// Cause and remedy of training's refusal to start, if this process found no other rank.
    pub refused: Option<(String, String)>,
    pub world: usize,
}

/// Versions and paths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Software {
    pub trainer: Program,
    pub libtorch: Libtorch,
    pub mpi: Library,
    pub nccl: Option<Library>,
    pub nccl_sharing: Sharing,
    pub nccl_error: Option<String>,
    /// The NCCL next to libtorch, loaded or not.
    pub nccl_beside_libtorch: Option<String>,
    /// The state of the CUDA kernels; `None` without a GPU.
    pub kernels: Option<String>,
    /// The version of the NVIDIA kernel driver.
    pub driver: Option<String>,
}

/// This program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    pub version: String,
    pub path: String,
    /// The first half of the BLAKE3 hash of the file.
    pub digest: String,
}

/// The loaded libtorch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Libtorch {
    pub version: String,
    pub path: String,
    /// The libtorch file that this program was built with.
    pub built_with: String,
    /// CUDA runtime version, such as "13.0"; `None` for a CPU build.
    pub cuda: Option<String>,
}

/// A loaded library.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Library {
    pub version: String,
    pub path: String,
}

/// GPUs according to the host, the driver and libtorch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpus {
    /// The host's GPUs according to NVML, in the order of the PCI bus.
    pub host: Vec<HostGpu>,
    pub nvml_error: Option<String>,
    pub links: Vec<Link>,
    pub driver: bool,
    /// Newest CUDA version that the driver supports.
    pub driver_cuda: Option<String>,
    pub driver_error: Option<String>,
    pub visible: Vec<VisibleGpu>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
    /// Number of GPUs that libtorch finds.
    pub libtorch: usize,
    /// Index in `visible` of the GPU that this rank uses.
    pub mine: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostGpu {
    pub index: usize,
    pub name: String,
    pub uuid: String,
    /// PCI bus id in the driver's format.
    pub bus_id: String,
    pub memory_bytes: u64,
    pub numa_node: Option<usize>,
}

/// A GPU that is visible to a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VisibleGpu {
    pub name: String,
    pub bus_id: String,
    pub memory_bytes: u64,
}

/// The link between two GPUs of the host, by their indices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    pub between: (usize, usize),
    pub way: Option<String>,
    pub peer_access: Option<bool>,
}

/// Cores and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cores {
    /// Logical CPUs that the launcher bound this rank to.
    pub given: Vec<usize>,
    /// Logical CPUs that it uses.
    pub used: Vec<usize>,
    /// Number of compute threads.
    pub threads: usize,
    /// Matmul GFLOP/s with one thread and with all; `None` with a single thread, and before the measurement.
    pub gigaflops: Option<[f64; 2]>,
    /// Fraction of that time that the main thread waited for a core.
    pub waited: Option<f64>,
    /// Logical CPUs of the host.
    pub host: usize,
    pub numa_nodes: usize,
    pub model: String,
    /// `None` if not x86.
    pub avx2: Option<bool>,
}

/// Memory and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Bytes available to the ranks of this host, within the limits of the host and of control groups.
    pub available_bytes: Option<u64>,
    /// Size of `/dev/shm`.
    pub shared_bytes: Option<u64>,
    pub shared_free_bytes: Option<u64>,
    /// Soft limit; `None` if unlimited.
    pub locked_limit_bytes: Option<u64>,
    pub open_files_limit: Option<u64>,
}

/// Network settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub interfaces: Vec<String>,
    pub nccl_socket_ifname: Option<String>,
    /// Whether the host has an InfiniBand or RoCE card.
    pub infiniband: bool,
}

/// The output folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Folder {
    /// The path as given.
    pub named: String,
    /// The folder, or its nearest parent that exists on rank 0.
    pub path: String,
    pub file_system: Option<String>,
    pub total_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// Bytes of the write test; `None` if there is too little space for it.
    pub written_bytes: Option<u64>,
    /// Seconds until all bytes were flushed.
    pub written_seconds: Option<f64>,
    /// Error of writing on rank 0.
    pub write_error: Option<String>,
    /// Error that ended the check early.
    pub error: Option<String>,
    /// The folder as seen from each host, if there are several.
    pub hosts: Vec<FolderHost>,
}

/// The output folder, seen from one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderHost {
    pub host: String,
    /// The lowest rank on the host.
    pub rank: usize,
    /// Error of writing on that rank.
    pub write_error: Option<String>,
    /// Hosts whose test files are not visible here.
    pub not_seen: Vec<String>,
}

/// Timed and checked collectives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sweep {
    pub backend: String,
    pub rows: Vec<Timing>,
    pub wrong: Option<Wrong>,
    /// Error that ended the sweep early.
    pub error: Option<String>,
}

/// One collective at one size, with the metrics of nccl-tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    pub collective: String,
    /// Size of the whole buffer.
    pub bytes: u64,
    /// Mean seconds over calls and ranks.
    pub seconds: f64,
    /// `bytes / seconds` in bytes per second.
    pub algorithm_bandwidth: f64,
    /// Bandwidth per rank's link in bytes per second.
    pub bus_bandwidth: f64,
}

/// A wrong value in the result of a collective.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wrong {
    pub collective: String,
    pub bytes: u64,
    pub rank: usize,
    pub element: usize,
    pub expected: f64,
    /// As text, because JSON has no NaN and infinity.
    pub found: String,
}

/// All facts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// In rank order.
    pub ranks: Vec<Rank>,
    pub mpi_error: Option<String>,
    /// Error of connecting these ranks by NCCL.
    pub nccl_refused: Option<String>,
    pub folder: Option<Folder>,
    /// `None` for one rank.
    pub sweep: Option<Sweep>,
}

impl Facts {
    /// Returns the ranks by host, in the order of each host's lowest rank.
    pub fn hosts(&self) -> Vec<(&Host, Vec<&Rank>)> {
        let mut hosts: Vec<(&Host, Vec<&Rank>)> = Vec::new();
        for rank in &self.ranks {
            match hosts.iter_mut().find(|(host, _)| **host == rank.host) {
                Some((_, ranks)) => ranks.push(rank),
                None => hosts.push((&rank.host, vec![rank])),
            }
        }
        hosts
    }
}

impl Rank {
    /// Returns the GPU that this rank uses.
    pub fn gpu(&self) -> Option<&VisibleGpu> {
        self.gpus.visible.get(self.gpus.mine?)
    }
}
