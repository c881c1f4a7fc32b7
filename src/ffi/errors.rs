//! Maps error texts of CUDA and of the libraries above it to a kind of error and a remedy.

use crate::error::{Error, Kind};

/// Texts of libtorch, the CUDA driver and NCCL in lower case, with the kind of error and the remedy.
const FAULTS: &[(&[&str], Kind, &str)] = &[
    (
        &["out of memory", "can't allocate memory", "memoryallocation", "error_out_of_memory", "status_alloc_failed"],
        Kind::OutOfMemory,
        "to use less memory: a smaller micro_batch_tokens, parallel.recompute = \"all\", parallel.precision = \
         \"bf16\", a higher parallel.zero_stage on more ranks",
    ),
    (
        &["driver version is insufficient"],
        Kind::Other,
        "update the NVIDIA driver to a version for this libtorch's CUDA: `trainer doctor` shows both",
    ),
    (
        &["no kernel image is available"],
        Kind::Other,
        "this libtorch has no code for this GPU, which is too old or too new for the build",
    ),
    (
        &["ecc error"],
        Kind::Other,
        "the memory of this GPU is defective: check `nvidia-smi -q -d ECC`, and exclude the GPU by \
         CUDA_VISIBLE_DEVICES until it is reset or replaced",
    ),
    (
        &[
            "cuda error",
            "cuda failure",
            "unhandled cuda error",
            "illegal memory access",
            "device-side assert",
            "unspecified launch failure",
            "misaligned address",
            "illegal instruction",
            "cublas_status_",
            "cudnn_status_",
        ],
        Kind::Other,
        "CUDA reports errors late: run again with CUDA_LAUNCH_BLOCKING=1 to find the operation",
    ),
];

/// Converts a text of CUDA or of a library above it to an error with its remedy; other texts become plain errors.
pub fn error(text: &str) -> Error {
    let lower = text.to_lowercase();
    match FAULTS.iter().find(|(signs, ..)| signs.iter().any(|sign| lower.contains(sign))) {
        // The text already has its remedy.
        Some((_, kind, remedy)) if text.contains(remedy) => Error::new(*kind, text),
        Some((_, kind, remedy)) => Error::new(*kind, format!("{}; {remedy}", text.trim_end_matches('.'))),
        None => Error::other(text),
    }
}
