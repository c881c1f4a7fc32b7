#!/usr/bin/env bash
# Trains a BERT base model from newly initialized weights at every ZeRO stage, precision and reduction dtype on 2 and 4
# ranks, and prints a markdown table: measured and computed bytes per parameter and rank, and the peaks by use. Exits
# with 1 if one differs by more than 5 %. `--help` lists the options. Needs about 10 GB of memory and 2 GB of disk.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/memory.py --help ;;
esac
launch/setup.sh
cargo build --release --quiet
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mpi_environment 4
python3 tests/bench/memory.py --mpirun "mpirun ${mpi_options[*]}" --work "$work" "$@"
