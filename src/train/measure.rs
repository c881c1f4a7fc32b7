//! What this machine does, to plan by.

use crate::nn::precision;
use crate::plan::device::Speed;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// Seconds that a measurement repeats for.
const LONG_ENOUGH: f64 = 0.15;

/// How fast products and passes over memory are on this CPU, with the threads that libtorch has now: the best of several
/// tries, as what else runs here only takes time away.
pub fn speed(kind: Kind) -> Speed {
    let _guard = tch::no_grad_guard();
    let (rows, width) = (512, 1024);
    let options = (kind, Device::Cpu);
    let (x, w) = (Tensor::ones([rows, width], options), Tensor::ones([width, width], options));
    let products = best(|| drop(precision::linear(&x, &w, None)));
    let flops = 2.0 * (rows * width * width) as f64 / products;
    // Larger than the caches.
    let from = Tensor::ones([16 << 20], (Kind::Float, Device::Cpu));
    let mut to = from.zeros_like();
    let copies = best(|| to.copy_(&from));
    Speed { flops, bytes: 2.0 * 4.0 * from.numel() as f64 / copies }
}

/// Seconds of the fastest try.
fn best(mut work: impl FnMut()) -> f64 {
    work();
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    while began.elapsed().as_secs_f64() < LONG_ENOUGH {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
