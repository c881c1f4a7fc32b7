//! Finds libtorch through torch-sys, compiles the C++ shim against it, and writes its folder into every binary as
//! a run path, so that nobody needs LD_LIBRARY_PATH.

use std::{env, path::Path, path::PathBuf};

const SHIM: [&str; 4] = ["src/ffi/shim.cpp", "src/ffi/layers.cpp", "src/ffi/memory.cpp", "src/ffi/device.cpp"];
const HEADER: &str = "src/ffi/common.h";

fn main() {
    // torch-sys looked for libtorch and tells those who depend on it where it was.
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).unwrap_or_default();
    if !lib.join("libtorch_cpu.so").exists() {
        println!("cargo::error=no libtorch in `{}`: run launch/setup.sh, which installs it", lib.display());
        return;
    }
    compile_shim(&lib);
    link(&lib);
}

fn compile_shim(lib: &Path) {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for file in SHIM.iter().chain([&HEADER]) {
        println!("cargo::rerun-if-changed={file}");
    }
    let root = env::var_os("LIBTORCH_INCLUDE").map_or_else(|| lib.join(".."), PathBuf::from);
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(3).files(SHIM);
    build.define("_GLIBCXX_USE_CXX11_ABI", abi.as_str());
    for folder in ["include", "include/torch/csrc/api/include"] {
        // As system headers: their warnings are not ours.
        build.flag("-isystem").flag(root.join(folder));
    }
    build.compile("trainer_shim");
}

/// The arguments go to every binary, test and example of this package.
fn link(lib: &Path) {
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo::rustc-env=TRAINER_LIBTORCH_FOLDER={}", lib.display());
    if lib.join("libtorch_cuda.so").exists() {
        // Nothing of ours names a symbol in it, so the linker would drop it, and CUDA would silently be absent.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }
}
