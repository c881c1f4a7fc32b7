#!/usr/bin/env bash
# Serves MiniLM on SST-2 with `trainer serve` and with a transformers model behind FastAPI and uvicorn (dynamic batching
# and padding) alternately, and prints the ratio of throughputs, and the latencies of 64 clients. `--help` lists the
# options; PEER_PYTHON is a Python with torch, transformers, fastapi and uvicorn.
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/serve_load.py --help ;;
esac
peer=${PEER_PYTHON:-python3}
if ! "$peer" -c 'import fastapi, torch, transformers, uvicorn' 2>/dev/null; then
    say "SKIPPED: $peer has not all of fastapi, torch, transformers and uvicorn: set PEER_PYTHON"
    exit 0
fi
launch/setup.sh
launch/fetch.sh
cargo build --release --quiet
exec python3 tests/bench/serve_load.py "$@"
