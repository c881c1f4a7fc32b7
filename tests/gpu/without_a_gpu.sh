#!/usr/bin/env bash
# Checks the GPU code on a machine without a GPU: the binary depends on libtorch_cuda and still trains on the CPU; the
# real NCCL loads, reports its version and creates a unique id; and its refusal to start has the cause.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

export CUDA_VISIBLE_DEVICES="" # in case there is a GPU
build_with_cuda
train cuda-build-on-cpu 2 max_steps=3
say "the real NCCL in $TRAINER_NCCL_PATH"
cargo test --release --test nccl_real -- --nocapture
