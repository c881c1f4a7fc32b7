#!/usr/bin/env bash
# Run this first on a machine with NVIDIA GPUs: it builds this source tree with CUDA in target/cuda, and runs all parts
# of the GPU check with it; its report is in runs/gpu. With several GPUs, part 4 trains on all of them. Options go to
# check.sh. TRAINER_PYTHON is a Python with torch and transformers, for part 5.
#
# usage: tests/gpu/on_a_gpu.sh [OPTION of check.sh...]
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

has_nvidia_driver || die "no NVIDIA driver is loaded; without_a_gpu.sh checks what does not need one"
build_with_cuda
say "building the tests"
tests=$(check_tests)
rm -rf "$CARGO_TARGET_DIR/check"
mkdir "$CARGO_TARGET_DIR/check"
while read -r test file; do
    ln -s "$(realpath "$file")" "$CARGO_TARGET_DIR/check/$test"
done <<<"$tests"
exec tests/gpu/check.sh --out runs/gpu --parts 1,2,3,5,4 --seconds 1800 "$@"
