//! The GPUs that are visible to this process according to the CUDA driver: `CUDA_VISIBLE_DEVICES` and the order of GPUs
//! are the driver's, while NVML reports all GPUs of the host.

use super::cuda;
use super::library::functions;
use crate::error::Result;
use cudarc::driver::sys::CUdevice;
use std::ffi::{CStr, c_char, c_int};

functions!(Functions {
    fn cuDriverGetVersion(*mut c_int) -> c_int;
    fn cuDeviceGetName(*mut c_char, c_int, CUdevice) -> c_int;
    fn cuDeviceTotalMem_v2(*mut usize, CUdevice) -> c_int;
    fn cuDeviceGetPCIBusId(*mut c_char, c_int, CUdevice) -> c_int;
});

functions!(Attributes {
    fn cuDeviceGetAttribute(*mut c_int, c_int, CUdevice) -> c_int;
});

const CAPABILITY_MAJOR: c_int = 75; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR

/// Returns a GPU's major compute capability, from 8 on with bf16 and TF32; `None` if unknown.
pub fn capability(ordinal: usize) -> Option<u32> {
    let (attributes, mut major) = (Attributes::load(cuda::library().ok()?).ok()?, 0);
    let device = cuda::count().and_then(|_| cuda::device(ordinal)).ok()?;
    // SAFETY: a device of the driver's own; a pointer to a live variable.
    let code = unsafe { (attributes.cuDeviceGetAttribute)(&mut major, CAPABILITY_MAJOR, device) };
    u32::try_from(major).ok().filter(|_| code == 0)
}

/// A working driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Newest supported CUDA version, such as "13.0"; `None` if unknown.
    pub cuda: Option<String>,
    /// In the order of CUDA and libtorch.
    pub gpus: Vec<Gpu>,
}

/// A visible GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Memory in bytes.
    pub memory: u64,
    /// PCI bus id, such as "0000:18:00.0".
    pub bus_id: String,
}

/// Queries the driver without creating a context. `None` if there is no driver.
///
/// # Errors
/// The error of a broken driver.
pub fn query() -> Result<Option<Driver>> {
    if cuda::library().is_err() {
        return Ok(None);
    }
    let count = cuda::count()?;
    // A driver without these functions is older than any that we support: then only the number is known.
    let functions = cuda::library().ok().and_then(|library| Functions::load(library).ok());
    let Some(functions) = functions else {
        let unknown = Gpu { name: "unknown".into(), memory: 0, bus_id: "unknown".into() };
        return Ok(Some(Driver { cuda: None, gpus: vec![unknown; count] }));
    };
    let gpus = (0..count).map(|ordinal| functions.describe(ordinal)).collect::<Result<_>>()?;
    let mut version = 0;
    // SAFETY: a pointer to a live variable.
    let known = unsafe { (functions.cuDriverGetVersion)(&mut version) } == 0;
    Ok(Some(Driver { cuda: known.then(|| dotted(version)), gpus }))
}

impl Functions {
    fn describe(&self, ordinal: usize) -> Result<Gpu> {
        const LENGTH: usize = 256;
        let (mut name, mut bus_id, mut memory) = ([0; LENGTH], [0; LENGTH], 0);
        let device = cuda::device(ordinal)?;
        // SAFETY: a device of the driver's own; live variables; the driver writes at most the given length.
        let codes = unsafe {
            [
                ("cuDeviceGetName", (self.cuDeviceGetName)(name.as_mut_ptr(), LENGTH as c_int, device)),
                ("cuDeviceTotalMem", (self.cuDeviceTotalMem_v2)(&mut memory, device)),
                ("cuDeviceGetPCIBusId", (self.cuDeviceGetPCIBusId)(bus_id.as_mut_ptr(), LENGTH as c_int, device)),
            ]
        };
        codes.into_iter().try_for_each(|(call, code)| cuda::check(call, code))?;
        // SAFETY: the driver ends what it writes with a zero, and all else is zero.
        let [name, bus_id] = [&name, &bus_id].map(|text| unsafe { CStr::from_ptr(text.as_ptr()) });
        Ok(Gpu {
            name: name.to_string_lossy().into_owned(),
            memory: memory as u64,
            bus_id: bus_id.to_string_lossy().to_lowercase(),
        })
    }
}

/// Formats the driver's number of a CUDA version (`1000 * major + 10 * minor`).
fn dotted(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_like_versions() {
        assert_eq!(dotted(13000), "13.0");
        assert_eq!(dotted(12090), "12.9");
    }

    #[test]
    fn a_machine_has_a_driver_or_has_none() {
        if let Ok(Some(driver)) = query() {
            assert!(driver.gpus.iter().all(|gpu| !gpu.bus_id.is_empty()));
        }
    }
}
