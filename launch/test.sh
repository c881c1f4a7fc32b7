#!/usr/bin/env bash
# Sets up and runs all tests, or with `fast` the quick ones: within two minutes once they are built. Tests are built in
# the release profile, as the quick start and the benchmark are: they run real models, and one profile means that
# libtorch's bindings (minutes) are compiled once.
#
# usage: launch/test.sh [fast]
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Besides the unit tests, what `fast` runs: test files of one process that take a few seconds each.
readonly quick="architecture documents wording launch resume equivalence half plan_blocks tasks_binary tasks_tagging"

mode=${1:-all}
[[ $mode == all || $mode == fast ]] || die "usage: launch/test.sh [fast]"

launch/setup.sh

if cargo nextest --version >/dev/null 2>&1; then
    test=(cargo nextest run --release) one_at_a_time=(--test-threads 1)
else
    test=(cargo test --release --no-fail-fast) one_at_a_time=(-- --test-threads 1)
fi

# In one process: a process for each of them would load libtorch hundreds of times.
unit_tests() {
    say "unit tests"
    cargo test --release --lib --bins --quiet
}

if [[ $mode == fast ]]; then
    selected=()
    for name in $quick; do
        selected+=(--test "$name")
    done
    say "building the quick tests (the first time takes minutes)"
    cargo test --release --lib --bins "${selected[@]}" --no-run --quiet
    unit_tests
    say "quick tests"
    "${test[@]}" "${selected[@]}"
    exit
fi

# Tests that start mpirun, or Slurm, use all the cores by themselves: they run after the rest, one at a time.
one_process=() multi_rank=()
for file in tests/*.rs tests/*/main.rs; do
    [[ $file == */main.rs ]] && file=$(dirname "$file")
    name=$(basename "$file" .rs)
    case $name in
    mpi_* | comm_* | slurm) multi_rank+=(--test "$name") ;;
    *) one_process+=(--test "$name") ;;
    esac
done

say "building the tests (the first time takes minutes)"
cargo build --release --bins # the command-line tests start the binary
cargo build --release -p fake-cuda -p fake-nccl # loaded in place of libcuda and libnccl
cargo test --release --workspace --no-run --quiet

say "examples in the documentation of the code"
cargo test --release --doc --quiet

unit_tests
say "tests of one process"
"${test[@]}" "${one_process[@]}"
"${test[@]}" -p fake-cuda -p fake-nccl
# Together with this package, so that libtorch's bindings have the same features and are not compiled again.
kernels=()
for file in tests/kernels/tests/*.rs; do
    kernels+=(--test "$(basename "$file" .rs)")
done
"${test[@]}" -p trainer -p kernel-tests "${kernels[@]}"
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
