//! Binds a rank to CPU cores. `mpirun -n 2` binds each rank with all its threads to a single core, whatever the size of
//! the machine; a rank needs its fraction of the host's cores.

use super::ffi::process;
use crate::machine::cpus::{self, Core, Node, cores_of, parse_list};
use crate::machine::gpus;
use std::fs;

/// Result of the binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Number of compute threads for this rank; pass it to `tch::set_num_threads`.
    pub threads: usize,
    /// Whether this rank was bound to its fraction of the host's cores.
    pub bound: bool,
}

/// Environment variable that makes a rank without mpirun's binding choose its cores: `gpu` or `cpu`. `trainer launch`
/// and its batch scripts set it.
pub const BIND: &str = "TRAINER_BIND";

/// Values of [`BIND`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    /// Cores near the GPU of this rank.
    Gpu,
    /// A fraction of the host's cores.
    Cpu,
}

impl Bind {
    fn read() -> Option<Self> {
        match std::env::var(BIND).ok()?.as_str() {
            "gpu" => Some(Bind::Gpu),
            _ => Some(Bind::Cpu),
        }
    }
}

/// Binds this rank to its fraction of the cores that mpirun itself may use, and returns the number of threads:
/// `wanted`, else `OMP_NUM_THREADS`, else the number of cores. It rebinds if mpirun bound the rank to one core, or if
/// [`BIND`] is set and the rank is unbound; then it chooses cores near the rank's GPU. Other bindings (several cores,
/// Slurm's, the user's) stay unchanged.
///
/// Call it on the main thread before connecting and before libtorch or anything else starts threads, which inherit the
/// binding. [`local_place`] returns the first two arguments at that time.
pub fn use_our_cores(local_rank: usize, local_world: usize, wanted: Option<usize>) -> Cores {
    let ours = cores_of(&process::allowed_cpus());
    let by_mpirun = std::env::var_os("OMPI_COMM_WORLD_SIZE").is_some();
    let bind = Bind::read().filter(|_| by_mpirun);
    let host = host_cores(by_mpirun).unwrap_or_else(|| ours.clone());
    let mut cores = ours.len().min(host.len() / local_world.max(1)).max(1);
    let mut bound = false;
    let share = match bind {
        Some(bind) => {
            let gpus = if bind == Bind::Gpu { gpu_nodes() } else { Vec::new() };
            near(&host, &cpus::numa_nodes(), &gpus, local_rank, local_world)
        }
        None => share(&host, local_rank, local_world).to_vec(),
    };
    let one_core = by_mpirun && ours.len() == 1 && share.len() > 1;
    let unbound = bind.is_some() && ours.len() == host.len() && !share.is_empty() && share.len() < host.len();
    if one_core || unbound {
        match process::allow_cpus(&share.concat()) {
            Ok(()) => (cores, bound) = (share.len(), true),
            Err(error) => tracing::warn!("this rank keeps its core binding: {error}"),
        }
    }
    let from_environment = || {
        let value = std::env::var("OMP_NUM_THREADS").ok()?;
        // "4,2" is for nested regions: use the first number.
        value.split(',').next()?.trim().parse().ok()
    };
    let threads = wanted.or_else(from_environment).filter(|&n| n > 0).unwrap_or(cores);
    Cores { threads, bound }
}

/// Returns this rank's index among those of its host, and their number, by the launcher's environment; else (0, 1).
pub fn local_place() -> (usize, usize) {
    local_place_in(|name| std::env::var(name).ok())
}

fn local_place_in(variable: impl Fn(&str) -> Option<String>) -> (usize, usize) {
    let number = |name: &str| {
        let value = variable(name)?;
        // Slurm writes "4" or "4(x2),3": use the first host's number.
        value.split(|c: char| !c.is_ascii_digit()).next()?.parse::<usize>().ok()
    };
    [
        ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"), // the MPICH family
        ("SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    ]
    .iter()
    .find_map(|(rank, size)| Some((number(rank)?, number(size)?)))
    .unwrap_or((0, 1))
}

/// Returns a rank's contiguous part of the host's cores; one core if there are more ranks than cores.
fn share(host: &[Core], rank: usize, world: usize) -> &[Core] {
    let (n, world) = (host.len(), world.max(1));
    if n == 0 {
        return &[];
    }
    let rank = rank % world;
    match n < world {
        true => std::slice::from_ref(&host[rank % n]),
        false => &host[rank * n / world..(rank + 1) * n / world],
    }
}

/// Returns the NUMA nodes of the visible GPUs; empty if NVML does not report them.
fn gpu_nodes() -> Vec<Option<usize>> {
    let setting = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    let all = gpus::by_nvml().unwrap_or_default();
    gpus::visible(&all, setting.as_deref()).iter().map(|gpu| gpu.numa_node).collect()
}

/// Returns a rank's part of the host's cores near its GPU: ranks whose GPUs are at the same NUMA node divide its cores.
/// If a GPU's node is unknown or has fewer cores than ranks, all ranks divide all cores in node order.
fn near(host: &[Core], nodes: &[Node], gpus: &[Option<usize>], rank: usize, world: usize) -> Vec<Core> {
    let node_of = |core: &Core| nodes.iter().find(|node| core.first().is_some_and(|cpu| node.cpus.contains(cpu)));
    let near = |id: usize| -> Vec<Core> {
        host.iter().filter(|core| node_of(core).is_some_and(|node| node.id == id)).cloned().collect()
    };
    // If each rank sees a single GPU, these are different GPUs: only this rank's node is known.
    let wish = |rank: usize| gpus.get(if gpus.len() == 1 { 0 } else { rank }).copied().flatten();
    let wishes: Option<Vec<usize>> = (0..world.max(1)).map(wish).collect();
    let count = |ids: &[usize], id: usize| ids.iter().filter(|other| **other == id).count();
    let fits = |ids: &Vec<usize>| ids.iter().all(|&id| near(id).len() >= count(ids, id));
    if let Some(ids) = wishes.filter(|ids| rank < ids.len() && fits(ids)) {
        let id = ids[rank];
        return share(&near(id), count(&ids[..rank], id), count(&ids, id)).to_vec();
    }
    let mut ordered = host.to_vec();
    ordered.sort_by_key(|core| (node_of(core).map(|node| node.id), core.first().copied()));
    share(&ordered, rank, world).to_vec()
}

/// Returns the cores shared by the ranks of this host: mpirun's own, else all online cores, within this control group.
fn host_cores(by_mpirun: bool) -> Option<Vec<Core>> {
    let launcher = if by_mpirun { launcher_cpus() } else { None };
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| parse_list(&text)).filter(|list| !list.is_empty());
    let all = launcher.or_else(|| read("/sys/devices/system/cpu/online"))?;
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_string))?;
        read(&format!("/sys/fs/cgroup{path}/cpuset.cpus.effective"))
    });
    let allowed = |cpu: &usize| group.as_ref().is_none_or(|group| group.contains(cpu));
    Some(cores_of(&all.into_iter().filter(allowed).collect::<Vec<_>>()))
}

