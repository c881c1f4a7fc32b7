//! GPUs, their driver, and their use by libtorch and NCCL.

use super::finding::{Finding, Severity};
use super::ranks::count;
use crate::comm::name_ranks;
use crate::comm::nccl::Sharing;
use crate::doctor::facts::{Facts, Host, Rank};
use std::collections::BTreeMap;

pub fn all(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, ranks) in facts.hosts() {
        // Facts that all ranks of a host share are reported once.
        let first = ranks[0];
        found.extend([
            no_user_driver(first),
            driver_broken(first),
            libtorch_without_cuda(&ranks),
            libtorch_sees_none(&ranks),
            nccl_missing(facts, &ranks),
            hidden(&ranks),
            more_ranks_than_gpus(host, &ranks),
            no_peer_access(first),
        ]);
        found.extend(shared(host, &ranks).into_iter().map(Some));
    }
    found.push(some_without(facts));
    let mut found: Vec<Finding> = found.into_iter().flatten().collect();
    let refused = nccl_refused(facts, &found);
    found.extend(refused);
    found
}

/// Number of GPUs that a process could use, as far as known.
fn gpus(rank: &Rank) -> usize {
    rank.gpus.visible.len().max(rank.gpus.host.len())
}

fn no_user_driver(rank: &Rank) -> Option<Finding> {
    let version = rank.software.driver.as_ref().filter(|_| !rank.gpus.driver)?;
    Some(Finding::problem(
        "driver-library-missing",
        format!("{} has the NVIDIA kernel driver {version}, but libcuda.so.1 was not found", rank.host.name),
        "no program can use a GPU without it",
        "in a container, start it with the NVIDIA runtime (`docker run --gpus all`, `apptainer --nv`); otherwise \
         install the driver libraries of the same version"
            .to_owned(),
    ))
}

fn driver_broken(rank: &Rank) -> Option<Finding> {
    const ID: &str = "driver-does-not-work";
    let error = rank.gpus.driver_error.as_ref()?;
    let nvml = rank.gpus.nvml_error.as_ref().map_or_else(String::new, |e| format!(" ({e})"));
    let seen = format!("{} has a CUDA driver that does not work: {error}{nvml}", rank.host.name);
    let why = "no program can use a GPU without it";
    // A container image for GPUs has the library even on a host without GPUs.
    Some(match rank.software.driver.is_some() {
        true => Finding::problem(
            ID,
            seen,
            why,
            "check `nvidia-smi`; after a driver update, reload the kernel module (reboot); in a container, \
             use the libraries of the host's driver"
                .to_owned(),
        ),
        false => Finding::warning(
            ID,
            seen,
            why,
            "ignore this if the host has no GPU; otherwise load the NVIDIA kernel module, or start the container with \
             it (`docker run --gpus all`)"
                .to_owned(),
        ),
    })
}

fn libtorch_without_cuda(ranks: &[&Rank]) -> Option<Finding> {
    let could = |r: &&&Rank| r.gpus.driver && gpus(r) > 0 && !is_hiding(r);
    let rank = ranks.iter().filter(could).find(|r| r.software.libtorch.cuda.is_none())?;
    let name = rank.gpus.visible.first().map_or_else(|| rank.gpus.host[0].name.clone(), |gpu| gpu.name.clone());
    Some(Finding::problem(
        "libtorch-without-cuda",
        format!(
            "{} has a GPU driver and {} ({name}), but libtorch is a CPU build: {}",
            rank.host.name,
            count(gpus(rank), "GPU"),
            rank.software.libtorch.path
        ),
        "training would run on the CPU, many times slower",
        "build with the CUDA libtorch: `launch/setup.sh --cuda`, then `cargo build --release` (docs/gpu.md)".to_owned(),
    ))
}

