//! Every finding, from the facts of a healthy job with one change.

mod made;

use super::*;
use crate::comm::nccl::Sharing;
use crate::doctor::facts::{Cores, Facts, Folder, Gpus, Launch, Link, Rank, Sweep, Wrong};
use made::{healthy, healthy_gpus, on_gpus, rank, two_hosts};

/// Asserts that these facts have exactly this finding, whose text contains all of `says`.
fn finds(facts: &Facts, severity: Severity, id: &str, says: &[&str]) {
    let found = all(facts);
    let [finding] = &found[..] else { panic!("expected {id} alone: {found:#?}") };
    assert_eq!((finding.id, finding.severity), (id, severity), "{finding:#?}");
    let row = include_str!("../../../docs/doctor.md").lines().find(|line| line.starts_with(&format!("| `{id}` |")));
    let word = format!("{severity:?}").to_lowercase();
    assert!(row.is_some_and(|row| row.contains(&word)), "docs/doctor.md has no row of {id} as a {word}");
    let text = format!("{} {} {}", finding.seen, finding.why, finding.remedy);
    says.iter().for_each(|part| assert!(text.contains(part), "{id} says nothing of {part:?}: {finding:#?}"));
}

/// The same for facts with one change.
fn changed(mut facts: Facts, change: impl Fn(&mut Facts), severity: Severity, id: &str, says: &[&str]) {
    change(&mut facts);
    finds(&facts, severity, id, says);
}

use Severity::{Note, Problem, Warning};

/// Hides all GPUs from a rank.
fn hide(rank: &mut Rank) {
    (rank.gpus.visible, rank.gpus.visible_devices, rank.gpus.libtorch) = (Vec::new(), Some(String::new()), 0);
}

#[test]
fn healthy_jobs_have_no_finding() {
    for facts in [healthy(), healthy_gpus(), two_hosts()] {
        assert_eq!(all(&facts), []);
    }
    // A single process without a launcher.
    let mut one = healthy();
    one.ranks.truncate(1);
    one.ranks[0].launch = Launch { world: 1, ..Launch::default() };
    assert_eq!(all(&one), []);
}

#[test]
fn ranks_that_are_each_alone() {
    let alone = |launch: Launch| {
        let mut facts = healthy();
        facts.ranks.truncate(1);
        facts.ranks[0].launch = Launch { world: 1, ..launch };
        facts
    };
    let announced = |name: &str, n| Launch { announced: Some((name.into(), n)), mpi: true, ..Launch::default() };
    finds(
        &alone(announced("OMPI_COMM_WORLD_SIZE", 2)),
        Problem,
        "ranks-alone",
        &["2 ranks were started", "/lib/libmpi.so.40"],
    );
    finds(
        &alone(announced("PMI_SIZE", 4)),
        Problem,
        "ranks-alone",
        &["PMI_SIZE=4", "mpirun that belongs to Open MPI v4.1.4"],
    );
    finds(&alone(announced("SLURM_STEP_NUM_TASKS", 2)), Problem, "ranks-alone", &["srun --mpi=pmix"]);
    // Without variables, but with other processes of the same launcher.
    let launcher = Some("/usr/bin/mpirun".into());
    finds(
        &alone(Launch { launcher, together: 3, ..Launch::default() }),
        Problem,
        "ranks-alone",
        &["started 3 of these"],
    );
    assert_eq!(all(&alone(announced("OMPI_COMM_WORLD_SIZE", 1))), []);
    // Training refuses these too: a single process in a job of several tasks, several ranks with the solo backend.
    let refused = |why: &str| Launch { refused: Some((why.into(), "start all".into())), ..Launch::default() };
    finds(&alone(refused("the Slurm job has 4 tasks")), Problem, "ranks-alone", &["has 4 tasks", "start all"]);
    let solo = Launch { solo: true, ..announced("OMPI_COMM_WORLD_SIZE", 2) };
    let several = Launch { refused: refused("solo is for one rank").refused, ..solo.clone() };
    finds(&alone(several), Problem, "ranks-alone", &["solo is for one rank"]);
    assert_eq!(all(&alone(solo)), []);
    let mut failed = alone(Launch::default());
    failed.mpi_error = Some("MPI_Init_thread failed".into());
    finds(&failed, Problem, "mpi-does-not-start", &["MPI_Init_thread failed"]);
}

