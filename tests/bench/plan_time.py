"""Compares planned times with measured ones.

Run it through plan_time.sh, on a machine that does nothing else. Every rank has one thread. `trainer plan --measure` on
one rank takes real steps and corrects its times by them; what it then says of a step of one and of two ranks is
compared with runs of so many steps. On two and on four ranks it times collectives, fits a latency and a bandwidth to
them, and compares the fit with the median of further runs. Four ranks on two cores take turns, and say little. Standard library only.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=3, help="runs of each kind (3)")
    p.add_argument("--steps", type=int, default=30, help="steps of each run (30)")
    p.add_argument("--zero", type=int, nargs="+", default=[0, 3], help="ZeRO stages (0 3)")
    p.add_argument("--config", default="configs/sst2-minilm.toml", help="(configs/sst2-minilm.toml)")
    p.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for every run")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--work", required=True, help="a folder for runs")
    return p.parse_args()


def trainer(a, ranks, *words):
    """What a command of the trainer prints."""
    launch = [] if ranks == 1 else shlex.split(a.mpirun) + ["-n", str(ranks)]
    command = launch + ["target/release/trainer", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed with {done.returncode}: {shlex.join(command)}")
    return done.stdout


def settings(a, zero):
    return [a.config, f"max_steps={a.steps}", "num_threads=1", f"parallel.zero_stage={zero}", "save_strategy=no",
            "eval_strategy=no", *a.settings]


def plan(a, ranks, zero):
    return json.loads(trainer(a, ranks, "plan", *settings(a, zero), "--measure", "--json"))["time"]


def step_seconds(a, ranks, zero):
    """The mean time of a run's steps."""
    out = os.path.join(a.work, "run")
    trainer(a, ranks, "train", *settings(a, zero), f"output_dir={out}", "overwrite_output_dir=true")
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as lines:
        summary = next(line for line in map(json.loads, lines) if line.get("event") == "summary")
    return summary["train_seconds"] / a.steps


def main():
    a = arguments()
    step_seconds(a, 1, 0)  # warms the file cache and the token cache
    print("Steps, planned from one rank of one thread:\n")
    print("| ZeRO | Ranks | Planned | Measured | Ratio |")
    print("|--:|--:|--:|--:|--:|")
    for zero in a.zero:
        plans, runs = [], {1: [], 2: []}
        for _ in range(a.runs):
            plans.append(plan(a, 1, zero))
            for ranks, times in runs.items():
                times.append(step_seconds(a, ranks, zero))
        for ranks, times in runs.items():
            told = [next(w["step_seconds"] for w in p["worlds"] if w["ranks"] == ranks) for p in plans]
            planned, measured = statistics.median(told), statistics.median(times)
            print(f"| {zero} | {ranks} | {1e3 * planned:.0f} ms | {1e3 * measured:.0f} ms | {planned / measured:.2f} |")
    print("\nCollectives, by the fit of one run and in the others:\n")
    print("| Ranks | Collective | Bytes | By the model | Measured | Ratio |")
    print("|--:|---|--:|--:|--:|--:|")
    for ranks in (2, 4):
        fit, *others = (plan(a, ranks, 0)["measured"]["collectives"] for _ in range(a.runs + 1))
        for one, *same in zip(fit, *others):
            fitted, measured = one["by_model"], statistics.median(other["seconds"] for other in same)
            print(f"| {ranks} | {one['action']} | {one['bytes']:.0f} | {1e3 * fitted:.2f} ms | {1e3 * measured:.2f} ms "
                  f"| {fitted / measured:.2f} |")


if __name__ == "__main__":
    main()
