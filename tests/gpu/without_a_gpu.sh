#!/usr/bin/env bash
# What a machine without a GPU can show of the GPU's side: the binary depends on libtorch_cuda and still trains on the
# CPU; the real NCCL loads, tells its version and makes a unique id; and its refusal to start names the cause.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export CUDA_VISIBLE_DEVICES="" # where there is a GPU after all
build_with_cuda
train cuda-build-on-cpu 2 max_steps=3
say "the real NCCL in $TRAINER_NCCL_PATH"
cargo test --release --test nccl_real -- --nocapture
