#!/usr/bin/env bash
# Fine-tunes MiniLM on SST-2 by every method, next to torch and peft, and prints a table of trained parameters, speed,
# memory and accuracy. `--help` lists methods and options; PEER_PYTHON is a Python with torch, transformers and peft.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/fine_tuning.py --help ;;
esac
launch/setup.sh
launch/fetch.sh
cargo build --release --quiet
mpi_environment 2
exec python3 tests/bench/fine_tuning.py --mpirun "mpirun ${mpi_options[*]}" "$@"
