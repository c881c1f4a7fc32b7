//! Whether the ranks are connected, and their CPU cores.

use super::finding::Finding;
use crate::comm::name_ranks;
use crate::doctor::facts::{Facts, Host, Rank};
use std::collections::BTreeSet;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let per_host = |(host, ranks): (&Host, Vec<&Rank>)| {
        [one_core(&ranks), widened(&ranks), too_many_threads(host, &ranks), busy_cores(host, &ranks)]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    let mut found: Vec<Finding> = [mpi_does_not_start(facts), alone(facts)].into_iter().flatten().collect();
    found.extend(facts.hosts().into_iter().flat_map(per_host));
    found
}

fn mpi_does_not_start(facts: &Facts) -> Option<Finding> {
    let (error, rank) = (facts.mpi_error.as_ref()?, facts.ranks.first()?);
    let mpi = &rank.software.mpi;
    let started = started(rank).map_or_else(String::new, |started| format!("{started}, but "));
    Some(Finding::problem(
        "mpi-does-not-start",
        format!("{started}{} ({}) does not start: {error}", mpi.version, mpi.path),
        "ranks find each other through MPI",
        right_launcher(rank),
    ))
}

/// Processes that were started together but are not connected.
fn alone(facts: &Facts) -> Option<Finding> {
    let [rank] = &facts.ranks[..] else { return None };
    if facts.mpi_error.is_some() {
        return None;
    }
    const ID: &str = "ranks-alone";
    // With the solo backend, independent processes are allowed.
    if let Some(started) = started(rank).filter(|_| !rank.launch.solo) {
        return Some(Finding::problem(
            ID,
            format!("{started}, but this process found no other rank"),
            "each process would train alone on all the data, and all would write to the same folder",
            right_launcher(rank),
        ));
    }
    let (why, remedy) = rank.launch.refused.clone()?;
    Some(Finding::problem(ID, why, "training does not start in this situation", remedy))
}

/// The number of ranks in a launcher's variable, if there are several.
fn announced(rank: &Rank) -> Option<(&str, usize)> {
    rank.launch.announced.as_ref().map(|(name, ranks)| (name.as_str(), *ranks)).filter(|(_, ranks)| *ranks > 1)
}

/// Describes how several processes were started, if they were.
fn started(rank: &Rank) -> Option<String> {
    let launcher = rank.launch.launcher.as_deref();
    match (announced(rank), launcher) {
        (Some((name, ranks)), None) => Some(format!("{ranks} ranks were started ({name}={ranks})")),
        (Some((name, ranks)), Some(by)) => Some(format!("{ranks} ranks were started ({name}={ranks}, by {by})")),
        (None, Some(by)) if rank.launch.together > 1 => {
            Some(format!("{by} started {} of these processes here", rank.launch.together))
        }
        _ => None,
    }
}

/// Describes how to start ranks so that this MPI library connects them.
fn right_launcher(rank: &Rank) -> String {
    let mpi = &rank.software.mpi;
    let by_slurm = announced(rank).is_some_and(|(name, _)| name.starts_with("SLURM"));
    match by_slurm || rank.launch.launcher.as_ref().is_some_and(|launcher| launcher.contains("slurm")) {
        true => format!(
            "Slurm and the MPI library use different PMI versions: start with `srun --mpi=pmix` (`srun --mpi=list` \
             shows what Slurm supports), or with the mpirun of {} inside the allocation",
            mpi.version
        ),
        false => format!(
            "start with the mpirun that belongs to {} ({}): the launcher of another MPI does not work with this \
             library, and wrappers, containers and `sudo` must keep the PMIX_, PMI_ or OMPI_ variables",
            mpi.version, mpi.path
        ),
    }
}

