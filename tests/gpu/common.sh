# shellcheck shell=bash
# A build with the full CUDA libtorch next to the normal one, which stays unchanged. Sourced.

# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

build_with_cuda() {
    LIBTORCH=$(env -u LIBTORCH launch/setup.sh --cuda --only-libtorch)
    TRAINER_NCCL_PATH=${TRAINER_NCCL_PATH:-$(realpath "$LIBTORCH/../nvidia/nccl/lib")}
    export LIBTORCH TRAINER_NCCL_PATH CARGO_TARGET_DIR=target/cuda
    trainer=$CARGO_TARGET_DIR/release/trainer
    launch/fetch.sh
    say "building $trainer"
    cargo build --release
    readelf -d "$trainer" | grep 'NEEDED.*libtorch_cuda' || die "$trainer does not depend on libtorch_cuda"
}

# train NAME RANKS key=value...: twenty steps without dropout into runs/gpu/NAME.
train() {
    say "training: $1"
    mpi_run "$2" "$trainer" train configs/quickstart.toml output_dir="runs/gpu/$1" overwrite_output_dir=true \
        max_steps=20 logging_steps=1 eval_strategy=no \
        hidden_dropout_prob=0.0 attention_probs_dropout_prob=0.0 classifier_dropout=0.0 "${@:3}"
}
