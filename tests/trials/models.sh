#!/usr/bin/env bash
# Creates the models for the trials from scratch in models/: each has the config.json next to this script, and a
# tokenizer trained on the trial's text. Needs target/release/trainer and data/ (tests/trials/prepare.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly trainer=target/release/trainer from=tests/trials/models

# make NAME OPTIONS...: the tokenizer's options.
make() {
    local name=$1
    shift
    mkdir -p "models/$name"
    rm -f "models/$name"/tokenizer*.json
    cp "$from/$name"/* "models/$name/"
    "$trainer" tokenizer --output "models/$name" "$@"
}

make shakespeare-gpt2 --kind chars --family gpt2 --input data/shakespeare/train.txt
make multi30k-t5 --kind unigram --family t5 --vocab-size 4000 --format text \
    --input data/multi30k/train.en.gz --input data/multi30k/train.de.gz
make self-instruct-llama --kind bpe --family llama --vocab-size 2000 --special-token "<|im_start|>" \
    --special-token "<|im_end|>" --input data/self-instruct/train.txt
