//! Missing resources of a host: shared memory, limits, interfaces, CPU instructions.

use super::finding::Finding;
use super::ranks::count;
use crate::doctor::facts::{Facts, Rank};
use crate::observe::memory::human;

/// Open MPI 4.1 needs 4 MiB per rank (`btl_vader_segment_size`), and more for large messages.
const SHARED_PER_RANK: u64 = 16 << 20;
/// Between GPUs without peer access NCCL needs buffers of 4 MiB (`NCCL_BUFFSIZE`) per channel and peer.
const SHARED_PER_GPU_RANK: u64 = 128 << 20;
/// NVIDIA's recommendation for containers (`--shm-size=1g`; NCCL guide, "Troubleshooting").
const SHARED_ADVISED: u64 = 1 << 30;
/// Open MPI and NCCL open a few sockets per peer.
const FILES_PER_RANK: u64 = 8;
const FILES_LEAST: u64 = 1024;
/// Below this a network card cannot lock its buffers.
const LOCKED_LEAST: u64 = 64 << 20;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let world = facts.ranks.len();
    let on_gpus = facts.ranks.iter().any(|rank| !rank.gpus.visible.is_empty());
    let hosts = facts.hosts();
    let per_host = |ranks: &Vec<&Rank>| {
        let first = ranks[0];
        [
            shared_memory(ranks),
            locked_memory(first, hosts.len()),
            open_files(first, world),
            interface(first, hosts.len(), on_gpus),
            no_avx2(first),
        ]
    };
    hosts.iter().flat_map(|(_, ranks)| per_host(ranks)).flatten().collect()
}

fn shared_memory(ranks: &[&Rank]) -> Option<Finding> {
    let (rank, n) = (ranks[0], ranks.len());
    if n < 2 {
        return None;
    }
    const ID: &str = "shared-memory-small";
    const REMEDY: &str = "in Docker: `--shm-size=1g` (its default is 64 MB) or `--ipc=host`; in Kubernetes: mount an \
                          emptyDir with `medium: Memory` there; on a plain host: `mount -o remount,size=50% /dev/shm`, \
                          and delete files of dead processes in it";
    let host = &rank.host.name;
    let (Some(size), Some(free)) = (rank.memory.shared_bytes, rank.memory.shared_free_bytes) else {
        return Some(Finding::problem(
            ID,
            format!("{host} has no /dev/shm"),
            "ranks of one host communicate through it",
            REMEDY.to_owned(),
        ));
    };
    let on_gpus = ranks.iter().any(|r| !r.gpus.visible.is_empty());
    let needed = n as u64 * if on_gpus { SHARED_PER_GPU_RANK } else { SHARED_PER_RANK };
    let seen = format!(
        "/dev/shm of {host} has {} free of {}; its {} may need {}",
        human(free),
        human(size),
        count(n, "rank"),
        human(needed)
    );
    let why = "Open MPI and NCCL exchange data between the ranks of a host there; if it is full, ranks crash with a \
               bus error, or at startup with \"No space left on device\"";
    if free < needed {
        return Some(Finding::problem(ID, seen, why, REMEDY.to_owned()));
    }
    let seen = format!("{seen}; 1 GiB is recommended");
    (size < SHARED_ADVISED).then(|| Finding::warning(ID, seen, why, REMEDY.to_owned()))
}

fn locked_memory(rank: &Rank, hosts: usize) -> Option<Finding> {
    let limit = rank.memory.locked_limit_bytes.filter(|&limit| limit < LOCKED_LEAST)?;
    (rank.network.infiniband && hosts > 1).then(|| {
        Finding::warning(
            "locked-memory-limit",
            format!("on {} a process can lock {} of memory (`ulimit -l`)", rank.host.name, human(limit)),
            "an InfiniBand or RoCE card needs locked memory: otherwise MPI and NCCL fall back to slow sockets, or fail",
            "raise the limit: `* - memlock unlimited` in /etc/security/limits.conf, LimitMEMLOCK=infinity for slurmd, \
             `--ulimit memlock=-1` in Docker"
                .to_owned(),
        )
    })
}

fn open_files(rank: &Rank, world: usize) -> Option<Finding> {
    let needed = FILES_LEAST.max(world as u64 * FILES_PER_RANK);
    let limit = rank.memory.open_files_limit.filter(|&limit| limit < needed)?;
    Some(Finding::warning(
        "open-files-limit",
        format!("on {} a process can open {limit} files (`ulimit -n`)", rank.host.name),
        "each connection between ranks and each file of a model counts",
        format!("run `ulimit -n {needed}` before starting, or set `* - nofile {needed}` in /etc/security/limits.conf"),
    ))
}

/// A missing interface in NCCL's settings. Ranks on CPUs do not use NCCL.
fn interface(rank: &Rank, hosts: usize, on_gpus: bool) -> Option<Finding> {
    const ID: &str = "interface-missing";
    let finding = if on_gpus { Finding::problem } else { Finding::note };
    let wanted = rank.network.nccl_socket_ifname.as_ref()?;
    let interfaces = &rank.network.interfaces;
    let chosen = chosen_interfaces(wanted, interfaces);
    let (seen, there) = (format!("on {}, NCCL_SOCKET_IFNAME=\"{wanted}\"", rank.host.name), interfaces.join(", "));
    if chosen.is_empty() {
        return Some(finding(
            ID,
            format!("{seen} matches none of its interfaces ({there})"),
            "NCCL connects the ranks through that interface, even on one host",
            "unset it, or name an interface that every host has".to_owned(),
        ));
    }
    (hosts > 1 && chosen.iter().all(|name| *name == "lo")).then(|| {
        finding(
            ID,
            format!("{seen} selects the loopback interface, which reaches no other host"),
            "NCCL cannot reach the ranks on other hosts",
            format!("unset it, or set it to another of {there}"),
        )
    })
}

/// Returns the interfaces that NCCL selects: by prefix, by name after "=", and all others after "^" (NCCL guide,
/// "Environment Variables").
fn chosen_interfaces<'a>(wanted: &str, interfaces: &'a [String]) -> Vec<&'a str> {
    let (not, wanted) = wanted.strip_prefix('^').map_or((false, wanted), |rest| (true, rest));
    let (exact, wanted) = wanted.strip_prefix('=').map_or((false, wanted), |rest| (true, rest));
    let fits = |name: &str| {
        wanted.split(',').any(|part| {
            let part = part.split(':').next().unwrap_or_default();
            if exact { name == part } else { name.starts_with(part) }
        })
    };
    interfaces.iter().map(String::as_str).filter(|name| fits(name) != not).collect()
}

fn no_avx2(rank: &Rank) -> Option<Finding> {
    (rank.cores.avx2 == Some(false)).then(|| {
        Finding::warning(
            "no-avx2",
            format!("the CPU of {} ({}) has no AVX2", rank.host.name, rank.cores.model),
            "libtorch's CPU kernels are several times slower without it",
            "in a virtual machine, expose the host CPU (`-cpu host`); otherwise train on GPUs or on other hosts"
                .to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_chosen_as_nccl_does() {
        let there = ["eth0", "eth1", "ib0", "lo"].map(str::to_owned);
        assert_eq!(chosen_interfaces("eth", &there), ["eth0", "eth1"]);
        assert_eq!(chosen_interfaces("=eth", &there), [""; 0]);
        assert_eq!(chosen_interfaces("=eth1,ib0", &there), ["eth1", "ib0"]);
        assert_eq!(chosen_interfaces("^lo,eth", &there), ["ib0"]);
        assert_eq!(chosen_interfaces("^=eth0", &there), ["eth1", "ib0", "lo"]);
    }
}