#[test]
fn bindings_and_threads() {
    let bound = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            (rank.cores.used, rank.cores.given, rank.cores.threads) = (vec![rank.rank], vec![rank.rank], 1);
        }
    };
    changed(
        healthy(),
        bound,
        Warning,
        "bound-to-one-core",
        &["ranks 0, 1 can use only one core", "4 logical CPUs", "--bind-to none"],
    );
    changed(healthy(), |f| f.ranks[1].cores.given = vec![2], Note, "binding-widened", &["rank 1"]);
    let many = |f: &mut Facts| f.ranks.iter_mut().for_each(|rank| rank.cores.threads = 4);
    changed(healthy(), many, Warning, "too-many-threads", &["8 threads on 4 logical CPUs", "OMP_NUM_THREADS=2"]);
    let slower = |f: &mut Facts| f.ranks[1].cores.gigaflops = Some([50.0, 20.0]);
    changed(healthy(), slower, Warning, "cores-busy", &["rank 1 computes with 2 threads 0.40 x as fast as with one"]);
    let waits = |f: &mut Facts| f.ranks[1].cores.waited = Some(0.45);
    changed(healthy(), waits, Warning, "cores-busy", &["rank 1 waits for a core 45 % of the time"]);
}

#[test]
fn nccl_is_missing() {
    let without = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            (rank.software.nccl, rank.software.nccl_error) =
                (None, Some("NCCL was not found (libnccl.so.2: no such file)".into()));
        }
        facts.nccl_refused = Some("rank 0: NCCL was not found".into());
    };
    changed(healthy_gpus(), without, Problem, "nccl-missing", &["was not found", "TRAINER_NCCL_PATH"]);
    let mut one = Facts { ranks: vec![on_gpus(rank(0, "a"), 1)], ..healthy() };
    (one.ranks[0].software.nccl, one.ranks[0].launch) = (None, Launch::default());
    finds(&one, Note, "nccl-missing", &["several ranks"]);
    // One of eight GPUs is visible: the others do not count.
    one.ranks[0].gpus.host = on_gpus(rank(0, "a"), 8).gpus.host;
    finds(&one, Note, "nccl-missing", &["several ranks"]);
    changed(one, |f| f.nccl_refused = Some("NCCL was not found".into()), Problem, "nccl-missing", &["several ranks"]);
}

#[test]
fn nccl_refuses() {
    let refused = |facts: &mut Facts| facts.nccl_refused = Some("no socket interface".into());
    changed(healthy_gpus(), refused, Problem, "nccl-refuses", &["no socket interface", "NCCL_DEBUG"]);
    // Without GPUs and NCCL there is no other problem.
    changed(healthy(), refused, Problem, "nccl-refuses", &["no socket interface", "no rank has a GPU"]);
    // A warning does not replace the refusal.
    let hide = |facts: &mut Facts| {
        refused(facts);
        facts.ranks.iter_mut().for_each(hide);
    };
    let mut hidden = healthy_gpus();
    hide(&mut hidden);
    let ids: Vec<&str> = all(&hidden).iter().map(|finding| finding.id).collect();
    assert_eq!(ids, ["nccl-refuses", "gpus-hidden"]);
}

