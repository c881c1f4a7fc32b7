#!/usr/bin/env bash
# Runs PyTorch DDP and `trainer` alternately on the same data and prints medians and ratios: tokens/s, seconds from start to
# first step, peak memory per rank. `--help` lists cases and options; PEER_PYTHON is a Python with torch and transformers.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/peers.py --help ;;
esac
launch/setup.sh
launch/fetch.sh
cargo build --release --quiet
mpi_environment 2
exec python3 tests/bench/peers.py --mpirun "mpirun ${mpi_options[*]}" "$@"
