"""Runs committed configurations here and in PyTorch, seed by seed, and prints both sides as a table in Markdown.

    python tests/trials/compare.py CONFIG... [--seeds 1,2,3] [--trainer PATH] [--ranks 2] [--only ours|peer]

Each side's figures are added to runs/trials.jsonl as they come, and what stands there already is not run again. Needs
mpirun, target/release/trainer, the data and models of the configurations (prepare.py, models.sh), and what peer.py needs.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

RECORD = Path("runs/trials.jsonl")


def ours(config, seed, options):
    """Two ranks of one thread each; the last evaluation's figures."""
    folder = Path("runs/trial")
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    command = ["mpirun", "--oversubscribe", "-n", str(options.ranks), options.trainer, "train", config, f"seed={seed}", f"output_dir={folder}"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=sys.stderr)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    evaluated = [line for line in lines if "eval_loss" in line][-1]
    shutil.rmtree(folder)
    figures = {name: value for name, value in evaluated.items() if name.startswith("eval_")}
    return {"seconds": round(time.perf_counter() - began, 1), "first_loss": losses[0], "last_loss": losses[-1]} | figures


def peer(config, seed, _):
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), config, f"seed={seed}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def recorded():
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    return {(line["config"], line["side"], line["seed"]): line for line in map(json.loads, lines)}


def spread(values):
    """Mean, and in parentheses what lies between the least and the greatest."""
    return f"{statistics.mean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="+")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--trainer", default="target/release/trainer")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", choices=["ours", "peer"])
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    sides = {"ours": ours, "peer": peer}
    RECORD.parent.mkdir(exist_ok=True)
    rows = []
    for config in options.config:
        name = Path(config).stem
        for seed in seeds:
            for side in [options.only] if options.only else sides:
                if (name, side, seed) not in recorded():
                    figures = sides[side](config, seed, options)
                    with RECORD.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(figures | {"config": name, "side": side, "seed": seed}) + "\n")
        known = {side: [line for line in recorded().values() if (line["config"], line["side"]) == (name, side)] for side in sides}
        shared = [key for key in (known["ours"] or [{}])[0] if key.startswith("eval_") and all(key in line for line in known["peer"])]
        for key in shared if known["peer"] else []:
            rows.append([name, key] + [spread([line[key] for line in known[side]]) for side in sides])
    print("| configuration | figure | trainer | PyTorch |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