#[test]
fn libtorch_and_the_driver() {
    let cpu = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            (rank.software.libtorch.cuda, rank.gpus.libtorch) = (None, 0);
        }
    };
    changed(
        healthy_gpus(),
        cpu,
        Problem,
        "libtorch-without-cuda",
        &["2 GPUs (GPU)", "/lib/libtorch_cpu.so", "setup.sh --cuda"],
    );
    let blind = |facts: &mut Facts| facts.ranks.iter_mut().for_each(|rank| rank.gpus.libtorch = 0);
    changed(healthy_gpus(), blind, Problem, "libtorch-sees-no-gpu", &["finds none of the 2 GPUs"]);
    let old = |facts: &mut Facts| {
        blind(facts);
        facts.ranks.iter_mut().for_each(|rank| rank.gpus.driver_cuda = Some("12.8".into()));
    };
    changed(
        healthy_gpus(),
        old,
        Problem,
        "libtorch-sees-no-gpu",
        &["supports CUDA 12.8 at most", "update the NVIDIA driver"],
    );
    let broken = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            rank.gpus = Gpus { driver: true, driver_error: Some("cuInit failed".into()), ..Gpus::default() };
        }
    };
    changed(healthy_gpus(), broken, Problem, "driver-does-not-work", &["cuInit failed", "nvidia-smi"]);
    let no_module = |facts: &mut Facts| {
        broken(facts);
        facts.ranks.iter_mut().for_each(|rank| rank.software.driver = None);
    };
    changed(healthy_gpus(), no_module, Warning, "driver-does-not-work", &["if the host has no GPU"]);
    let module_alone = |facts: &mut Facts| facts.ranks.iter_mut().for_each(|rank| rank.gpus = Gpus::default());
    changed(healthy_gpus(), module_alone, Problem, "driver-library-missing", &["580.65.06", "--gpus all"]);
    // Slurm sets CUDA_VISIBLE_DEVICES for a container without a driver: that is not what hides the GPUs.
    let chosen = |facts: &mut Facts| {
        facts.ranks.iter_mut().for_each(|rank| rank.gpus.visible_devices = Some("0".into()));
    };
    changed(
        healthy_gpus(),
        |f| (module_alone(f), chosen(f)).1,
        Problem,
        "driver-library-missing",
        &["no program can use a GPU without it"],
    );
    changed(healthy_gpus(), |f| (broken(f), chosen(f)).1, Problem, "driver-does-not-work", &["cuInit failed"]);
}

#[test]
fn gpus_and_ranks() {
    let same = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            rank.gpus.visible.truncate(1);
            (rank.gpus.mine, rank.gpus.visible_devices) = (Some(0), Some("0".into()));
        }
    };
    changed(
        healthy_gpus(),
        same,
        Problem,
        "gpu-shared",
        &["ranks 0, 1 of a are on one GPU, 0000:00:00.0", "CUDA_VISIBLE_DEVICES=\"0\""],
    );
    let refused = |facts: &mut Facts| {
        same(facts);
        facts.nccl_refused = Some("Duplicate GPU detected".into());
    };
    changed(healthy_gpus(), refused, Problem, "gpu-shared", &["NCCL refuses"]);
    let allowed = |facts: &mut Facts| {
        same(facts);
        facts.ranks.iter_mut().for_each(|rank| rank.software.nccl_sharing = Sharing::Allowed);
    };
    changed(healthy_gpus(), allowed, Note, "gpu-shared", &["they share its memory", "NCCL_MULTI_RANK_GPU_ENABLE"]);
    // GPUs of two hosts have the same bus ids.
    let apart = Facts { ranks: two_hosts().ranks.into_iter().map(|rank| on_gpus(rank, 1)).collect(), ..two_hosts() };
    assert_eq!(all(&apart), []);
    let mut third = healthy_gpus();
    third.ranks.push(Rank { cores: Cores::default(), ..on_gpus(rank(2, "a"), 2) });
    finds(&third, Problem, "more-ranks-than-gpus", &["3 ranks and 2 GPUs", "there is none for rank 2", "ppr:2:node"]);
    // Hidden GPUs mean training on the CPU: a missing NCCL and a CPU build of libtorch are no problem then.
    let hide_all = |facts: &mut Facts| {
        facts.ranks.iter_mut().for_each(hide);
        facts.ranks.iter_mut().for_each(|rank| (rank.software.nccl, rank.software.libtorch.cuda) = (None, None));
    };
    changed(healthy_gpus(), hide_all, Warning, "gpus-hidden", &["CUDA_VISIBLE_DEVICES=\"\"", "ranks 0, 1"]);
    let mut mixed = apart;
    (mixed.ranks[1].gpus, mixed.ranks[1].software.driver) = (Gpus::default(), None);
    finds(&mixed, Problem, "some-ranks-without-gpu", &["to rank 0, but not to rank 1"]);
    let link = Link { between: (0, 1), way: None, peer_access: Some(false) };
    changed(healthy_gpus(), |f| f.ranks[0].gpus.links = vec![link.clone()], Note, "no-peer-access", &["0-1"]);
}

