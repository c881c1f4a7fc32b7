//! The device under test, and how far from the reference values a result may be there.

use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;
use tch::{Cuda, Device, Kind, Tensor};

static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let name = std::env::var("TRAINER_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    match name.as_str() {
        "cpu" => Device::Cpu,
        "cuda" => {
            assert!(Cuda::is_available(), "TRAINER_TEST_DEVICE=cuda, but libtorch sees no GPU");
            // The tolerances of fp32 are those of fp32.
            trainer::ffi::set_tf32(false).unwrap();
            Device::Cuda(0)
        }
        _ => panic!("TRAINER_TEST_DEVICE={name}: cpu or cuda"),
    }
});

/// The device under test: `TRAINER_TEST_DEVICE`, `cpu` (the default) or `cuda`, which is the first GPU.
pub fn device() -> Device {
    // Each thread has a current device of its own.
    trainer::ffi::device::set_current(*DEVICE).unwrap();
    *DEVICE
}

/// How far a result may be from its reference value: a row of the table in `docs/gpu.md`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Tolerance {
    /// Of the largest element of the output, or of 1 where that is larger.
    pub output: f64,
    /// Relative.
    pub loss: f64,
    /// Of the gradient tensor's norm.
    pub gradient: f64,
    /// Of the norm of all gradients: enough for a tensor whose own gradient is small beside them.
    pub of_all: f64,
}

/// The tolerance for this dtype on the device under test.
pub fn tolerance(kind: Kind) -> Tolerance {
    static TABLE: LazyLock<HashMap<String, HashMap<String, Tolerance>>> =
        LazyLock::new(|| serde_json::from_str(include_str!("../gpu/tolerances.json")).unwrap());
    let device = if device() == Device::Cpu { "cpu" } else { "cuda" };
    let dtype = match kind {
        Kind::Float => "fp32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "fp16",
        _ => panic!("{kind:?} is not a compute dtype"),
    };
    TABLE[device][dtype]
}

impl Tolerance {
    /// So many times as wide.
    pub fn times(self, factor: f64) -> Self {
        let Tolerance { output, loss, gradient, of_all } = self;
        let [output, loss, gradient, of_all] = [output, loss, gradient, of_all].map(|limit| limit * factor);
        Tolerance { output, loss, gradient, of_all }
    }

    /// Compares outputs or logits: what is wrong, if anything is.
    pub fn check_output(&self, name: &str, ours: &Tensor, wanted: &Tensor) -> Result<(), String> {
        if ours.size() != wanted.size() {
            return Err(format!("{name}: shape {:?}, reference {:?}", ours.size(), wanted.size()));
        }
        let (ours, wanted) = (host(ours), host(wanted));
        let difference = (ours - &wanted).abs().max().double_value(&[]);
        let limit = self.output * wanted.abs().max().double_value(&[]).max(1.0);
        within(difference, limit)
            .then_some(())
            .ok_or_else(|| format!("{name}: off by {difference:.1e}, limit {limit:.1e}"))
    }

    /// Compares a loss.
    pub fn check_loss(&self, ours: f64, wanted: f64) -> Result<(), String> {
        let difference = ((ours - wanted) / wanted).abs();
        within(difference, self.loss).then_some(()).ok_or_else(|| {
            format!("loss: {ours}, reference {wanted}: off by {difference:.1e}, limit {:.1e}", self.loss)
        })
    }

    /// Compares the gradient of a tensor; `all` is the norm of all gradients together.
    pub fn check_gradient(&self, name: &str, ours: &Tensor, wanted: &Tensor, all: f64) -> Result<(), String> {
        if ours.size() != wanted.size() {
            return Err(format!("gradient of {name}: shape {:?}, reference {:?}", ours.size(), wanted.size()));
        }
        let (ours, wanted) = (host(ours), host(wanted));
        let (difference, norm) = ((ours - &wanted).norm().double_value(&[]), wanted.norm().double_value(&[]));
        let limit = (self.gradient * norm).max(self.of_all * all);
        within(difference, limit).then_some(()).ok_or_else(|| {
            format!("gradient of {name}: off by {difference:.1e}, limit {limit:.1e}, its norm {norm:.1e}")
        })
    }
}

/// NaN is not within anything.
fn within(difference: f64, limit: f64) -> bool {
    difference <= limit
}

fn host(x: &Tensor) -> Tensor {
    x.to_device(Device::Cpu).to_kind(Kind::Double)
}
