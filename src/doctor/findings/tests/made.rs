//! Facts of jobs without problems.

use crate::doctor::facts::{
    Cores, Facts, Folder, FolderHost, Gpus, Host, HostGpu, Launch, Library, Libtorch, Memory, Network, Program, Rank,
    Software, Sweep, VisibleGpu,
};

/// A rank on a CPU without problems.
pub fn rank(rank: usize, host: &str) -> Rank {
    let library = |version: &str, path: &str| Library { version: version.into(), path: path.into() };
    Rank {
        rank,
        local_rank: rank,
        pid: 100,
        host: Host { name: host.into(), boot: host.into() },
        launch: Launch {
            launcher: Some("/usr/bin/mpirun".into()),
            together: 2,
            announced: Some(("OMPI_COMM_WORLD_SIZE".into(), 2)),
            mpi: true,
            pmix: true,
            solo: false,
            refused: None,
            world: 2,
        },
        software: Software {
            trainer: Program {
                version: "0.1.0".into(),
                path: "/bin/trainer".into(),
                digest: "0123456789abcdef".into(),
            },
            libtorch: Libtorch {
                version: "2.13.0".into(),
                path: "/lib/libtorch_cpu.so".into(),
                built_with: "/lib/libtorch_cpu.so".into(),
                cuda: None,
            },
            mpi: library("Open MPI v4.1.4", "/lib/libmpi.so.40"),
            ..Software::default()
        },
        gpus: Gpus::default(),
        cores: Cores {
            given: vec![2 * rank, 2 * rank + 1],
            used: vec![2 * rank, 2 * rank + 1],
            threads: 2,
            gigaflops: Some([50.0, 95.0]),
            waited: Some(0.0),
            host: 4,
            numa_nodes: 1,
            model: "a processor".into(),
            avx2: Some(true),
        },
        memory: Memory {
            available_bytes: Some(32 << 30),
            shared_bytes: Some(16 << 30),
            shared_free_bytes: Some(16 << 30),
            locked_limit_bytes: None,
            open_files_limit: Some(65536),
        },
        network: Network { interfaces: vec!["eth0".into(), "lo".into()], ..Network::default() },
        clock: 1e9,
    }
}

/// The same with GPUs: driver, NCCL, a CUDA build of libtorch.
pub fn on_gpus(mut rank: Rank, gpus: usize) -> Rank {
    rank.software.libtorch.cuda = Some("13.0".into());
    rank.software.driver = Some("580.65.06".into());
    rank.software.nccl = Some(Library { version: "2.29.7".into(), path: "/lib/libnccl.so.2".into() });
    let bus_id = |i: usize| format!("0000:{i:02x}:00.0");
    rank.gpus = Gpus {
        host: (0..gpus)
            .map(|i| HostGpu { index: i, name: "GPU".into(), bus_id: bus_id(i), ..HostGpu::default() })
            .collect(),
        driver: true,
        driver_cuda: Some("13.0".into()),
        visible: (0..gpus)
            .map(|i| VisibleGpu { name: "GPU".into(), bus_id: bus_id(i), memory_bytes: 80 << 30 })
            .collect(),
        libtorch: gpus,
        mine: (rank.local_rank < gpus).then_some(rank.local_rank),
        ..Gpus::default()
    };
    rank
}

pub fn folder() -> Folder {
    Folder {
        named: "runs".into(),
        path: "/data/runs".into(),
        file_system: Some("ext4".into()),
        total_bytes: Some(1 << 40),
        free_bytes: Some(1 << 39),
        written_bytes: Some(64 << 20),
        written_seconds: Some(0.1),
        write_error: None,
        error: None,
        hosts: Vec::new(),
    }
}

pub fn healthy() -> Facts {
    let folder = Some(folder());
    Facts { ranks: vec![rank(0, "a"), rank(1, "a")], folder, sweep: Some(Sweep::default()), ..Facts::default() }
}

pub fn healthy_gpus() -> Facts {
    Facts { ranks: (0..2).map(|r| on_gpus(rank(r, "a"), 2)).collect(), ..healthy() }
}

pub fn two_hosts() -> Facts {
    let hosts = ["a", "b"].into_iter().enumerate();
    let seen =
        hosts.clone().map(|(rank, host)| FolderHost { host: host.into(), rank, ..FolderHost::default() }).collect();
    let mut ranks: Vec<Rank> = hosts.map(|(number, host)| rank(number, host)).collect();
    ranks[1].local_rank = 0;
    Facts { ranks, folder: Some(Folder { hosts: seen, ..folder() }), ..healthy() }
}
