//! The links between the GPUs of this host according to NVML.

use crate::error::{Error, Result};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus, TopologyLevel};

/// Type of link between two GPUs, the fastest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    NvLink,
    Board,
    /// Only through PCIe switches.
    Switch,
    /// Through one host bridge.
    HostBridge,
    /// Through several host bridges of a NUMA node.
    Node,
    /// Through the link between NUMA nodes.
    System,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::NvLink => "NVLink",
            Way::Board => "same board",
            Way::Switch => "PCIe switch",
            Way::HostBridge => "PCIe host bridge",
            Way::Node => "same NUMA node",
            Way::System => "across NUMA nodes",
        }
    }

    fn by_topology(level: TopologyLevel) -> Way {
        match level {
            TopologyLevel::Internal => Way::Board,
            TopologyLevel::Single | TopologyLevel::Multiple => Way::Switch,
            TopologyLevel::HostBridge => Way::HostBridge,
            TopologyLevel::Node => Way::Node,
            TopologyLevel::System => Way::System,
        }
    }
}

/// Two GPUs of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Their indices in the order of the PCI bus, the lower first.
    pub between: (usize, usize),
    /// `None` if unknown.
    pub way: Option<Way>,
    /// Whether one can access the other's memory; `None` if unknown.
    pub peer_access: Option<bool>,
}

/// Returns every pair of GPUs of this host.
///
/// # Errors
/// NVML's error: a missing or broken driver.
pub fn by_nvml() -> Result<Vec<Link>> {
    let failed = |e: nvml_wrapper::error::NvmlError| Error::other(format!("NVML: {e}"));
    let nvml = Nvml::init().map_err(failed)?;
    let devices: Vec<_> = (0..nvml.device_count().map_err(failed)?)
        .map(|i| nvml.device_by_index(i).map_err(failed))
        .collect::<Result<_>>()?;
    let mut links = Vec::new();
    for (i, a) in devices.iter().enumerate() {
        for (j, b) in devices.iter().enumerate().skip(i + 1) {
            let can = |what| a.p2p_status(b, what).ok().map(|status| status == P2pStatus::Ok);
            let way = match can(P2pCapabilitiesIndex::NvLink) {
                Some(true) => Some(Way::NvLink),
                // The call takes its second device by value.
                _ => {
                    let b = nvml.device_by_index(j as u32).map_err(failed)?;
                    a.topology_common_ancestor(b).ok().map(Way::by_topology)
                }
            };
            links.push(Link { between: (i, j), way, peer_access: can(P2pCapabilitiesIndex::Read) });
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no GPU: NVML reports some, or an error.
    #[test]
    fn links_are_told_or_the_reason() {
        match by_nvml() {
            Ok(links) => assert!(links.iter().all(|link| link.between.0 < link.between.1)),
            Err(e) => assert!(e.to_string().starts_with("NVML: "), "{e}"),
        }
        assert_eq!(Way::by_topology(TopologyLevel::Multiple).name(), "PCIe switch");
    }
}
