#!/usr/bin/env bash
# Trains a BERT of the base size from random weights at every ZeRO stage, precision and reduction type on 2 and 4 ranks,
# and prints a markdown table: the measured bytes a parameter of a rank beside the formula, and the peaks by use. Exit 1
# where one is off by more than 5 %. `--help` lists the options. Takes about 10 GB of memory and 2 GB of disk.
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
