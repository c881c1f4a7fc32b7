//! Writes the CUDA sources of `src/ops` as one C++ string, for `build.rs` and for `tests/kernels`.

use std::{fmt::Write, fs, io, path::Path};

/// The kernels' sources in `src/ops`.
const KERNELS: [&str; 7] = [
    "norm/rms.cu",
    "norm/layer.cu",
    "rotary/kernel.cu",
    "gated/kernel.cu",
    "cross_entropy/kernel.cu",
    "gradient_norm/kernel.cu",
    "dropout/kernel.cu",
];

/// Writes `kernel_sources.h` to the folder `to`: a constant with the prelude and the kernels of every operation, with
/// their file names for the compiler's messages. `root` is the root of the source tree.
pub fn embed(root: &Path, to: &Path) -> io::Result<()> {
    let mut text = "namespace kernels {\n\ninline constexpr char SOURCE[] =\n".to_owned();
    let files = KERNELS.iter().map(|kernel| format!("src/ops/{kernel}"));
    for file in ["src/ops/cuda/prelude.cu".to_owned()].into_iter().chain(files) {
        println!("cargo::rerun-if-changed={}", root.join(&file).display());
        let source = fs::read_to_string(root.join(&file))?;
        _ = writeln!(text, "R\"CUDA(#line 1 \"{file}\"\n{source})CUDA\"");
    }
    text += ";\n\n}  // namespace kernels\n";
    fs::write(to.join("kernel_sources.h"), text)
}
