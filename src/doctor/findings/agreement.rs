//! Whether all ranks run the same program and libraries, and the ones that it was built with.

use super::finding::Finding;
use crate::comm::name_ranks;
use crate::doctor::facts::{Facts, Rank};
use std::collections::BTreeMap;

/// Tolerated difference between hosts; reading the clocks takes a few milliseconds.
const SKEW_SECONDS: f64 = 2.0;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![
        programs_differ(facts),
        libraries_differ(facts, "libtorch", |r| {
            let libtorch = &r.software.libtorch;
            let build = libtorch.cuda.as_ref().map_or_else(|| "CPU".to_owned(), |cuda| format!("CUDA {cuda}"));
            Some(format!("{} ({build})", libtorch.version))
        }),
        libraries_differ(facts, "NCCL", |r| r.software.nccl.as_ref().map(|nccl| nccl.version.clone())),
        libraries_differ(facts, "MPI", |r| Some(r.software.mpi.version.clone())),
        clocks_differ(facts),
    ];
    for (_, ranks) in facts.hosts() {
        found.extend([libtorch_shadowed(ranks[0]), nccl_shadowed(ranks[0])]);
    }
    found.into_iter().flatten().collect()
}

/// Groups the ranks by a value; `None` if all have the same.
fn sides(facts: &Facts, of: impl Fn(&Rank) -> Option<String>) -> Option<String> {
    let mut sides: BTreeMap<String, Vec<&Rank>> = BTreeMap::new();
    for rank in &facts.ranks {
        if let Some(value) = of(rank) {
            sides.entry(value).or_default().push(rank);
        }
    }
    let describe = |(value, ranks): (&String, &Vec<&Rank>)| {
        let numbers: Vec<usize> = ranks.iter().map(|r| r.rank).collect();
        format!("{} ({}): {value}", name_ranks(&numbers), ranks[0].host.name)
    };
    (sides.len() > 1).then(|| sides.iter().map(describe).collect::<Vec<_>>().join("; "))
}

fn programs_differ(facts: &Facts) -> Option<Finding> {
    let sides = sides(facts, |r| {
        let trainer = &r.software.trainer;
        (!trainer.digest.is_empty()).then(|| {
            format!("{} {} (BLAKE3 {})", trainer.path, trainer.version, &trainer.digest[..trainer.digest.len().min(8)])
        })
    });
    let digests = facts.ranks.iter().map(|r| &r.software.trainer.digest).filter(|digest| !digest.is_empty());
    let same = digests.clone().all(|digest| Some(digest) == digests.clone().next());
    (!same).then(|| {
        Finding::problem(
            "versions-differ",
            format!("the ranks run different programs: {}", sides.unwrap_or_default()),
            "all ranks must run the same collectives in the same order, which only the same program guarantees",
            "install the same build on all hosts, preferably on a shared file system".to_owned(),
        )
    })
}

fn libraries_differ(facts: &Facts, name: &str, of: impl Fn(&Rank) -> Option<String>) -> Option<Finding> {
    let sides = sides(facts, of)?;
    Some(Finding::problem(
        "versions-differ",
        format!("the ranks have different versions of {name}: {sides}"),
        "different versions may be incompatible, or round differently",
        format!("install the same {name} on all hosts, and check LD_LIBRARY_PATH and loaded modules on each"),
    ))
}

fn clocks_differ(facts: &Facts) -> Option<Finding> {
    let late = facts.ranks.iter().max_by(|a, b| a.clock.total_cmp(&b.clock))?;
    let early = facts.ranks.iter().min_by(|a, b| a.clock.total_cmp(&b.clock))?;
    let skew = late.clock - early.clock;
    (skew > SKEW_SECONDS).then(|| {
        Finding::warning(
            "clocks-differ",
            format!("the clock of {} is {skew:.1} s ahead of that of {}", late.host.name, early.host.name),
            "logs of different hosts cannot be ordered, and a shared file system may take new files for old ones",
            "run chrony or another NTP client on all hosts".to_owned(),
        )
    })
}

fn libtorch_shadowed(rank: &Rank) -> Option<Finding> {
    let libtorch = &rank.software.libtorch;
    let known = !libtorch.path.is_empty() && !libtorch.built_with.is_empty();
    (known && libtorch.path != libtorch.built_with).then(|| {
        Finding::warning(
            "libtorch-shadowed",
            format!(
                "on {}, libtorch {} was loaded from {}, but trainer was built with {}",
                rank.host.name, libtorch.version, libtorch.path, libtorch.built_with
            ),
            "a libtorch of another version or build can give different results or crash",
            "remove its folder from LD_LIBRARY_PATH (modules and Python environments set it), or build against it"
                .to_owned(),
        )
    })
}

fn nccl_shadowed(rank: &Rank) -> Option<Finding> {
    let (nccl, beside) = (rank.software.nccl.as_ref()?, rank.software.nccl_beside_libtorch.as_ref()?);
    (nccl.path != *beside).then(|| {
        Finding::note(
            "nccl-shadowed",
            format!(
                "on {}, NCCL {} was loaded from {}, not from {beside} next to libtorch",
                rank.host.name, nccl.version, nccl.path
            ),
            "the system's NCCL can be older than the one that libtorch was tested with, or newer",
            "none if that is intended; otherwise remove it from LD_LIBRARY_PATH, or set TRAINER_NCCL_PATH".to_owned(),
        )
    })
}
