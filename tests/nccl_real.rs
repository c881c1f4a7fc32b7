//! The real NCCL on a machine without a GPU: it loads, answers, and its refusal to work is told with the cause.
//!
//! With a GPU, the backend does all that a backend has to do, with one rank.
//!
//! Set `TRAINER_NCCL_PATH` to the folder of `libnccl.so.2`; without it these tests say that they skip.

#[path = "../src/comm/conformance.rs"]
mod conformance;

use std::sync::Arc;
use std::time::Duration;
use tch::Device;
use trainer::comm::nccl::{Nccl, Probe, probe, try_alone};
use trainer::comm::solo::Solo;
use trainer::comm::{Action, Collective, Op, Request};
use trainer::error;

fn have_library() -> bool {
    let set = std::env::var_os("TRAINER_NCCL_PATH").is_some();
    if !set {
        eprintln!("SKIPPED: TRAINER_NCCL_PATH does not name the folder of a libnccl.so.2");
    }
    set
}

#[test]
fn the_library_reports_its_version_and_a_unique_id() {
    if !have_library() {
        return;
    }
    let Probe { version, path, unique_id, .. } = probe().unwrap();
    println!("NCCL {version} at {path}");
    let numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    assert!(numbers.len() == 3 && numbers[0] == 2, "{version}");
    assert!(path.contains("libnccl.so"), "{path}");
    assert!(unique_id);
}

#[test]
fn a_refusal_without_a_driver_names_the_cause() {
    if !have_library() {
        return;
    }
    if tch::Cuda::is_available() {
        try_alone().unwrap();
        return;
    }
    let error = try_alone().unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("there is no NVIDIA driver on this machine: libcuda.so.1"), "{error}");
    assert!(error.contains("ncclCommInitRank failed: ") && error.contains("(NCCL error 1)"), "{error}");
}

#[test]
fn conforms_on_a_gpu() {
    if !tch::Cuda::is_available() {
        eprintln!("SKIPPED: libtorch sees no GPU");
        return;
    }
    let below = Arc::new(Solo::new(Device::Cuda(0)));
    let comm: Arc<dyn Collective> = Arc::new(Nccl::connect(below, Duration::from_secs(60)).unwrap());
    assert_eq!(comm.device(), Device::Cuda(0));
    conformance::run(&*comm);
    conformance::split(&*comm);
    comm.finish().unwrap();
}

/// NCCL without a GPU to work on is an error, not another backend.
#[test]
fn without_a_gpu_connecting_is_refused() {
    if !have_library() || tch::Cuda::is_available() {
        return;
    }
    let below = Arc::new(Solo::new(Device::Cpu));
    let error = Nccl::connect(below, Duration::from_secs(60)).err().unwrap().to_string();
    assert!(error.contains("NCCL needs a GPU") && error.contains("no NVIDIA driver"), "{error}");
}
