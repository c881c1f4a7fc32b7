//! Devices by name, with vendor specifications.

/// A compute device.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    pub name: &'static str,
    /// Peak dense matmul rate in FLOP/s: in bf16 and fp16 (fp32 accumulation), in fp32, and in TF32.
    pub half: f64,
    pub fp32: f64,
    pub tf32: f64,
    /// Memory bandwidth in bytes per second.
    pub bandwidth: f64,
    /// Memory in bytes as reported by `nvidia-smi`, which is more than the nominal size (80 GB are 81,559 MiB).
    pub memory: f64,
    /// The usual links of the device, within a machine and between machines.
    pub links: [&'static str; 2],
    /// Source of the figures.
    pub source: &'static str,
}

/// Default fraction of [`Device`]'s peak rate that large matmuls reach.
pub const EFFICIENCY: f64 = 0.5;
/// Fraction of the memory bandwidth that elementwise operations reach.
pub const STREAMING: f64 = 0.8;

const T: f64 = 1e12;
const MIB: f64 = (1u64 << 20) as f64;

/// Dense rates: rates "with sparsity" in data sheets are halved.
pub const DEVICES: &[Device] = &[
    Device {
        name: "h100-sxm",
        half: 989.4 * T,
        fp32: 66.9 * T,
        tf32: 494.7 * T,
        bandwidth: 3.35 * T,
        memory: 81_559.0 * MIB,
        links: ["nvlink4", "ib400"],
        source: "NVIDIA H100 Tensor Core GPU data sheet; H100 architecture white paper, table 2",
    },
    Device {
        name: "h100-pcie",
        half: 756.0 * T,
        fp32: 51.2 * T,
        tf32: 378.0 * T,
        bandwidth: 2.0 * T,
        memory: 81_559.0 * MIB,
        links: ["pcie5", "ib400"],
        source: "NVIDIA H100 PCIe product brief; H100 architecture white paper, table 2",
    },
    Device {
        name: "h200-sxm",
        half: 989.4 * T,
        fp32: 66.9 * T,
        tf32: 494.7 * T,
        bandwidth: 4.8 * T,
        memory: 143_771.0 * MIB,
        links: ["nvlink4", "ib400"],
        source: "NVIDIA H200 Tensor Core GPU data sheet",
    },
    Device {
        name: "a100-80gb",
        half: 312.0 * T,
        fp32: 19.5 * T,
        tf32: 156.0 * T,
        bandwidth: 2.039 * T,
        memory: 81_920.0 * MIB,
        links: ["nvlink3", "ib200"],
        source: "NVIDIA A100 Tensor Core GPU data sheet, A100 80GB SXM",
    },
    Device {
        name: "a100-40gb",
        half: 312.0 * T,
        fp32: 19.5 * T,
        tf32: 156.0 * T,
        bandwidth: 1.555 * T,
        memory: 40_960.0 * MIB,
        links: ["nvlink3", "ib200"],
        source: "NVIDIA A100 Tensor Core GPU data sheet, A100 40GB SXM",
    },
    Device {
        name: "l40s",
        half: 362.05 * T,
        fp32: 91.6 * T,
        tf32: 183.0 * T,
        bandwidth: 0.864 * T,
        memory: 46_068.0 * MIB,
        links: ["pcie4", "eth100"],
        source: "NVIDIA L40S GPU data sheet",
    },
];

impl Device {
    /// Returns the device with a name, ignoring case.
    pub fn named(name: &str) -> Option<&'static Device> {
        DEVICES.iter().find(|device| device.name.eq_ignore_ascii_case(name))
    }
}

impl Device {
    /// Returns the device by the name that NVIDIA's driver reports; `None` for one that is not listed, such as the NVL
    /// models, whose rates differ.
    pub fn of_gpu(name: &str) -> Option<&'static Device> {
        let has = |word: &str| name.contains(word);
        Device::named(match () {
            () if has("NVL") => return None,
            () if has("H200") => "h200-sxm",
            () if has("H100") && has("PCIe") => "h100-pcie",
            () if has("H100") && has("HBM3") => "h100-sxm",
            () if has("A100") && (has("80GB") || has("80 GB")) => "a100-80gb",
            () if has("A100") && has("40GB") => "a100-40gb",
            () if has("L40S") => "l40s",
            () => return None,
        })
    }
}

/// The compute speed of a rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Achieved matmul rate in FLOP/s.
    pub flops: f64,
    /// Achieved memory bandwidth of other operations, in bytes per second.
    pub bytes: f64,
}

impl Speed {
    /// Returns the speed of a device for a dtype, at the fraction `efficiency` of its peak rate.
    pub fn of(device: &Device, half: bool, tf32: bool, efficiency: f64) -> Self {
        let peak = match (half, tf32) {
            (true, _) => device.half,
            (false, true) => device.tf32,
            (false, false) => device.fp32,
        };
        Speed { flops: peak * efficiency, bytes: device.bandwidth * STREAMING }
    }

    /// Returns the speed with all times multiplied by `factor`.
    pub fn slower(self, factor: f64) -> Self {
        Speed { flops: self.flops / factor, bytes: self.bytes / factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_known_by_the_names_of_the_driver() {
        for (name, wanted) in [
            ("NVIDIA H100 80GB HBM3", Some("h100-sxm")),
            ("NVIDIA H100 PCIe", Some("h100-pcie")),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA H200", Some("h200-sxm")),
            ("NVIDIA A100-SXM4-80GB", Some("a100-80gb")),
            ("NVIDIA A100-PCIE-40GB", Some("a100-40gb")),
            ("NVIDIA L40S", Some("l40s")),
            ("NVIDIA GeForce RTX 4090", None),
        ] {
            assert_eq!(Device::of_gpu(name).map(|device| device.name), wanted, "{name}");
        }
    }

    #[test]
    fn devices_are_found_by_name_and_have_their_links() {
        let h100 = Device::named("H100-SXM").unwrap();
        assert_eq!(Speed::of(h100, true, false, 0.5).flops, 494.7e12);
        assert!((Speed::of(h100, false, false, 1.0).flops - 66.9e12).abs() < 1.0);
        assert_eq!((h100.memory / 1e6).round(), 85_521.0);
        assert!(Device::named("abacus").is_none());
        for device in DEVICES {
            assert!(device.half >= device.tf32 && device.tf32 >= device.fp32, "{}", device.name);
            assert!(device.memory < 200e9 && device.memory > 42.9e9, "{}", device.name);
            assert!(device.links.iter().all(|link| crate::plan::link::Link::named(link).is_some()), "{}", device.name);
        }
    }
}
