//! Compiles the CUDA kernels and their functions of tensors for the CPU, against the libtorch that torch-sys found.

#[path = "../../build_kernels.rs"]
mod build_kernels;

use std::{env, path::Path, path::PathBuf};

const SOURCES: [&str; 7] = [
    "tests/kernels/emulated.cpp",
    "tests/kernels/emulate.cpp",
    "tests/kernels/functions.cpp",
    "src/ops/cuda/compiler.cpp",
    "src/ops/cuda/elementwise.cpp",
    "src/ops/cuda/norms.cpp",
    "src/ops/cuda/reductions.cpp",
];

const HEADERS: [&str; 6] = [
    "tests/kernels/emulate.h",
    "tests/kernels/kernels_of_element.h",
    "src/ops/cuda/compiler.h",
    "src/ops/cuda/kernels.h",
    "src/ops/cuda/launch.h",
    "src/ops/cuda/shape.h",
];

fn main() {
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).unwrap_or_default();
    let torch = env::var_os("LIBTORCH_INCLUDE").map_or_else(|| lib.join(".."), PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(problem) = build_kernels::embed(&root, &out) {
        println!("cargo::error=the CUDA kernels cannot be embedded: {problem}");
        return;
    }
    for file in SOURCES.iter().chain(&HEADERS) {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(1)
        .flag("-Wno-unknown-pragmas")
        .include(&out)
        .include(root.join("src/ops/cuda"));
    build.define("_GLIBCXX_USE_CXX11_ABI", env::var("LIBTORCH_CXX11_ABI").as_deref().unwrap_or("1"));
    for folder in ["include", "include/torch/csrc/api/include"] {
        build.flag("-isystem").flag(torch.join(folder));
    }
    // The kernels register themselves: nothing names a symbol of their file but kernel_names.
    build.files(SOURCES.map(|file| root.join(file))).compile("kernels_on_cpu");
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    println!("cargo::rustc-env=KERNELS_LIBTORCH={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
