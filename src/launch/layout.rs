//! Decides the number and the placement of the ranks, from the request and the hardware.

use super::hosts::Host;
use crate::config::Backend;
use crate::error::{Error, Result};
use crate::machine::gpus::Gpu;

/// The hardware and user of this host.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Number of GPUs for the ranks of this host, as counted by libtorch.
    pub gpus: usize,
    /// GPUs that are visible according to NVML, whether or not libtorch can use them.
    pub by_nvml: Vec<Gpu>,
    /// Number of NUMA nodes of this host.
    pub nodes: usize,
    pub shares_gpus: bool,
    /// Number of cores, which mpirun counts as slots.
    pub cores: usize,
    /// Whether this process runs as root, for which mpirun needs an option.
    pub root: bool,
}

/// A Slurm allocation, according to its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    pub nodes: usize,
    pub tasks: Option<usize>,
    pub gpus_per_node: Option<usize>,
    /// Whether this process runs on one of the nodes; salloc's shell may run on a login node.
    pub on_node: bool,
}

impl Allocation {
    /// Returns the allocation of this process, if any.
    ///
    /// # Errors
    /// Exit 2 inside a step of several tasks, each of which would launch the job.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Allocation>> {
        let number = |name: &str| variable(name).and_then(|value| value.trim().parse::<usize>().ok());
        if number("SLURM_STEP_NUM_TASKS").is_some_and(|tasks| tasks > 1) || variable("OMPI_COMM_WORLD_RANK").is_some() {
            return Err(Error::input(
                "`trainer launch` starts all ranks itself: call it once; under mpirun or srun use `trainer train`",
            ));
        }
        if variable("SLURM_JOB_ID").is_none() {
            return Ok(None);
        }
        let nodes = number("SLURM_JOB_NUM_NODES").or_else(|| number("SLURM_NNODES")).unwrap_or(1);
        // "8", or with a type: "h100:8".
        let gpus = |name: &str| variable(name)?.trim().rsplit(':').next()?.parse::<usize>().ok();
        let of_a_node = || gpus("SLURM_GPUS").filter(|all| all.is_multiple_of(nodes)).map(|all| all / nodes);
        Ok(Some(Allocation {
            nodes,
            tasks: number("SLURM_NTASKS").or_else(|| Some(number("SLURM_NTASKS_PER_NODE")? * nodes)),
            gpus_per_node: gpus("SLURM_GPUS_ON_NODE").or_else(|| gpus("SLURM_GPUS_PER_NODE")).or_else(of_a_node),
            on_node: variable("SLURMD_NODENAME").is_some(),
        }))
    }
}

/// Where a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Here,
    Hosts(Vec<Host>),
    /// On the nodes of the current Slurm job; mpirun finds them itself.
    Allocation(Allocation),
}

/// Placement of the ranks on hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub ranks: usize,
    /// Whether ranks use GPUs.
    pub gpus: bool,
    /// mpirun's `--map-by`.
    pub map_by: String,
    /// The named hosts; empty if mpirun finds them.
    pub hosts: Vec<Host>,
    /// Whether a rank may run on another machine than this process.
    pub remote: bool,
}

