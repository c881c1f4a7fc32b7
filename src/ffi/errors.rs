//! From the error texts of CUDA and of the libraries above it to a kind of error and a remedy.

use crate::error::{Error, Kind};

/// Texts of libtorch, of the CUDA driver and of NCCL, in lower case; the kind that they tell; and what to do.
const FAULTS: &[(&[&str], Kind, &str)] = &[
    (
        &["out of memory", "can't allocate memory", "memoryallocation", "error_out_of_memory", "status_alloc_failed"],
        Kind::OutOfMemory,
        "what takes less: a smaller micro_batch_tokens, parallel.recompute = \"all\", parallel.precision = \"bf16\", a higher \
         parallel.zero_stage on more ranks",
    ),
    (
        &["driver version is insufficient"],
        Kind::Other,
        "update the NVIDIA driver to one for the CUDA of this libtorch: `trainer doctor` shows both",
    ),
    (
        &["no kernel image is available"],
        Kind::Other,
        "this libtorch has no code for this GPU: it is too old or too new for that build",
    ),
    (
        &["ecc error"],
        Kind::Other,
        "the memory of this GPU is faulty: see `nvidia-smi -q -d ECC`, and leave the GPU out by CUDA_VISIBLE_DEVICES until \
         it is reset or replaced",
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
        "CUDA tells of errors late: start once more with CUDA_LAUNCH_BLOCKING=1 to find the operation",
    ),
];

/// The error behind a text of CUDA's or of a library above it, with what to do; other texts become plain errors.
pub fn error(text: &str) -> Error {
    let lower = text.to_lowercase();
    match FAULTS.iter().find(|(signs, ..)| signs.iter().any(|sign| lower.contains(sign))) {
        // A text that has passed here before.
        Some((_, kind, remedy)) if text.contains(remedy) => Error::new(*kind, text),
        Some((_, kind, remedy)) => Error::new(*kind, format!("{}; {remedy}", text.trim_end_matches('.'))),
        None => Error::other(text),
    }
}