/// Returns the cores of the nearest MPI launcher among the parent processes, which is not bound like its ranks.
fn launcher_cpus() -> Option<Vec<usize>> {
    const LAUNCHERS: [&str; 7] = ["mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "prte"];
    const MAX_DEPTH: usize = 8; // wrappers in between: shells, env, profilers
    let mut process = "self".to_string();
    for _ in 0..MAX_DEPTH {
        let parent = field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "PPid")?;
        let status = fs::read_to_string(format!("/proc/{parent}/status")).ok()?;
        if LAUNCHERS.contains(&field(&status, "Name")?.as_str()) {
            return Some(parse_list(&field(&status, "Cpus_allowed_list")?));
        }
        process = parent;
    }
    None
}

/// Returns a field of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_as_the_kernel_writes_them() {
        assert_eq!(field("Name:\tmpirun\nPPid:\t17\n", "PPid").as_deref(), Some("17"));
    }

    #[test]
    fn shares_cover_the_host_and_do_not_overlap() {
        let host: Vec<Core> = (0..10).map(|core| vec![core, core + 10]).collect();
        for world in 1..=10 {
            let all: Vec<Core> = (0..world).flat_map(|rank| share(&host, rank, world).to_vec()).collect();
            assert_eq!(all, host, "{world} ranks");
        }
        assert_eq!(share(&host, 13, 20), [vec![3, 13]]);
        assert!(share(&[], 0, 1).is_empty());
    }

    #[test]
    fn cores_near_each_gpu() {
        // Two nodes of four cores, numbered alternately by the kernel.
        let host: Vec<Core> = (0..8).map(|core| vec![core]).collect();
        let nodes = [Node { id: 0, cpus: vec![0, 2, 4, 6] }, Node { id: 1, cpus: vec![1, 3, 5, 7] }];
        let all = |gpus: &[Option<usize>], world| -> Vec<Vec<usize>> {
            (0..world).map(|rank| near(&host, &nodes, gpus, rank, world).concat()).collect()
        };
        let crossed = [Some(1), Some(1), Some(0), Some(0)];
        assert_eq!(all(&crossed, 4), [[1, 3], [5, 7], [0, 2], [4, 6]]);
        assert_eq!(all(&crossed, 2), [[1, 3], [5, 7]]);
        assert_eq!(all(&[Some(0), Some(1), None, None], 2), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        // Unknown node, or more ranks at a node than cores: the host's cores in node order.
        assert_eq!(all(&[], 2), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(all(&[Some(0), None], 2), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(all(&[Some(1); 5], 5).concat(), [0, 2, 4, 6, 1, 3, 5, 7]);
        assert_eq!(near(&host, &[], &[], 1, 4).concat(), [2, 3]);
    }

    #[test]
    fn launchers_say_where_we_are() {
        let place = |variables: &[(&str, &str)]| {
            local_place_in(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(place(&[]), (0, 1));
        assert_eq!(place(&[("OMPI_COMM_WORLD_LOCAL_RANK", "3"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "4")]), (3, 4));
        assert_eq!(place(&[("SLURM_LOCALID", "1"), ("SLURM_STEP_TASKS_PER_NODE", "2(x3)")]), (1, 2));
        assert_eq!(place(&[("SLURM_LOCALID", "0")]), (0, 1)); // a batch script
    }

    #[test]
    fn the_user_decides() {
        let machine = use_our_cores(0, 1, None);
        assert!(machine.threads >= 1 && !machine.bound);
        assert_eq!(use_our_cores(0, 1, Some(3)).threads, 3);
    }
}
