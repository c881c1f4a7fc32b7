#!/usr/bin/env bash
# From a new clone to a trained classifier: sets up, builds, downloads a real encoder and real articles, fine-tunes on
# two ranks and shows predictions. What exists already is not downloaded, built or prepared again.
#
# usage: launch/quickstart.sh [-n RANKS] [key=value...]      the settings go to `trainer train`
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ranks=2
if [[ ${1:-} == -n ]]; then
    ranks=${2:?-n needs a number of ranks}
    shift 2
fi
readonly trainer=target/release/trainer run=runs/quickstart

launch/setup.sh
say "building (the first time takes minutes)"
cargo build --release

launch/fetch.sh

say "training: mpirun -n $ranks $trainer train configs/quickstart.toml"
mpi_run "$ranks" "$trainer" train configs/quickstart.toml output_dir=$run overwrite_output_dir=true "$@"

say "predicting one held-out article of each topic"
python3 launch/bbc_news.py sample data/bbc/eval.jsonl $run/articles.jsonl
"$trainer" predict --model $run/final --input $run/articles.jsonl --output $run/predictions.jsonl
python3 launch/bbc_news.py show $run/articles.jsonl $run/predictions.jsonl

cat <<EOF

The classifier is in $run/final, its log in $run/metrics.jsonl. Next:
  classify your own    $trainer predict --model $run/final --input yours.jsonl --output out.jsonl
                       with {"text": "..."} a line
  train your own       copy configs/quickstart.toml, change [data] and [model], and run
                       mpirun -n $ranks $trainer train yours.toml
  every setting        docs/configuration.md
EOF
