#!/usr/bin/env bash
# Fuzzes the readers of files: each target for a number of seconds. What is found beyond the corpus is in
# target/fuzz/corpus, files that fail in target/fuzz/artifacts. Run by hand; tests/data_files.rs reads the corpus in CI.
#
# usage: tests/fuzz/run.sh SECONDS [TARGET ...]
#
# Needs a C++ compiler, launch/setup.sh, and: cargo install cargo-fuzz --locked
# The first run compiles everything for fuzzing: minutes. Without a nightly toolchain the stable one is used
# (RUSTC_BOOTSTRAP). Reduce a file that fails, then add it to the corpus:
#
#   cargo fuzz tmin --fuzz-dir tests/fuzz --sanitizer none TARGET FILE
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

[[ ${1-} =~ ^[1-9][0-9]*$ ]] || die "usage: tests/fuzz/run.sh SECONDS [TARGET ...]"
readonly seconds=$1
shift
cargo fuzz --version >/dev/null 2>&1 || die "there is no cargo-fuzz: cargo install cargo-fuzz --locked"
[[ -e Cargo.lock ]] || die "there is no Cargo.lock: run launch/setup.sh"

# The same libtorch and versions of crates as the program.
cp Cargo.lock tests/fuzz/Cargo.lock
libtorch=${LIBTORCH:-$(sed -n "s/^LIBTORCH = { value = '\(.*\)', .*/\1/p" .cargo/config.toml)}
export LIBTORCH=$libtorch LD_LIBRARY_PATH="$libtorch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
rustc --version | grep -q nightly || export RUSTC_BOOTSTRAP=1

targets=("$@")
if ((${#targets[@]} == 0)); then
    for file in tests/fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi
# seeds TARGET FOLDER: copies the valid files that the target has besides its corpus.
seeds() {
    local of path
    while read -r of path; do
        [[ $of != "$1" ]] || cp "tests/reference/$path" "$2/${path//\//-}"
    done <tests/fuzz/seeds.txt
}
failed=()
for target in "${targets[@]}"; do
    say "$target"
    work=target/fuzz/corpus/$target
    mkdir -p "$work" "target/fuzz/artifacts/$target"
    seeds "$target" "$work"
    cargo fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz/build --sanitizer none "$target" \
        "$work" "tests/fuzz/corpus/$target" -- -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
        -artifact_prefix="target/fuzz/artifacts/$target/" -print_final_stats=1 || failed+=("$target")
    rm -rf /dev/shm/trainer-fuzz-*-"$target"
done
((${#failed[@]} == 0)) || die "files that fail, in target/fuzz/artifacts: ${failed[*]}"
