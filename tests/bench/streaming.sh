#!/usr/bin/env bash
# Streams zstd shards (20 of 100 MB of text each), and prints markdown tables: peak memory with a tenth of the shards
# and with all of them, whether a run that was killed resumes to the bit, and tokens per second beside the same data in
# memory in alternating pairs. Exits with 1 if memory grows with the data, the resumed losses differ, or streaming is
# more than 5 % slower (median of the pairs). `--help` lists the options. Needs the zstd command and public texts
# (--texts).
set -euo pipefail
# shellcheck source=SCRIPTDIR/../../launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/common.sh"

case " $* " in
*" -h "* | *" --help "*) exec python3 tests/bench/streaming.py --help ;;
esac
launch/setup.sh
cargo build --release --quiet
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 tests/bench/streaming.py --work "$work" "$@"