impl Layout {
    /// Decides the placement of `ranks` (`None`: as many as fit).
    ///
    /// # Errors
    /// Exit 2 for more ranks than GPUs or slots, and for GPUs that this build cannot use.
    pub fn new(place: &Place, ranks: Option<usize>, backend: Backend, facts: &Facts) -> Result<Layout> {
        let wants_gpus = !matches!(backend, Backend::Mpi);
        if wants_gpus && facts.gpus == 0 && !facts.by_nvml.is_empty() && *place == Place::Here {
            return Err(Error::input(format!(
                "this host has {}, but the libtorch of this program has no CUDA or does not work with the driver: \
                 build with launch/setup.sh --cuda, or set comm.backend=mpi to train on the CPU",
                counted(&facts.by_nvml)
            )));
        }
        let gpus = wants_gpus && facts.gpus > 0;
        let of_this_host = if gpus { facts.gpus } else { facts.nodes.max(1) };
        if backend == Backend::Solo {
            return match (place, ranks.unwrap_or(1)) {
                (Place::Here, 1) => Ok(Layout { gpus, ..Layout::slots(1) }),
                _ => Err(Error::input(
                    "comm.backend = \"solo\" is for one rank on this machine: use \"auto\", or -n 1 without hosts",
                )),
            };
        }
        match place {
            Place::Here => {
                let n = ranks.unwrap_or(of_this_host);
                if gpus && n > facts.gpus && !facts.shares_gpus {
                    return Err(Error::input(format!(
                        "-n {n}, but this host has {} visible GPU{} (see CUDA_VISIBLE_DEVICES): each rank uses one \
                         GPU, so start at most {} here, name more hosts by --hosts, train on the CPU by \
                         comm.backend=mpi, or let ranks share GPUs with NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL 2.30 or newer)",
                        facts.gpus,
                        if facts.gpus == 1 { "" } else { "s" },
                        facts.gpus
                    )));
                }
                let crowded = if n > facts.cores { ":OVERSUBSCRIBE" } else { "" };
                Ok(Layout { gpus, map_by: format!("slot{crowded}"), ..Layout::slots(n) })
            }
            Place::Hosts(hosts) => {
                let slots = hosts.iter().map(|host| host.slots).sum();
                let n = ranks.unwrap_or(slots);
                if n > slots {
                    return Err(Error::input(format!(
                        "-n {n}, but the hosts have {slots} slots in total: increase them, as in {}:{}, or omit -n",
                        hosts[0].name,
                        hosts[0].slots + n - slots
                    )));
                }
                Ok(Layout { gpus: wants_gpus, hosts: hosts.clone(), remote: true, ..Layout::slots(n) })
            }
            Place::Allocation(job) => {
                // A cluster that does not track GPUs: use this host's, if it is the only node.
                let seen = || Some(facts.gpus).filter(|_| job.on_node && job.nodes == 1);
                let of_a_node = job.gpus_per_node.or_else(seen).filter(|&gpus| wants_gpus && gpus > 0);
                let gpus_in_all = of_a_node.map(|gpus| gpus * job.nodes);
                let n = ranks.or(gpus_in_all).or(job.tasks).unwrap_or(facts.nodes.max(1) * job.nodes);
                if let Some(most) = gpus_in_all.filter(|&most| n > most && !facts.shares_gpus) {
                    return Err(Error::input(format!(
                        "-n {n}, but this Slurm job has {most} GPUs: each rank uses one GPU, so start at most {most}, \
                         or request more from Slurm (--gpus-per-node, --nodes)"
                    )));
                }
                // mpirun's slots are Slurm's tasks, whose number may differ from ours and between nodes.
                let map_by = match job.tasks {
                    Some(tasks) if n <= tasks && of_a_node.is_none() => "slot".to_owned(),
                    _ if n.is_multiple_of(job.nodes) => format!("ppr:{}:node:OVERSUBSCRIBE", n / job.nodes),
                    _ => "slot:OVERSUBSCRIBE".to_owned(),
                };
                Ok(Layout { gpus: wants_gpus, map_by, remote: job.nodes > 1, ..Layout::slots(n) })
            }
        }
    }

    fn slots(ranks: usize) -> Layout {
        Layout { ranks, gpus: false, map_by: "slot".into(), hosts: Vec::new(), remote: false }
    }

    /// Returns the host of a rank among the named hosts, which mpirun fills one after the other.
    pub fn host_of(&self, rank: usize) -> Option<&str> {
        let mut first = 0;
        self.hosts.iter().find_map(|host| {
            first += host.slots;
            (rank < first).then_some(host.name.as_str())
        })
    }
}

