"""Measures what sharding and recomputation cost in time and communication.

Run it through zero_cost.sh. Every setting takes the same steps on the same sentences, in turn, `--runs` times; the time
of a step is the median over steps and runs, after the first steps. Communication is counted as arXiv 1910.02054
(section 7) does: the bytes of a collective's buffer, twice for an all-reduce, in units of the model's own size. That
paper's figures are 2 for stages 0 to 2 and 3 for stage 3; of a vocabulary table this program reduces only the rows that
a batch touches, so that stages 0 to 2 stay below. It prints and judges nothing. Standard library only.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

WARM_UP = 5  # steps that do not count


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=3, help="runs of each setting (3)")
    p.add_argument("--steps", type=int, default=30, help="steps of each run (30)")
    p.add_argument("--ranks", type=int, default=2, help="(2)")
    p.add_argument("--batch", type=int, default=16, help="sentences a rank and step (16)")
    p.add_argument("--model", default="models/minilm", help="Hugging Face folder (models/minilm)")
    p.add_argument("--data", default="../shared/data/sst2",
                   help="folder of train.tsv and dev.tsv (../shared/data/sst2)")
    p.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for every run")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--work", required=True, help="a folder for runs")
    return p.parse_args()


def run(a, stage, recompute):
    """Seconds of each step, and the bytes communicated a step."""
    out = os.path.join(a.work, "run")
    command = shlex.split(a.mpirun) + [
        "-n", str(a.ranks), "target/release/trainer", "train", "configs/sst2-minilm.toml", f"output_dir={out}",
        "overwrite_output_dir=true", f"model.path={a.model}", f"data.train={a.data}/train.tsv",
        f"data.eval={a.data}/dev.tsv", f"max_steps={a.steps}",
        f"global_batch_size={a.ranks * a.batch}", "logging_steps=1", "save_strategy=no", "eval_strategy=no",
        f"parallel.zero_stage={stage}", f"parallel.recompute={recompute}"] + a.settings
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with {done.returncode}: {shlex.join(command)}")
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as lines:
        lines = [json.loads(line) for line in lines]
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line and line["step"] > WARM_UP]
    summary = next(line for line in lines if line.get("event") == "summary")
    size = os.path.getsize(os.path.join(out, "final", "model.safetensors"))
    # The same steps for all: tokens a step cancel out of every ratio.
    return [1 / rate for rate in rates], summary["communicated_bytes_per_step"] / size


def main():
    a = arguments()
    if not os.path.exists(f"{a.data}/train.tsv"):
        sys.exit(f"zero_cost: no {a.data}/train.tsv: name its folder with --data")
    settings = [(stage, recompute) for recompute in ("none", "all") for stage in range(4)]
    times, moved = {s: [] for s in settings}, {}
    run(a, 0, "none")  # warms the file cache and the token cache
    for _ in range(a.runs):
        for setting in settings:
            seconds, moved[setting] = run(a, *setting)
            times[setting].extend(seconds)
    median = {s: statistics.median(times[s]) for s in settings}
    print(f"{a.ranks} ranks, 1 thread each, {a.batch} sentences a rank, {a.steps} steps, {a.runs} runs in turn")
    print("| ZeRO | Recompute | Step time over stage 0 | Over the same stage without recompute | Communicated, model sizes |")
    print("|--:|---|--:|--:|--:|")
    for stage, recompute in settings:
        here = median[stage, recompute]
        print(f"| {stage} | {recompute} | {here / median[0, 'none']:.2f} | {here / median[stage, 'none']:.2f} | "
              f"{moved[stage, recompute]:.2f} |")


if __name__ == "__main__":
    main()
