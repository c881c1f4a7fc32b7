"""Checks that TensorBoard's own reader returns every number of a run's metrics.

    pip install tensorboard
    trainer train run.toml report_to=tensorboard
    python tests/reference/check_tensorboard.py OUTPUT_DIR

A run that was resumed has its earlier events of checkpoints neither in metrics.jsonl nor in the event file.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def flatten(tag, value):
    """Yields tag and number of a value of metrics.jsonl, rounded to f32 as in event files."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(f"{tag}/{key}", item)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from flatten(f"{tag}/{i}", item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield tag, struct.unpack("f", struct.pack("f", value))[0]


run = Path(sys.argv[1])
expected = {}
for line in map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
    event, step = line.pop("event", None), line.pop("step")
    for key, value in line.items():
        name = f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}"
        for tag, number in flatten(f"{event}/{key}" if event else name, value):
            expected.setdefault(tag, []).append((step, number))
events = EventAccumulator(str(run / "tensorboard"), size_guidance={SCALARS: 0})
events.Reload()
found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
wrong = sorted(tag for tag in expected.keys() | found.keys() if expected.get(tag) != found.get(tag))
for tag in wrong:
    print("differs:", tag)
print(len(expected) - len(wrong), "of", len(expected), "tags have the numbers of metrics.jsonl")
sys.exit(bool(wrong))
