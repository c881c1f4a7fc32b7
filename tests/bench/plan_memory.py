"""Compares the memory that `trainer plan` tells with what runs measure.

For each configuration, number of ranks and ZeRO stage a run of three steps with its evaluation and its final model; of
the ranks that with the highest peak of tensor bytes. Prints a markdown table and judges nothing. On one machine, after
`cargo build --release`; random weights do where a configuration says so, the others want their model. Standard library
only.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

MAIN = ["configs/sst2-minilm.toml", "configs/shakespeare-gpt2.toml", "configs/multi30k-t5.toml",
        "configs/self-instruct-llama.toml"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--configs", nargs="+", default=MAIN, help=f"({' '.join(MAIN)})")
    p.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help="(1 2 4)")
    p.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for every run")
    p.add_argument("--mpirun", default="mpirun --oversubscribe", help="(mpirun --oversubscribe)")
    return p.parse_args()


def trainer(launch, *words):
    command = launch + ["target/release/trainer", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed with {done.returncode}: {shlex.join(command)}")
    return done.stdout


def main():
    a = arguments()
    print("| Configuration | Ranks | ZeRO | Planned, MB | Measured, MB | Ratio |")
    print("|---|--:|--:|--:|--:|--:|")
    for config in a.configs:
        for ranks in a.ranks:
            settings = [config, "max_steps=3", "num_threads=1", *a.settings]
            for zero in range(4):
                own = [*settings, f"parallel.zero_stage={zero}"]
                told = json.loads(trainer([], "plan", *own, "--ranks", str(ranks), "--json"))
                planned = next(way["total"] for way in told["memory"] if way["configured"])
                with tempfile.TemporaryDirectory() as out:
                    launch = [] if ranks == 1 else shlex.split(a.mpirun) + ["-n", str(ranks)]
                    trainer(launch, "train", *own, f"output_dir={out}/run")
                    with open(f"{out}/run/metrics.jsonl", encoding="utf-8") as lines:
                        summary = next(line for line in map(json.loads, lines) if line.get("event") == "summary")
                measured = max(rank["total"] for rank in summary["peak_bytes"])
                name = os.path.basename(config).removesuffix(".toml")
                print(f"| {name} | {ranks} | {zero} | {planned / 1e6:.1f} | {measured / 1e6:.1f} "
                      f"| {planned / measured:.3f} |", flush=True)


if __name__ == "__main__":
    main()
