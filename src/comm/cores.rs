//! Which cores a rank computes on. `mpirun -n 2` binds each rank, with all its threads, to a single core whatever the
//! size of the machine; a rank wants its share of the host's.

use super::ffi::process;
use std::collections::BTreeMap;
use std::fs;

/// The logical CPUs of one physical core.
type Core = Vec<usize>;

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// How many threads this rank should compute with; give it to `tch::set_num_threads`.
    pub threads: usize,
    /// Whether the binding to one core was replaced by one to this rank's share of the host.
    pub widened: bool,
}

/// Widens a one-core binding that mpirun gave this rank to its contiguous share of the cores that mpirun itself may
/// use, and says how many threads to use: `wanted`, else `OMP_NUM_THREADS`, else the share. A binding to several
/// cores, and any binding that Slurm or the user made, stays.
///
/// Call it on the main thread, before connecting and before libtorch or anything else starts threads: they inherit the
/// binding. [`local_place`] knows the first two arguments at that time.
pub fn use_our_cores(local_rank: usize, local_world: usize, wanted: Option<usize>) -> Cores {
    let ours = cores_of(&process::allowed_cpus());
    let by_mpirun = std::env::var_os("OMPI_COMM_WORLD_SIZE").is_some();
    let host = host_cores(by_mpirun).unwrap_or_else(|| ours.clone());
    let mut cores = ours.len().min(host.len() / local_world.max(1)).max(1);
    let mut widened = false;
    let share = share(&host, local_rank, local_world);
    if by_mpirun && ours.len() == 1 && share.len() > 1 {
        match process::allow_cpus(&share.concat()) {
            Ok(()) => (cores, widened) = (share.len(), true),
            Err(error) => tracing::warn!("this rank stays bound to one core: {error}"),
        }
    }
    let from_environment = || {
        let value = std::env::var("OMP_NUM_THREADS").ok()?;
        // "4,2" is for nested regions: the first counts.
        value.split(',').next()?.trim().parse().ok()
    };
    let threads = wanted.or_else(from_environment).filter(|&n| n > 0).unwrap_or(cores);
    Cores { threads, widened }
}

/// This rank's number among the ranks of its host, and how many they are, as the launcher's environment says: (0, 1)
/// without a launcher.
pub fn local_place() -> (usize, usize) {
    local_place_in(|name| std::env::var(name).ok())
}

fn local_place_in(variable: impl Fn(&str) -> Option<String>) -> (usize, usize) {
    let number = |name: &str| {
        let value = variable(name)?;
        // Slurm writes "4" or "4(x2),3": we take the first host's.
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

/// A rank's contiguous part of the host's cores; with more ranks than cores, one core.
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

/// The cores that the ranks of this host share: mpirun's own, else all that are online; within this control group.
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

/// What the nearest ancestor that is an MPI launcher may use; it is not bound as its ranks are.
fn launcher_cpus() -> Option<Vec<usize>> {
    const LAUNCHERS: [&str; 7] = ["mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "prte"];
    const GENERATIONS: usize = 8; // wrappers in between: shells, env, profilers
    let mut process = "self".to_string();
    for _ in 0..GENERATIONS {
        let parent = field(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, "PPid")?;
        let status = fs::read_to_string(format!("/proc/{parent}/status")).ok()?;
        if LAUNCHERS.contains(&field(&status, "Name")?.as_str()) {
            return Some(parse_list(&field(&status, "Cpus_allowed_list")?));
        }
        process = parent;
    }
    None
}

/// A field of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_string()))
}

/// CPUs by physical core, in the order of each core's first CPU.
fn cores_of(cpus: &[usize]) -> Vec<Core> {
    let mut cores: BTreeMap<usize, Core> = BTreeMap::new();
    for &cpu in cpus {
        let siblings = fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let first = siblings.ok().and_then(|text| parse_list(&text).first().copied()).unwrap_or(cpu);
        cores.entry(first).or_default().push(cpu);
    }
    cores.into_values().collect()
}

/// The kernel's list format: "0-3,8,10-11".
fn parse_list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("\n"), Vec::<usize>::new());
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
        assert!(machine.threads >= 1 && !machine.widened);
        assert_eq!(use_our_cores(0, 1, Some(3)).threads, 3);
    }
}
