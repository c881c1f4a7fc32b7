//! What the doctor knows: of each rank, and of all of them together. Plain values, which ranks send each other and
//! which `--json` prints as they are; nothing here judges.

mod hardware;
mod launch;
mod software;

use crate::comm::nccl::Sharing;
use serde::{Deserialize, Serialize};

/// One rank and the machine that it sees.
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
    /// Seconds since 1970, read by all ranks at about the same moment.
    pub clock: f64,
}

/// Which host a rank is on. Two containers are two hosts; so are two machines of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    pub name: String,
    /// The kernel's number of its last start.
    pub boot: String,
}

/// How this process was started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Launch {
    /// The program of the nearest launcher above this process, such as "/usr/bin/mpirun".
    pub launcher: Option<String>,
    /// Processes of this program that this launcher has here as other ranks, this one included; 0 without a launcher.
    pub together: usize,
    /// The variable that tells how many ranks were started, and its number.
    pub announced: Option<(String, usize)>,
    /// Whether a variable says that an MPI library will find its ranks.
    pub mpi: bool,
    /// Whether that is PMIx.
    pub pmix: bool,
    /// Whether one rank was asked for, so that no other was looked for.
    pub solo: bool,
    /// Of a process that has found no other: why training would not start, and what to do, in training's own words.
    pub refused: Option<(String, String)>,
    /// Ranks that this process is one of.
    pub world: usize,
}

/// Versions and places.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Software {
    pub trainer: Program,
    pub libtorch: Libtorch,
    pub mpi: Library,
    pub nccl: Option<Library>,
    /// Whether it lets ranks share a GPU.
    pub nccl_sharing: Sharing,
    /// Why there is no NCCL.
    pub nccl_error: Option<String>,
    /// The NCCL that lies beside libtorch, whether or not it is the one that is loaded.
    pub nccl_beside_libtorch: Option<String>,
    /// The version of the NVIDIA kernel driver.
    pub driver: Option<String>,
}

/// This program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    pub version: String,
    pub path: String,
    /// The first half of the file's BLAKE3: equal files, equal programs.
    pub digest: String,
}

/// libtorch, as it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Libtorch {
    pub version: String,
    pub path: String,
    /// The file that this program was built with.
    pub built_with: String,
    /// The CUDA runtime of a build with CUDA, such as "13.0"; `None` of a build for CPUs.
    pub cuda: Option<String>,
}

/// A library, as it was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Library {
    pub version: String,
    pub path: String,
}

/// GPUs, as the host, the driver and libtorch see them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpus {
    /// Of the host, by NVML, in the order of the PCI bus.
    pub host: Vec<HostGpu>,
    /// Why NVML knows nothing.
    pub nvml_error: Option<String>,
    pub links: Vec<Link>,
    /// Whether there is a CUDA driver.
    pub driver: bool,
    /// The newest CUDA that it can run.
    pub driver_cuda: Option<String>,
    /// Why it does not work.
    pub driver_error: Option<String>,
    /// GPUs that the driver gives to this process.
    pub visible: Vec<VisibleGpu>,
    /// `CUDA_VISIBLE_DEVICES`.
    pub visible_devices: Option<String>,
    /// GPUs that libtorch sees.
    pub libtorch: usize,
    /// The one of `visible` that this rank takes for training.
    pub mine: Option<usize>,
}

/// A GPU of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostGpu {
    pub index: usize,
    pub name: String,
    pub uuid: String,
    /// In the driver's form.
    pub bus_id: String,
    pub memory_bytes: u64,
    pub numa_node: Option<usize>,
}

/// A GPU that a process may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VisibleGpu {
    pub name: String,
    pub bus_id: String,
    pub memory_bytes: u64,
}

/// The way between two GPUs of the host, by their indices.
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
    /// Those that it uses.
    pub used: Vec<usize>,
    /// Threads that it computes with.
    pub threads: usize,
    /// What products of matrices reach with one thread and with all of them, in 1e9 operations a second; `None` of one
    /// thread, and before they are timed.
    pub gigaflops: Option<[f64; 2]>,
    /// The share of that time for which the main thread waited for a core.
    pub waited: Option<f64>,
    /// Logical CPUs of the host.
    pub host: usize,
    pub numa_nodes: usize,
    pub model: String,
    /// `None` where the question makes no sense (not x86).
    pub avx2: Option<bool>,
}

/// Memory and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// What the ranks of this host may still use, by the host and by control groups.
    pub available_bytes: Option<u64>,
    /// `/dev/shm`.
    pub shared_bytes: Option<u64>,
    pub shared_free_bytes: Option<u64>,
    /// Soft limits; `None`: unlimited.
    pub locked_limit_bytes: Option<u64>,
    pub open_files_limit: Option<u64>,
}

/// What concerns the network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub interfaces: Vec<String>,
    /// `NCCL_SOCKET_IFNAME`.
    pub nccl_socket_ifname: Option<String>,
    /// Whether there is an InfiniBand (or RoCE) card.
    pub infiniband: bool,
}

/// The output folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Folder {
    /// As it was named.
    pub named: String,
    /// Itself, or the nearest folder above it that rank 0 has.
    pub path: String,
    pub file_system: Option<String>,
    pub total_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// `None` where there is too little space to tell a speed.
    pub written_bytes: Option<u64>,
    /// Until all was on the device.
    pub written_seconds: Option<f64>,
    /// Why rank 0 could not write.
    pub write_error: Option<String>,
    /// Why the look at it ended early.
    pub error: Option<String>,
    /// With several hosts: what each sees.
    pub hosts: Vec<FolderHost>,
}

/// The output folder, seen from one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FolderHost {
    pub host: String,
    /// The lowest rank there.
    pub rank: usize,
    /// Why that rank could not write.
    pub write_error: Option<String>,
    /// Hosts whose files it did not see although they were written.
    pub not_seen: Vec<String>,
}

/// Timed and checked collectives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sweep {
    pub backend: String,
    pub rows: Vec<Timing>,
    pub wrong: Option<Wrong>,
    /// Why it ended early.
    pub error: Option<String>,
}

/// One collective at one size, as nccl-tests tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    pub collective: String,
    /// Of the whole buffer.
    pub bytes: u64,
    /// Mean over calls and ranks.
    pub seconds: f64,
    /// `bytes / seconds`, in bytes a second.
    pub algorithm_bandwidth: f64,
    /// The share of it that goes over each rank's link, in bytes a second.
    pub bus_bandwidth: f64,
}

/// A collective that brought a wrong value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wrong {
    pub collective: String,
    pub bytes: u64,
    pub rank: usize,
    pub element: usize,
    pub expected: f64,
    /// As text: JSON has no number for NaN or infinity.
    pub found: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// In the order of ranks.
    pub ranks: Vec<Rank>,
    /// Why MPI could not start.
    pub mpi_error: Option<String>,
    /// Why NCCL refused to connect these ranks.
    pub nccl_refused: Option<String>,
    pub folder: Option<Folder>,
    /// `None` for one rank.
    pub sweep: Option<Sweep>,
}

impl Facts {
    /// The ranks by host, in the order of each host's lowest rank.
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
    /// The GPU that this rank takes for training.
    pub fn gpu(&self) -> Option<&VisibleGpu> {
        self.gpus.visible.get(self.gpus.mine?)
    }
}