fn libtorch_sees_none(ranks: &[&Rank]) -> Option<Finding> {
    let rank = ranks.iter().find(|r| !r.gpus.visible.is_empty() && r.gpus.libtorch == 0)?;
    let cuda = rank.software.libtorch.cuda.as_ref()?;
    let driver = rank.gpus.driver_cuda.as_deref().unwrap_or("unknown");
    let (seen, remedy) = match older(driver, cuda) {
        true => (
            format!("the driver of {} supports CUDA {driver} at most, but libtorch needs {cuda}", rank.host.name),
            format!("update the NVIDIA driver to a version for CUDA {cuda}"),
        ),
        false => (
            format!("libtorch (CUDA {cuda}) finds none of the {} of {}", count(gpus(rank), "GPU"), rank.host.name),
            "check that `nvidia-smi` works, and that LD_LIBRARY_PATH does not put other CUDA libraries first"
                .to_owned(),
        ),
    };
    Some(Finding::problem("libtorch-sees-no-gpu", seen, "training would run on the CPU", remedy))
}

/// Whether the driver's CUDA has a lower major version; within one major version, old drivers run newer runtimes.
fn older(driver: &str, runtime: &str) -> bool {
    let major = |version: &str| version.split('.').next()?.parse::<u32>().ok();
    major(driver).zip(major(runtime)).is_some_and(|(driver, runtime)| driver < runtime)
}

fn nccl_missing(facts: &Facts, ranks: &[&Rank]) -> Option<Finding> {
    // Only GPUs that are visible to the rank count.
    let rank = ranks.iter().find(|r| !r.gpus.visible.is_empty() && r.software.nccl.is_none())?;
    let error = rank.software.nccl_error.as_deref().unwrap_or("no reason given");
    let seen = format!("{} has a GPU driver, but no usable NCCL: {error}", rank.host.name);
    let why = "NCCL reduces gradients between GPUs; several ranks on GPUs cannot start without it";
    let remedy = "install NCCL (`launch/setup.sh --cuda` installs it next to libtorch), or set \
                  TRAINER_NCCL_PATH to the folder of libnccl.so.2"
        .to_owned();
    // One rank on one GPU does not need NCCL unless it was requested.
    Some(match facts.ranks.len() > 1 || rank.gpus.visible.len() > 1 || facts.nccl_refused.is_some() {
        true => Finding::problem("nccl-missing", seen, why, remedy),
        false => Finding::note("nccl-missing", seen, why, remedy),
    })
}

/// Whether `CUDA_VISIBLE_DEVICES` hides this host's GPUs. A missing or broken driver shows none anyway.
fn is_hiding(rank: &Rank) -> bool {
    let gpus = &rank.gpus;
    let there = rank.software.driver.is_some() || !gpus.host.is_empty();
    let works = gpus.driver && gpus.driver_error.is_none();
    gpus.visible.is_empty() && gpus.visible_devices.is_some() && works && there
}

fn hidden(ranks: &[&Rank]) -> Option<Finding> {
    let hiding: Vec<&&Rank> = ranks.iter().filter(|r| is_hiding(r)).collect();
    let value = hiding.first()?.gpus.visible_devices.clone().unwrap_or_default();
    let numbers: Vec<usize> = hiding.iter().map(|r| r.rank).collect();
    Some(Finding::warning(
        "gpus-hidden",
        format!(
            "CUDA_VISIBLE_DEVICES=\"{value}\" hides every GPU of {} from {}",
            ranks[0].host.name,
            name_ranks(&numbers)
        ),
        "these ranks train on the CPU",
        "unset it, unless you want to train on the CPU".to_owned(),
    ))
}

fn more_ranks_than_gpus(host: &Host, ranks: &[&Rank]) -> Option<Finding> {
    let without: Vec<usize> =
        ranks.iter().filter(|r| !r.gpus.visible.is_empty() && r.gpus.mine.is_none()).map(|r| r.rank).collect();
    let gpus = ranks.iter().map(|r| r.gpus.visible.len()).max().unwrap_or(0);
    (!without.is_empty()).then(|| {
        Finding::problem(
            "more-ranks-than-gpus",
            format!(
                "{} has {} and {}: there is none for {}",
                host.name,
                count(ranks.len(), "rank"),
                count(gpus, "GPU"),
                name_ranks(&without)
            ),
            "each rank needs its own GPU",
            format!("start {gpus} ranks per host: `mpirun --map-by ppr:{gpus}:node`, `srun --ntasks-per-node={gpus}`"),
        )
    })
}