#[test]
fn shared_memory_is_small() {
    let docker = |facts: &mut Facts| {
        for rank in &mut facts.ranks {
            (rank.memory.shared_bytes, rank.memory.shared_free_bytes) = (Some(64 << 20), Some(64 << 20));
        }
    };
    changed(healthy(), docker, Warning, "shared-memory-small", &["67.1 MB", "--shm-size=1g"]);
    changed(healthy_gpus(), docker, Problem, "shared-memory-small", &["2 ranks may need"]);
    let full = |facts: &mut Facts| facts.ranks[0].memory.shared_free_bytes = Some(1 << 20);
    changed(healthy(), full, Problem, "shared-memory-small", &["1.0 MB free of 17.2 GB", "No space left"]);
    changed(healthy(), |f| f.ranks[0].memory.shared_bytes = None, Problem, "shared-memory-small", &["has no /dev/shm"]);
    // Ranks on different hosts do not use it.
    let mut apart = two_hosts();
    docker(&mut apart);
    assert_eq!(all(&apart), []);
}

#[test]
fn the_output_folder() {
    let with = |change: fn(&mut Folder)| move |facts: &mut Facts| facts.folder.iter_mut().for_each(change);
    let unseen = with(|folder| folder.hosts[1].not_seen = vec!["a".into()]);
    changed(two_hosts(), unseen, Problem, "folder-not-shared", &["b (rank 1) does not see the file of a", "NFS"]);
    let absent = with(|folder| {
        folder.hosts[1].write_error = Some("No such file or directory".into());
        folder.hosts[1].not_seen = vec!["a".into()];
    });
    changed(two_hosts(), absent, Problem, "folder-not-shared", &["No such file or directory"]);
    let refused = with(|folder| folder.write_error = Some("Read-only file system".into()));
    changed(healthy(), refused, Problem, "folder-not-writable", &["Read-only file system"]);
    changed(healthy(), with(|f| f.free_bytes = Some(1 << 20)), Problem, "folder-little-space", &["1.0 MB free"]);
    changed(healthy(), with(|f| f.free_bytes = Some(5 << 30)), Note, "folder-little-space", &["save_total_limit"]);
    changed(healthy(), with(|f| f.written_seconds = Some(10.0)), Warning, "folder-slow", &["6.7 MB/s"]);
    let hangs = with(|folder| folder.error = Some("rank 1 is late".into()));
    changed(two_hosts(), hangs, Problem, "folder-failed", &["checking runs", "rank 1 is late"]);
    changed(healthy(), with(|f| f.file_system = Some("tmpfs".into())), Warning, "folder-in-memory", &["tmpfs"]);
}

