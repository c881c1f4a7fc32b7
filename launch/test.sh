#!/usr/bin/env bash
# Sets up and runs all tests, in the release profile, like the quick start and the benchmark: tests run real models, and
# with one profile libtorch's bindings (minutes) are compiled once.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch/setup.sh

# Tests that start mpirun or Slurm use all cores: they run after the others, one at a time.
fast=() multi_rank=()
for file in tests/*.rs; do
    name=$(basename "$file" .rs)
    case $name in
    mpi_* | comm_* | slurm) multi_rank+=(--test "$name") ;;
    *) fast+=(--test "$name") ;;
    esac
done

say "building the tests (the first time takes minutes)"
cargo build --release --bins # the command-line tests start the binary
cargo build --release -p fake-cuda -p fake-nccl # loaded in place of libcuda and libnccl
cargo test --release --workspace --no-run --quiet

say "examples in the documentation"
cargo test --release --doc --quiet

if cargo nextest --version >/dev/null 2>&1; then
    test=(cargo nextest run --release) one_at_a_time=(--test-threads 1)
else
    test=(cargo test --release --no-fail-fast) one_at_a_time=(-- --test-threads 1)
fi
say "tests of one process"
"${test[@]}" --lib --bins "${fast[@]}"
"${test[@]}" -p fake-cuda -p fake-nccl
if ((${#multi_rank[@]})); then
    say "tests of several ranks"
    trial=$(mktemp -d)
    chmod 755 "$trial" # munged refuses a folder that other users cannot enter
    if tests/slurm/cluster.sh up "$trial/slurm"; then
        tests/slurm/cluster.sh down "$trial/slurm"
    else
        say "SKIPPED: the tests that need Slurm"
        export TRAINER_WITHOUT_SLURM="it did not start when it was tried"
    fi
    rm -rf "$trial"
    tests/hosts/hosts.sh check || say "SKIPPED: the tests that need several hosts"
    "${test[@]}" "${multi_rank[@]}" "${one_at_a_time[@]}"
fi