fn one_core(ranks: &[&Rank]) -> Option<Finding> {
    let first = ranks.first()?;
    // Also count ranks that are not connected.
    let (host_cores, n) = (first.cores.host, ranks.len().max(first.launch.together));
    let bound: Vec<usize> = ranks.iter().filter(|r| r.cores.used.len() == 1).map(|r| r.rank).collect();
    (!bound.is_empty() && host_cores / n >= 2).then(|| {
        Finding::warning(
            "bound-to-one-core",
            format!(
                "on {}, {} can use only one core; the host has {host_cores} logical CPUs for {}",
                first.host.name,
                name_ranks(&bound),
                count(n, "rank")
            ),
            "all threads of a rank share the cores that it is bound to",
            "bind ranks to more cores: `mpirun --bind-to none` or `--map-by slot:PE=N`, `srun --cpus-per-task=N`"
                .to_owned(),
        )
    })
}

fn widened(ranks: &[&Rank]) -> Option<Finding> {
    let widened: Vec<usize> =
        ranks.iter().filter(|r| r.cores.given.len() == 1 && r.cores.used.len() > 1).map(|r| r.rank).collect();
    (!widened.is_empty()).then(|| {
        Finding::note(
            "binding-widened",
            format!(
                "on {}, mpirun bound {} to one core each; trainer rebound each to its fraction of the host's cores",
                ranks[0].host.name,
                name_ranks(&widened)
            ),
            "Open MPI by default binds each rank with all its threads to one core (with one or two ranks)",
            "none needed; `mpirun --bind-to none` avoids it".to_owned(),
        )
    })
}

fn too_many_threads(host: &Host, ranks: &[&Rank]) -> Option<Finding> {
    let cpus: BTreeSet<usize> = ranks.iter().flat_map(|r| r.cores.used.iter().copied()).collect();
    let threads: usize = ranks.iter().map(|r| r.cores.threads).sum();
    (!cpus.is_empty() && threads > cpus.len()).then(|| {
        let fit = (cpus.len() / ranks.len()).max(1);
        let remedy = match ranks.len() > cpus.len() {
            true => format!("start at most {} on this host, or bind them to more cores", count(cpus.len(), "rank")),
            false => format!("set OMP_NUM_THREADS={fit} (or parallel.num_threads), or start fewer ranks"),
        };
        Finding::warning(
            "too-many-threads",
            format!(
                "on {}, {} compute with {} on {}",
                host.name,
                count(ranks.len(), "rank"),
                count(threads, "thread"),
                count(cpus.len(), "logical CPU")
            ),
            "threads that share a core wait for each other in every operation, and a collective waits for the slowest",
            remedy,
        )
    })
}

/// Several threads slower than one, or threads that wait for cores, because other programs use them.
fn busy_cores(host: &Host, ranks: &[&Rank]) -> Option<Finding> {
    const WAITED: f64 = 0.2;
    const ID: &str = "cores-busy";
    const WHY: &str = "threads that share their cores with other programs wait for each other in every operation, and \
                       a collective waits for the slowest rank";
    const REMEDY: &str = "stop the other programs (see `top`), or try OMP_NUM_THREADS=1 (or parallel.num_threads = 1)";
    let slow = ranks.iter().find_map(|rank| {
        let [one, all] = rank.cores.gigaflops.filter(|[one, all]| all < one)?;
        let (number, threads) = (rank.rank, count(rank.cores.threads, "thread"));
        Some(format!("rank {number} computes with {threads} {:.2} x as fast as with one", all / one))
    });
    let waits = || {
        let busiest = ranks.iter().filter_map(|rank| Some((rank.rank, rank.cores.waited?)));
        let (rank, share) = busiest.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, share)| *share >= WAITED)?;
        Some(format!("rank {rank} waits for a core {:.0} % of the time", 100.0 * share))
    };
    let seen = slow.or_else(waits)?;
    Some(Finding::warning(
        ID,
        format!("on {}, {seen}: other programs use its cores", host.name),
        WHY,
        REMEDY.to_owned(),
    ))
}

/// Formats a count: "1 rank", "2 ranks".
pub(super) fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
