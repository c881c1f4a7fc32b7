"""Does transformers read what `trainer` exports, of every family in every role? Run by hand.

    TRAINER_EXPORTS=DIR cargo test --release --test families -- --ignored write_every_export
    python tests/reference/check_cases.py DIR          # torch 2.13, transformers 5.23

Fails (exit 1) on a missing, unexpected or misshapen weight, on a weight that differs from the case's own in a bit, and on
another architecture or type.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers.utils import logging

CASES = Path(__file__).resolve().parent / "cases"


def load(folder, cls):
    model, info = cls.from_pretrained(folder, dtype="auto", output_loading_info=True)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        sys.exit(f"{folder}: transformers does not read it cleanly: {wrong}")
    return model


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folders = sorted(Path(sys.argv[1]).iterdir())
    if [folder.name for folder in folders] != sorted(folder.name for folder in CASES.iterdir()):
        sys.exit("the exports are not those of all cases")
    for folder in folders:
        case = CASES / folder.name
        [name], [before] = (json.loads((f / "config.json").read_text())["architectures"] for f in (folder, case))
        if name != before:
            sys.exit(f"{folder}: the architecture is {name}, not {before}")
        ours, theirs = (load(f, getattr(transformers, name)).state_dict() for f in (folder, case))
        for key, value in theirs.items():
            if ours[key].dtype != value.dtype or not torch.equal(ours[key], value):
                sys.exit(f"{folder}: {key} differs")
        print(f"{folder.name}: {name}, {len(theirs)} tensors")


if __name__ == "__main__":
    main()
