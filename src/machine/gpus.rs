//! The GPUs of this host according to NVML. Creates no CUDA context.

use crate::error::{Error, Result};
use nvml_wrapper::Nvml;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Index in the order of the PCI bus.
    pub index: usize,
    /// Name such as "NVIDIA H100 80GB HBM3".
    pub name: String,
    /// UUID such as "GPU-5d5ba0d6-...".
    pub uuid: String,
    /// PCI bus id such as "00000000:18:00.0".
    pub bus_id: String,
    /// Memory in bytes.
    pub memory: u64,
    /// The NUMA node that it is connected to, if known.
    pub numa_node: Option<usize>,
}

/// Returns all GPUs of this host in the order of the PCI bus, regardless of `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
/// NVML's error: a missing or broken driver.
pub fn by_nvml() -> Result<Vec<Gpu>> {
    let nvml = Nvml::init().map_err(|e| Error::other(format!("NVML: {e}")))?;
    let failed = |e: nvml_wrapper::error::NvmlError| Error::other(format!("NVML: {e}"));
    let count = nvml.device_count().map_err(failed)?;
    (0..count)
        .map(|index| {
            let device = nvml.device_by_index(index).map_err(failed)?;
            let bus_id = device.pci_info().map_err(failed)?.bus_id;
            Ok(Gpu {
                index: index as usize,
                name: device.name().map_err(failed)?,
                uuid: device.uuid().map_err(failed)?,
                numa_node: super::cpus::numa_node_of_pci(&bus_id),
                bus_id,
                memory: device.memory_info().map_err(failed)?.total,
            })
        })
        .collect()
}

/// Returns the GPUs that are visible under `CUDA_VISIBLE_DEVICES`, in its order. The rules are CUDA's: numbers or UUID
/// prefixes; everything after the first invalid entry is ignored.
pub fn visible(all: &[Gpu], setting: Option<&str>) -> Vec<Gpu> {
    let Some(setting) = setting else { return all.to_vec() };
    let named = |word: &str| {
        let word = word.trim();
        match word.parse::<usize>() {
            Ok(index) => all.iter().find(|gpu| gpu.index == index),
            Err(_) => all.iter().find(|gpu| !word.is_empty() && gpu.uuid.starts_with(word)),
        }
    };
    setting.split(',').map_while(named).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_as_cuda_reads_them() {
        let gpu = |index: usize| Gpu {
            index,
            name: "A".into(),
            uuid: format!("GPU-{index}7e"),
            bus_id: format!("00000000:{index:02x}:00.0"),
            memory: 1 << 30,
            numa_node: None,
        };
        let all: Vec<Gpu> = (0..4).map(gpu).collect();
        let seen = |setting| visible(&all, setting).iter().map(|gpu| gpu.index).collect::<Vec<_>>();
        assert_eq!(seen(None), [0, 1, 2, 3]);
        assert_eq!(seen(Some("2,0")), [2, 0]);
        assert_eq!(seen(Some("GPU-3,GPU-17e")), [3, 1]);
        assert_eq!(seen(Some("1,9,2")), [1]);
        assert_eq!(seen(Some("-1")), [] as [usize; 0]);
        assert_eq!(seen(Some("")), [] as [usize; 0]);
    }
}
