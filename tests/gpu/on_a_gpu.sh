#!/usr/bin/env bash
# Run this first where there are NVIDIA GPUs. It trains the quick start's model on the CPU, on one GPU and on
# all GPUs (NCCL), at every ZeRO stage, with recomputation and in half precision, and compares the losses and gradient
# norms of every step; it stops a run at ZeRO 3 and goes on; then it runs the tests of NCCL.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

has_nvidia_driver || die "no NVIDIA driver is loaded here; without_a_gpu.sh shows what can be shown without one"
gpus=$(nvidia-smi -L | wc -l)
say "$gpus GPUs: $(nvidia-smi --query-gpu=name --format=csv,noheader | sort | uniq -c | tr -s ' ' | tr '\n' ' ')"
build_with_cuda
mpi_run "$gpus" "$trainer" doctor --output-dir runs/gpu || die "trainer doctor has found problems"

runs=(one-gpu)
backend=auto
CUDA_VISIBLE_DEVICES="" train cpu 1
train one-gpu 1
if ((gpus > 1)); then
    backend=nccl
    train all-gpus "$gpus" backend=nccl
    runs+=(all-gpus)
else
    say "one GPU here: NCCL between ranks is not shown by this run"
fi
for stage in 1 2 3; do
    train "zero-$stage" "$gpus" backend=$backend parallel.zero_stage=$stage micro_batch_tokens=1024
    runs+=("zero-$stage")
done
train recompute "$gpus" backend=$backend parallel.zero_stage=3 parallel.recompute=all save_steps=10
# From the checkpoint of step 10 on: the later steps are the same, to the last bit or nearly.
train resumed "$gpus" backend=$backend parallel.zero_stage=3 parallel.recompute=all save_steps=10 \
    --resume runs/gpu/recompute/checkpoint-10
runs+=(recompute resumed)
python3 tests/gpu/compare.py runs/gpu cpu "${runs[@]}"
for precision in bf16 fp16; do
    more=("parallel.precision=$precision")
    # A scale that does not overflow at the start: skipped steps would differ.
    if [[ $precision == fp16 ]]; then more+=(parallel.loss_scale_init=256); fi
    CUDA_VISIBLE_DEVICES="" train "cpu-$precision" 1 "${more[@]}"
    train "$precision" "$gpus" backend=$backend parallel.zero_stage=2 "${more[@]}"
    python3 tests/gpu/compare.py --loss 3e-2 --norm 2e-1 runs/gpu "cpu-$precision" "$precision"
done
cargo test --release --test nccl_real -- --nocapture
cargo test --release --lib comm::nccl
