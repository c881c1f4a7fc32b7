"""Compares runs step by step: compare.py [--loss L] [--norm N] FOLDER REFERENCE RUN...; exits 1 where one strays.

Loss within 1e-3 and gradient norm within 1e-2, relative, unless said otherwise: fp32 sums in another order, over twenty
steps of AdamW.
"""

import argparse
import json
import os
import sys


def steps(folder, run):
    with open(os.path.join(folder, run, "metrics.jsonl"), encoding="utf-8") as lines:
        return {line["step"]: line for line in map(json.loads, lines) if "loss" in line}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--loss", type=float, default=1e-3)
parser.add_argument("--norm", type=float, default=1e-2)
parser.add_argument("folder")
parser.add_argument("reference")
parser.add_argument("runs", nargs="+")
given = parser.parse_args()
folder, reference, runs = given.folder, given.reference, given.runs
limits = {"loss": given.loss, "grad_norm": given.norm}
wanted = steps(folder, reference)
failed = not wanted
for run in runs:
    found = steps(folder, run)
    failed |= found.keys() != wanted.keys()
    for key, limit in limits.items():
        worst = max((abs(found[s][key] / wanted[s][key] - 1), s) for s in wanted if s in found)
        verdict = "ok" if worst[0] <= limit else "TOO FAR"
        failed |= worst[0] > limit
        print(f"{run:<12} {key:<10} at most {worst[0]:.1e} off {reference}, at step {worst[1]}: {verdict}")
    rates = sorted(line["tokens_per_second"] for line in found.values())
    print(f"{run:<12} tokens/s   {rates[len(rates) // 2]:.0f} (median)")
sys.exit(failed)
