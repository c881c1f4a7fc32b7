//! Where a run runs: versions, devices, ranks.

use crate::comm::Collective;
use crate::ffi;
use crate::machine::{gpus, host_name};
use crate::observe::logs;
use tch::Device;

/// Returns names and values. Rank 0 calls it at the start of a run.
pub fn environment(comm: &dyn Collective) -> Vec<(&'static str, String)> {
    let device = match comm.device() {
        Device::Cuda(ordinal) => {
            let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
            let all = gpus::by_nvml().unwrap_or_default();
            let own = gpus::visible(&all, visible.as_deref()).get(ordinal).map(|gpu| gpu.name.clone());
            own.unwrap_or_else(|| format!("GPU {ordinal}"))
        }
        _ => "CPU".to_owned(),
    };
    vec![
        ("started", logs::now()),
        ("trainer", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", ffi::libtorch_version()),
        ("host of rank 0", host_name()),
        ("device of rank 0", device),
        ("ranks", format!("{} ({})", comm.world(), comm.name())),
        ("CPU threads per rank", tch::get_num_threads().to_string()),
    ]
}