#[test]
fn ranks_that_differ() {
    let other = |f: &mut Facts| f.ranks[1].software.trainer.digest = "ffffffffffff".into();
    changed(two_hosts(), other, Problem, "versions-differ", &["rank 0 (a)", "rank 1 (b)", "ffffffff"]);
    let older = |f: &mut Facts| f.ranks[1].software.libtorch.version = "2.12.0".into();
    changed(two_hosts(), older, Problem, "versions-differ", &["libtorch", "rank 1 (b): 2.12.0"]);
    let mpi = |f: &mut Facts| f.ranks[1].software.mpi.version = "Open MPI v5.0.0".into();
    changed(two_hosts(), mpi, Problem, "versions-differ", &["MPI: "]);
    changed(
        two_hosts(),
        |f| f.ranks[1].clock += 5.0,
        Warning,
        "clocks-differ",
        &["the clock of b is 5.0 s ahead of that of a"],
    );
    let shadow = |f: &mut Facts| f.ranks[0].software.libtorch.path = "/conda/libtorch_cpu.so".into();
    changed(healthy(), shadow, Warning, "libtorch-shadowed", &["/conda/libtorch_cpu.so", "LD_LIBRARY_PATH"]);
    let beside = |f: &mut Facts| f.ranks[0].software.nccl_beside_libtorch = Some("/venv/libnccl.so.2".into());
    changed(healthy_gpus(), beside, Note, "nccl-shadowed", &["/lib/libnccl.so.2", "/venv/libnccl.so.2"]);
}

#[test]
fn limits_interfaces_and_processors() {
    let locked = |f: &mut Facts| {
        f.ranks[0].memory.locked_limit_bytes = Some(8 << 20);
        f.ranks[0].network.infiniband = true;
    };
    changed(two_hosts(), locked, Warning, "locked-memory-limit", &["8.4 MB", "ulimit -l"]);
    changed(
        healthy(),
        |f| f.ranks[0].memory.open_files_limit = Some(256),
        Warning,
        "open-files-limit",
        &["256", "ulimit -n 1024"],
    );
    let interface = |f: &mut Facts| f.ranks[0].network.nccl_socket_ifname = Some("ib".into());
    changed(healthy_gpus(), interface, Problem, "interface-missing", &["\"ib\" matches none", "eth0, lo"]);
    let loopback = |f: &mut Facts| f.ranks[0].network.nccl_socket_ifname = Some("lo".into());
    let gpus_of_two_hosts =
        Facts { ranks: two_hosts().ranks.into_iter().map(|rank| on_gpus(rank, 1)).collect(), ..two_hosts() };
    changed(gpus_of_two_hosts, loopback, Problem, "interface-missing", &["reaches no other host"]);
    // An environment module sets it, and these ranks have no GPU.
    changed(healthy(), interface, Note, "interface-missing", &["\"ib\" matches none"]);
    changed(two_hosts(), loopback, Note, "interface-missing", &["reaches no other host"]);
    let old = |f: &mut Facts| f.ranks[0].cores.avx2 = Some(false);
    changed(healthy(), old, Warning, "no-avx2", &["a processor"]);
}

#[test]
fn sweeps_that_fail() {
    let wrong = Wrong {
        collective: "all-gather".into(),
        bytes: 4096,
        rank: 1,
        element: 17,
        expected: 3.0,
        found: "NaN".into(),
    };
    let with = |sweep: Sweep| move |facts: &mut Facts| facts.sweep = Some(sweep.clone());
    let bad = Sweep { backend: "nccl".into(), wrong: Some(wrong), ..Sweep::default() };
    changed(healthy(), with(bad), Problem, "sweep-wrong-value", &["rank 1, element 17: expected 3, found NaN"]);
    let late = Sweep { backend: "mpi".into(), error: Some("rank 1 is late".into()), ..Sweep::default() };
    changed(healthy(), with(late), Problem, "sweep-failed", &["rank 1 is late"]);
}

#[test]
fn hosts_with_the_same_fault_are_one_finding() {
    let mut facts = healthy();
    facts.ranks = (0..20).map(|number| rank(number, &format!("host{number}"))).collect();
    facts.ranks.iter_mut().for_each(|rank| rank.cores.avx2 = Some(false));
    finds(&facts, Warning, "no-avx2", &["host0", "host3", "and 16 more like these"]);
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.ranks[0].software.libtorch.path = "/elsewhere".into();
    facts.ranks[1].cores.given = vec![2];
    facts.folder.as_mut().unwrap().write_error = Some("no".into());
    let severities: Vec<Severity> = all(&facts).iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Problem, Warning, Note]);
    assert_eq!(problems(&all(&facts)), 1);
}
