//! Operations on tensors that layers are made of. Each is a folder with its implementations, backward, cost and tests.
//!
//! Code above this module does not ask on which device it runs; an operation knows no model, no parameter and no rank.
//! Random operations take a key ([`crate::nn::rng`]). Implementations are autograd functions in C++ (`cpu.cpp`), for the
//! CPU and for GPUs that have the CUDA kernels; elsewhere libtorch's operations compute the same.

pub mod attention;
pub mod cost;
pub mod cross_entropy;
pub mod dropout;
pub mod gated;
pub mod global_attention;
pub mod linear;
pub mod noise;
pub mod norm;
pub mod rotary;
#[cfg(test)]
mod testing;

pub use cost::{ComputeMode, Cost};

use crate::error::Result;
use tch::Tensor;

/// Returns the result of an operation; an error of libtorch panics, as in tch.
fn done<T>(result: Result<T>, what: &str, x: &Tensor) -> T {
    result.unwrap_or_else(|e| panic!("{what} of {:?}: {e}", x.size()))
}
