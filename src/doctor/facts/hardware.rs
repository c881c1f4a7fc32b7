//! Collects GPUs, cores, memory and network of this host, as visible to this process.

use super::{Cores, Gpus, Host, HostGpu, Link, Memory, Network, VisibleGpu};
use crate::comm::cores;
use crate::comm::driver;
use crate::comm::nccl::{self, Sharing};
use crate::machine::cpus::{main_thread_times, numa_nodes, parse_list, waited_since};
use crate::machine::{self, gpus, links, memory};
use crate::observe::memory::available_bytes;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tch::Cuda;

impl Host {
    pub fn collect() -> Host {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Host { name: machine::host_name(), boot: boot.trim().to_owned() }
    }
}

impl Gpus {
    /// Queries NVML, the driver and libtorch.
    pub fn collect() -> Gpus {
        let mut found = Gpus { visible_devices: std::env::var("CUDA_VISIBLE_DEVICES").ok(), ..Gpus::default() };
        match gpus::by_nvml() {
            Ok(gpus) => found.host = gpus.into_iter().map(host_gpu).collect(),
            Err(e) => found.nvml_error = Some(e.to_string()),
        }
        let link = |l: links::Link| Link {
            between: l.between,
            way: l.way.map(|way| way.name().to_owned()),
            peer_access: l.peer_access,
        };
        found.links = links::by_nvml().unwrap_or_default().into_iter().map(link).collect();
        match driver::query() {
            Ok(None) => {}
            Ok(Some(driver)) => {
                found.driver = true;
                found.driver_cuda = driver.cuda;
                found.visible = driver.gpus.into_iter().map(visible_gpu).collect();
            }
            Err(e) => (found.driver, found.driver_error) = (true, Some(e.to_string())),
        }
        found.libtorch = Cuda::device_count().max(0) as usize;
        found
    }

    /// Selects the GPU of this rank.
    pub fn choose(&mut self, local_rank: usize, sharing: Sharing) {
        self.mine = nccl::ordinal(local_rank, self.visible.len(), sharing).ok();
    }
}

fn host_gpu(gpu: gpus::Gpu) -> HostGpu {
    let gpus::Gpu { index, name, uuid, bus_id, memory: memory_bytes, numa_node } = gpu;
    HostGpu { index, name, uuid, bus_id: driver_form(&bus_id), memory_bytes, numa_node }
}

/// Converts a PCI bus id to the driver's format, "0000:18:00.0"; NVML's domain has eight digits.
fn driver_form(bus_id: &str) -> String {
    let bus_id = bus_id.to_lowercase();
    let parts = bus_id.split_once(':').and_then(|(domain, rest)| Some((u32::from_str_radix(domain, 16).ok()?, rest)));
    parts.map_or_else(|| bus_id.clone(), |(domain, rest)| format!("{domain:04x}:{rest}"))
}

fn visible_gpu(gpu: driver::Gpu) -> VisibleGpu {
    VisibleGpu { name: gpu.name, bus_id: gpu.bus_id, memory_bytes: gpu.memory }
}

impl Cores {
    /// Rebinds this rank to its part of the cores, as training does. Call it on the main thread, before others start.
    pub fn take() -> Cores {
        let given = allowed();
        let (local_rank, local_world) = cores::local_place();
        let taken = cores::use_our_cores(local_rank, local_world, None);
        tch::set_num_threads(taken.threads as i32);
        let online = fs::read_to_string("/sys/devices/system/cpu/online").map(|text| parse_list(&text).len());
        Cores {
            given,
            used: allowed(),
            threads: taken.threads,
            gigaflops: None,
            waited: None,
            host: online.unwrap_or(0),
            numa_nodes: numa_nodes().len().max(1),
            model: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| model(&text)).unwrap_or_default(),
            avx2: avx2(),
        }
    }
}

impl Cores {
    /// Measures one thread and all threads: more threads may be slower if other programs use the cores.
    pub fn time(&mut self) {
        let before = main_thread_times();
        let [one, all] = [1, self.threads].map(gigaflops);
        tch::set_num_threads(self.threads as i32);
        self.waited = waited_since(before);
        self.gigaflops = (self.threads > 1).then_some([one, all]);
    }
}

/// Measures the matmul throughput in GFLOP/s at the sizes of a small encoder.
fn gigaflops(threads: usize) -> f64 {
    const SIZES: [i64; 3] = [256, 384, 1536];
    const TIME: Duration = Duration::from_millis(150);
    tch::set_num_threads(threads as i32);
    let [rows, inner, columns] = SIZES;
    let options = (tch::Kind::Float, tch::Device::Cpu);
    let (a, b) = (tch::Tensor::ones([rows, inner], options), tch::Tensor::ones([inner, columns], options));
    // Warm up: the first call starts the threads.
    _ = a.matmul(&b);
    let (since, mut calls) = (Instant::now(), 0.0);
    while since.elapsed() < TIME {
        _ = a.matmul(&b);
        calls += 1.0;
    }
    2.0 * calls * SIZES.map(|n| n as f64).iter().product::<f64>() / since.elapsed().as_secs_f64() / 1e9
}

/// Returns the logical CPUs that the main thread may run on.
fn allowed() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(parse_list).unwrap_or_default()
}

fn model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(target_arch = "x86_64")]
fn avx2() -> Option<bool> {
    Some(std::arch::is_x86_feature_detected!("avx2"))
}

#[cfg(not(target_arch = "x86_64"))]
fn avx2() -> Option<bool> {
    None
}

impl Memory {
    pub fn collect() -> Memory {
        let (shared, limits) = (memory::shared().ok(), memory::limits());
        Memory {
            available_bytes: available_bytes(),
            shared_bytes: shared.map(|space| space.total),
            shared_free_bytes: shared.map(|space| space.free),
            locked_limit_bytes: limits.locked_bytes,
            open_files_limit: limits.open_files,
        }
    }
}

impl Network {
    /// Reads `/sys` and the environment.
    pub fn collect() -> Network {
        let names = |folder: &str| {
            let entries = fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        Network {
            interfaces: names("/sys/class/net"),
            nccl_socket_ifname: std::env::var("NCCL_SOCKET_IFNAME").ok().filter(|text| !text.is_empty()),
            infiniband: !names("/sys/class/infiniband").is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_ids_have_one_format() {
        assert_eq!(driver_form("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(driver_form("00010000:18:00.0"), "10000:18:00.0");
        assert_eq!(driver_form("unknown"), "unknown");
    }
}
