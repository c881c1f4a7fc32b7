#!/usr/bin/env bash
# Run this first where there are NVIDIA GPUs. It trains the quick start's model on the CPU, on one GPU and on
# all GPUs (NCCL), and compares the losses and gradient norms of every step; then it runs the tests of NCCL.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

has_nvidia_driver || die "no NVIDIA driver is loaded here; without_a_gpu.sh shows what can be shown without one"
gpus=$(nvidia-smi -L | wc -l)
say "$gpus GPUs: $(nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c | tr -s ' ' | tr '\n' ' ')"
build_with_cuda

runs=(one-gpu)
CUDA_VISIBLE_DEVICES="" train cpu 1
train one-gpu 1
if ((gpus > 1)); then
    train all-gpus "$gpus" backend=nccl
    runs+=(all-gpus)
else
    say "one GPU here: NCCL between ranks is not shown by this run"
fi
python3 tests/gpu/compare.py runs/gpu cpu "${runs[@]}"
cargo test --release --test nccl_real -- --nocapture
cargo test --release --lib comm::nccl
