#!/usr/bin/env bash
# The GPU check: check.sh [--cpu] [--seconds 540] [--out DIR] [--parts 1,2,3,5]. Runs from an unpacked bundle, or from
# the source tree after `on_a_gpu.sh` has built there, with CARGO_TARGET_DIR=target/cuda; docs/gpu.md describes it and
# its report.
set -euo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
python=${TRAINER_PYTHON:-python3}
if [[ -x $root/run ]]; then # a bundle, whose start script finds the libraries
    exec "$root/run" "$python" "$root/tests/gpu/check.py" "$@"
fi
exec "$python" "$root/tests/gpu/check.py" "$@"
