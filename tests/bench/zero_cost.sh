#!/usr/bin/env bash
# Runs the same steps at every ZeRO stage and with activation checkpointing alternately, and prints the cost of each:
# step time relative to stage 0, and communicated bytes. `--help` lists the options.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/zero_cost.py --help ;;
esac
launch/setup.sh
launch/fetch.sh
cargo build --release --quiet
mpi_environment 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 tests/bench/zero_cost.py --mpirun "mpirun ${mpi_options[*]}" --work "$work" "$@"
