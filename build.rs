//! Finds libtorch through torch-sys, compiles the C++ shim against it, and writes its folder into every binary as
//! a run path, so that nobody needs LD_LIBRARY_PATH. With TRAINER_RELOCATABLE the run path is a bundle's.

mod build_kernels;

use std::{env, fs, path::Path, path::PathBuf};

/// Lines of a libtorch's version and that of the tch that binds it.
const VERSIONS: &str = include_str!("launch/libtorch/versions");
const SHIM: [&str; 15] = [
    "src/ffi/shim.cpp",
    "src/ffi/device.cpp",
    "src/ffi/memory.cpp",
    "src/ffi/profiler.cpp",
    "src/ffi/transfer.cpp",
    "src/ops/attention/cpu.cpp",
    "src/ops/cross_entropy/cpu.cpp",
    "src/ops/dropout/cpu.cpp",
    "src/ops/gated/cpu.cpp",
    "src/ops/global_attention/cpu.cpp",
    "src/ops/linear/cpu.cpp",
    "src/ops/linear/int8.cpp",
    "src/ops/norm/cpu.cpp",
    "src/ops/rotary/cpu.cpp",
    "src/ops/vector.cpp",
];
const HEADERS: [&str; 3] = ["src/ffi/common.h", "src/ops/dropout/mask.h", "src/ops/vector.h"];
/// The CUDA kernels' part of the shim, which embeds their sources.
const KERNELS: [&str; 7] = [
    "src/ops/cuda/compiler.cpp",
    "src/ops/cuda/elementwise.cpp",
    "src/ops/cuda/flash.cpp",
    "src/ops/cuda/launch.cpp",
    "src/ops/cuda/norms.cpp",
    "src/ops/cuda/reductions.cpp",
    "src/ops/cuda/state.cpp",
];
const KERNEL_HEADERS: [&str; 5] = [
    "src/ops/cuda/compiler.h",
    "src/ops/cuda/flash.h",
    "src/ops/cuda/kernels.h",
    "src/ops/cuda/launch.h",
    "src/ops/cuda/shape.h",
];
/// Set by launch/bundle.sh: the binaries name no folder of this machine.
const RELOCATABLE: &str = "TRAINER_RELOCATABLE";

fn main() {
    // torch-sys looked for libtorch and tells those who depend on it where it was.
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).unwrap_or_default();
    if !lib.join("libtorch_cpu.so").exists() {
        println!("cargo::error=no libtorch in `{}`: run launch/setup.sh, which installs it", lib.display());
        return;
    }
    let root = env::var_os("LIBTORCH_INCLUDE").map_or_else(|| lib.join(".."), PathBuf::from);
    if let Err(problem) = check_version(&root) {
        println!("cargo::error={problem}: run launch/setup.sh, which selects libtorch and the Cargo.lock for it");
        return;
    }
    compile_shim(&root);
    link(&lib);
}

/// The libtorch must be the one that the tch in Cargo.lock binds: others compile, some of them, and then misbehave.
fn check_version(root: &Path) -> Result<(), String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
    let header = root.join("include/torch/headeronly/version.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let text = read(&header)?;
    let found = text.split('"').nth(1).ok_or(format!("{}: no version", header.display()))?;
    let lock = Path::new(&env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let text = read(&lock)?;
    let tch = text.split_once("name = \"tch\"\nversion = \"").and_then(|(_, rest)| rest.split('"').next());
    let tch = tch.ok_or(format!("{}: no tch", lock.display()))?;
    let pairs = || VERSIONS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    if pairs().any(|pair| pair == (found, tch)) {
        return Ok(());
    }
    let supported: Vec<String> = pairs().map(|(libtorch, tch)| format!("libtorch {libtorch} with tch {tch}")).collect();
    let place = root.display();
    Err(format!("libtorch in {place} is {found} and Cargo.lock has tch {tch}; supported: {}", supported.join(", ")))
}

fn compile_shim(root: &Path) {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    for file in SHIM.iter().chain(&HEADERS).chain(&KERNELS).chain(&KERNEL_HEADERS) {
        println!("cargo::rerun-if-changed={file}");
    }
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(problem) = build_kernels::embed(Path::new(""), &out) {
        println!("cargo::error=the CUDA kernels cannot be embedded: {problem}");
        return;
    }
    // Clippy links nothing, and cargo runs this script for it a second time.
    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
    if env::var_os("RUSTC_WORKSPACE_WRAPPER").is_some_and(|wrapper| Path::new(&wrapper).ends_with("clippy-driver")) {
        return;
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(3).files(SHIM).files(KERNELS).include(&out);
    // Lines for backtraces; full debug information of libtorch's headers would take as long as the compilation.
    build.debug(false).flag("-g1");
    // Loops marked `omp simd` are vectorized, without threads of OpenMP; no call sets errno.
    build.flag("-fopenmp-simd").flag("-fno-math-errno");
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
    println!("cargo::rerun-if-env-changed={RELOCATABLE}");
    if env::var_os(RELOCATABLE).is_some() {
        // Below the bundle's root, from bin/trainer.
        for folder in ["mpi/lib", "libtorch/torch/lib"] {
            println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../{folder}");
        }
    } else {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo::rustc-env=TRAINER_LIBTORCH_FOLDER={}", lib.display());
    }
    if lib.join("libtorch_cuda.so").exists() {
        // Nothing of ours names a symbol in it, so the linker would drop it, and CUDA would silently be absent.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }
}
