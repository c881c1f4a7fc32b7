"""Checks that `transformers` tokenizes exported folders as in training.

    TOKENIZER_EXPORTS=/tmp/exports cargo test --release --lib pretrained
    python tests/reference/check_tokenizers.py /tmp/exports

The test writes one folder for each case of `tokenizers/cases.json`, with the files that an export adds.
"""

import json
import sys
from pathlib import Path

from tokenizers_reference import FOLDER, values
from transformers import AutoTokenizer

exports = Path(sys.argv[1])
cases = json.loads((FOLDER / "cases.json").read_text())
wrong = 0
for i, case in enumerate(cases):
    found = values(AutoTokenizer.from_pretrained(exports / str(i)))
    if any(found[key] != case[key] for key in found):
        print("differs:", case["name"])
        wrong += 1
print(len(cases) - wrong, "of", len(cases), "folders have the ids of training")
sys.exit(wrong > 0)