fn counted(gpus: &[Gpu]) -> String {
    let name = gpus.first().map_or("", |gpu| gpu.name.as_str());
    format!("{} GPU{} ({name})", gpus.len(), if gpus.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_GPUS: Facts =
        Facts { gpus: 4, by_nvml: Vec::new(), nodes: 2, shares_gpus: false, cores: 64, root: false };
    const WITHOUT: Facts = Facts { gpus: 0, by_nvml: Vec::new(), nodes: 2, shares_gpus: false, cores: 4, root: false };

    fn layout(place: &Place, ranks: Option<usize>, facts: &Facts) -> Layout {
        Layout::new(place, ranks, Backend::Auto, facts).unwrap()
    }

    fn refused(place: &Place, ranks: Option<usize>, backend: Backend, facts: &Facts) -> String {
        let error = Layout::new(place, ranks, backend, facts).unwrap_err();
        assert_eq!(error.kind().exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn one_rank_per_gpu_here_else_per_numa_node() {
        let all = layout(&Place::Here, None, &WITH_GPUS);
        assert_eq!((all.ranks, all.gpus, all.map_by.as_str(), all.remote), (4, true, "slot", false));
        assert_eq!(layout(&Place::Here, Some(3), &WITH_GPUS).ranks, 3);
        let message = refused(&Place::Here, Some(5), Backend::Auto, &WITH_GPUS);
        assert!(message.contains("-n 5, but this host has 4 visible GPUs") && message.contains("--hosts"), "{message}");
        let shared = Facts { shares_gpus: true, ..WITH_GPUS };
        assert_eq!(layout(&Place::Here, Some(5), &shared).ranks, 5);
        let cpu = Layout::new(&Place::Here, Some(5), Backend::Mpi, &WITH_GPUS).unwrap();
        assert_eq!((cpu.ranks, cpu.gpus), (5, false));

        let cpu = layout(&Place::Here, None, &WITHOUT);
        assert_eq!((cpu.ranks, cpu.gpus, cpu.map_by.as_str()), (2, false, "slot"));
        assert_eq!(layout(&Place::Here, Some(4), &WITHOUT).map_by, "slot");
        assert_eq!(layout(&Place::Here, Some(5), &WITHOUT).map_by, "slot:OVERSUBSCRIBE");
        assert_eq!(layout(&Place::Here, None, &Facts { nodes: 0, ..WITHOUT }).ranks, 1);
    }

    #[test]
    fn gpus_that_this_build_cannot_use_are_no_silent_cpu_run() {
        let gpu = Gpu {
            index: 0,
            name: "H100".into(),
            uuid: "GPU-1".into(),
            bus_id: String::new(),
            memory: 1,
            numa_node: None,
        };
        let facts = Facts { by_nvml: vec![gpu], ..WITHOUT };
        let message = refused(&Place::Here, None, Backend::Auto, &facts);
        assert!(message.contains("1 GPU (H100)") && message.contains("comm.backend=mpi"), "{message}");
        assert_eq!(Layout::new(&Place::Here, None, Backend::Mpi, &facts).unwrap().ranks, 2);
    }

    #[test]
    fn solo_is_one_rank() {
        assert_eq!(Layout::new(&Place::Here, None, Backend::Solo, &WITH_GPUS).unwrap().ranks, 1);
        assert!(refused(&Place::Here, Some(2), Backend::Solo, &WITH_GPUS).contains("solo"));
    }

    #[test]
    fn named_hosts_are_filled_in_turn() {
        let host = |name: &str, slots| Host { name: name.into(), slots };
        let place = Place::Hosts(vec![host("a", 2), host("b", 3)]);
        let all = layout(&place, None, &WITHOUT);
        assert_eq!((all.ranks, all.gpus, all.remote), (5, true, true));
        let of: Vec<_> = (0..6).map(|rank| all.host_of(rank)).collect();
        assert_eq!(of, [Some("a"), Some("a"), Some("b"), Some("b"), Some("b"), None]);
        assert_eq!(layout(&place, Some(4), &WITHOUT).ranks, 4);
        assert!(refused(&place, Some(6), Backend::Auto, &WITHOUT).contains("as in a:3"));
    }

    #[test]
    fn an_allocation_has_a_rank_per_gpu_else_per_task() {
        let read = |variables: &[(&str, &str)]| {
            Allocation::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert!(read(&[("SLURM_STEP_NUM_TASKS", "2")]).unwrap_err().to_string().contains("call it once"));
        let job = [("SLURM_JOB_ID", "7"), ("SLURM_JOB_NUM_NODES", "2")];
        let place = |more: &[(&str, &str)]| Place::Allocation(read(&[&job, more].concat()).unwrap().unwrap());
        let of = |more: &[(&str, &str)], ranks| {
            let layout = layout(&place(more), ranks, &WITHOUT);
            (layout.ranks, layout.map_by)
        };
        assert_eq!(of(&[("SLURM_NTASKS", "6")], None), (6, "slot".into()));
        assert_eq!(
            of(&[("SLURM_GPUS_ON_NODE", "8"), ("SLURM_NTASKS", "2")], None),
            (16, "ppr:8:node:OVERSUBSCRIBE".into())
        );
        // Slurm may have put 15 of the tasks on one node.
        let even = (16, "ppr:8:node:OVERSUBSCRIBE".into());
        assert_eq!(of(&[("SLURM_GPUS_ON_NODE", "8"), ("SLURM_NTASKS", "16")], None), even);
        for salloc in [("SLURM_GPUS_PER_NODE", "h100:8"), ("SLURM_GPUS", "16")] {
            assert_eq!(of(&[salloc], None), even, "{salloc:?}");
        }
        assert_eq!(of(&[("SLURM_NTASKS_PER_NODE", "3")], None), (6, "slot".into()));
        let alone = |on_node: &str| {
            let job = [("SLURM_JOB_ID", "7"), (on_node, "n1")];
            Layout::new(&Place::Allocation(read(&job).unwrap().unwrap()), None, Backend::Auto, &WITH_GPUS)
                .unwrap()
                .ranks
        };
        assert_eq!((alone("SLURMD_NODENAME"), alone("OTHER")), (4, 2), "only a node's own GPUs count");
        assert_eq!(of(&[("SLURM_GPUS_ON_NODE", "8")], Some(3)), (3, "slot:OVERSUBSCRIBE".into()));
        assert_eq!(of(&[], None), (4, "ppr:2:node:OVERSUBSCRIBE".into()));
        let message = refused(&place(&[("SLURM_GPUS_ON_NODE", "8")]), Some(17), Backend::Auto, &WITHOUT);
        assert!(message.contains("16 GPUs"), "{message}");
    }
}
