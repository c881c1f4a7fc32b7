//! The cores of this host and their NUMA nodes, from `/sys`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The logical CPUs of one physical core.
pub type Core = Vec<usize>;

/// A NUMA node: memory and its local CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: usize,
    /// Its logical CPUs, ascending.
    pub cpus: Vec<usize>,
}

/// Returns the NUMA nodes with CPUs, ascending; empty if unknown.
pub fn numa_nodes() -> Vec<Node> {
    nodes_in(Path::new("/sys/devices/system/node"))
}

fn nodes_in(folder: &Path) -> Vec<Node> {
    let list = |path: &Path| fs::read_to_string(path).map(|text| parse_list(&text)).unwrap_or_default();
    let ids = list(&folder.join("online"));
    let nodes = ids.into_iter().map(|id| Node { id, cpus: list(&folder.join(format!("node{id}/cpulist"))) });
    nodes.filter(|node| !node.cpus.is_empty()).collect()
}

/// Returns the physical cores that this process may use, which mpirun counts as slots.
pub fn our_cores() -> Vec<Core> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    cores_of(&list.map(parse_list).unwrap_or_default())
}

/// Returns how long the main thread has run and how long it has waited for a core since its start; `None` if the kernel
/// does not count that (`CONFIG_SCHED_INFO`; schedstats in the kernel's scheduler documentation).
pub fn main_thread_times() -> Option<[Duration; 2]> {
    times(&fs::read_to_string("/proc/self/schedstat").ok()?)
}

fn times(text: &str) -> Option<[Duration; 2]> {
    let mut nanoseconds = text.split_whitespace().map_while(|word| word.parse().ok());
    Some([Duration::from_nanos(nanoseconds.next()?), Duration::from_nanos(nanoseconds.next()?)])
}

/// Returns the fraction of the time since `before` that the main thread waited for a core.
pub fn waited_since(before: Option<[Duration; 2]>) -> Option<f64> {
    let ([ran, waited], [ran_before, waited_before]) = (main_thread_times()?, before?);
    let (ran, waited) = ((ran - ran_before).as_secs_f64(), (waited - waited_before).as_secs_f64());
    (ran + waited > 0.0).then(|| waited / (ran + waited))
}

/// Groups CPUs by physical core, in the order of each core's first CPU.
pub fn cores_of(cpus: &[usize]) -> Vec<Core> {
    let mut cores: BTreeMap<usize, Core> = BTreeMap::new();
    for &cpu in cpus {
        let siblings = fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let first = siblings.ok().and_then(|text| parse_list(&text).first().copied()).unwrap_or(cpu);
        cores.entry(first).or_default().push(cpu);
    }
    cores.into_values().collect()
}

/// Returns the NUMA node of a PCI device, given its bus id in NVML's format ("00000000:18:00.0").
pub fn numa_node_of_pci(bus_id: &str) -> Option<usize> {
    // The kernel writes four digits of the domain, and node -1 if there is only one.
    let bus_id = bus_id.to_lowercase();
    let (domain, rest) = bus_id.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    fs::read_to_string(format!("/sys/bus/pci/devices/{domain:04x}:{rest}/numa_node")).ok()?.trim().parse().ok()
}

/// Parses the kernel's list format: "0-3,8,10-11".
pub fn parse_list(text: &str) -> Vec<usize> {
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
    fn waiting_is_counted() {
        assert_eq!(times("1000 250 7\n"), Some([Duration::from_nanos(1000), Duration::from_nanos(250)]));
        assert_eq!((times(""), waited_since(None)), (None, None));
        let before = main_thread_times();
        if before.is_some() {
            assert!(waited_since(before).is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }

    #[test]
    fn lists_as_the_kernel_writes_them() {
        assert_eq!(parse_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_list("\n"), Vec::<usize>::new());
    }

    #[test]
    fn this_process_has_a_core() {
        let cores = our_cores();
        assert!(!cores.is_empty() && cores.iter().all(|core| !core.is_empty()), "{cores:?}");
    }

    #[test]
    fn nodes_without_cpus_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("online"), "0-2\n").unwrap();
        for (id, cpus) in [(0, "0-1,4-5\n"), (1, "2-3\n"), (2, "\n")] {
            fs::create_dir(folder.path().join(format!("node{id}"))).unwrap();
            fs::write(folder.path().join(format!("node{id}/cpulist")), cpus).unwrap();
        }
        let nodes = nodes_in(folder.path());
        assert_eq!(nodes, [Node { id: 0, cpus: vec![0, 1, 4, 5] }, Node { id: 1, cpus: vec![2, 3] }]);
        assert_eq!(nodes_in(Path::new("/nowhere")), []);
    }
}