/// Ranks that share a GPU.
fn shared(host: &Host, ranks: &[&Rank]) -> Vec<Finding> {
    let mut users: BTreeMap<&str, Vec<&Rank>> = BTreeMap::new();
    for rank in ranks {
        if let Some(gpu) = rank.gpu() {
            users.entry(&gpu.bus_id).or_default().push(rank);
        }
    }
    let several = users.into_iter().filter(|(_, users)| users.len() > 1);
    several
        .map(|(bus_id, users)| {
            let numbers: Vec<usize> = users.iter().map(|r| r.rank).collect();
            let remedy = match &users[0].gpus.visible_devices {
                Some(value) => format!(
                    "CUDA_VISIBLE_DEVICES=\"{value}\" gives {} to each of them: set it per rank, or give all GPUs \
                     to all ranks (rank k of a host then uses GPU k)",
                    count(users[0].gpus.visible.len(), "GPU")
                ),
                None => format!(
                    "this host has {}: {}",
                    count(users[0].gpus.visible.len(), "GPU"),
                    users[0].software.nccl_sharing.remedy()
                ),
            };
            let seen = format!("{} of {} are on one GPU, {bus_id}", name_ranks(&numbers), host.name);
            if users.iter().all(|rank| rank.software.nccl_sharing == Sharing::Allowed) {
                let why = "they share its memory and compute time";
                let remedy = "none for tests; for training, start one rank per GPU without \
                              NCCL_MULTI_RANK_GPU_ENABLE";
                return Finding::note("gpu-shared", seen, why, remedy.to_owned());
            }
            let why = "NCCL refuses two ranks on one GPU, and they would share its memory and compute time";
            Finding::problem("gpu-shared", seen, why, remedy)
        })
        .collect()
}

fn no_peer_access(rank: &Rank) -> Option<Finding> {
    let pairs: Vec<String> = rank
        .gpus
        .links
        .iter()
        .filter(|link| link.peer_access == Some(false))
        .map(|link| format!("{}-{}", link.between.0, link.between.1))
        .collect();
    (!pairs.is_empty()).then(|| {
        Finding::note(
            "no-peer-access",
            format!("on {}, GPUs cannot access each other's memory: {}", rank.host.name, pairs.join(", ")),
            "transfers between them go through host memory, which is slower",
            "none if the hardware has no direct link; otherwise check whether a virtual machine or the IOMMU (ACS) \
             blocks it"
                .to_owned(),
        )
    })
}

fn some_without(facts: &Facts) -> Option<Finding> {
    let (with, without): (Vec<&Rank>, Vec<&Rank>) = facts.ranks.iter().partition(|r| !r.gpus.visible.is_empty());
    let names = |ranks: &[&Rank]| name_ranks(&ranks.iter().map(|r| r.rank).collect::<Vec<_>>());
    (!with.is_empty() && !without.is_empty()).then(|| {
        Finding::problem(
            "some-ranks-without-gpu",
            format!("GPUs are visible to {}, but not to {}", names(&with), names(&without)),
            "a rank on a CPU would slow down all others, so training does not start",
            "repair or exclude those hosts, and check CUDA_VISIBLE_DEVICES on all hosts".to_owned(),
        )
    })
}

/// Reports NCCL's error, unless one of the problems in `found` explains it.
fn nccl_refused(facts: &Facts, found: &[Finding]) -> Option<Finding> {
    const REASONS: [&str; 8] = [
        "driver-library-missing",
        "driver-does-not-work",
        "libtorch-without-cuda",
        "libtorch-sees-no-gpu",
        "nccl-missing",
        "gpu-shared",
        "more-ranks-than-gpus",
        "some-ranks-without-gpu",
    ];
    let error = facts.nccl_refused.as_ref()?;
    if found.iter().any(|finding| finding.severity == Severity::Problem && REASONS.contains(&finding.id)) {
        return None;
    }
    let remedy = match facts.ranks.iter().all(|rank| rank.gpus.visible.is_empty()) {
        true => "no rank has a GPU: start on hosts with GPUs, or train on the CPU (comm.backend = \"auto\" or \"mpi\")",
        false => "set NCCL_DEBUG=INFO for details; between hosts, set NCCL_SOCKET_IFNAME to the interface to use",
    };
    Some(Finding::problem(
        "nccl-refuses",
        format!("NCCL cannot connect these ranks: {error}"),
        "ranks on GPUs cannot train together without it",
        remedy.to_owned(),
    ))
}
