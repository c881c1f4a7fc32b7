#!/usr/bin/env bash
# Compares times predicted by `trainer plan` with measured ones: a step of two ranks as planned from one rank, and each
# collective at two and four ranks. Prints ratios without judging them. `--help` lists the options.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/plan_time.py --help ;;
esac
launch/setup.sh
launch/fetch.sh
cargo build --release --quiet
mpi_environment 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 tests/bench/plan_time.py --mpirun "mpirun ${mpi_options[*]}" --work "$work" "$@"
