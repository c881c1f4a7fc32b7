"""Compares `trainer` with PyTorch DDP: both in turn on the same sentences, and the medians side by side.

Run it through vs_ddp.sh. Both sides have the same ranks, threads, sentences a rank, learning rate and dropout, and read
their loss every step. Three numbers, measured alike:
  tokens/s      real tokens of all ranks, steps 6 to the last
  first step    seconds from starting the launcher (torchrun, mpirun) to the end of the first optimizer step
  peak memory   resident set of the peer's rank 0, of ours the largest rank
It prints and judges nothing. Standard library only.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
WARM_UP = 5  # steps that do not count, as in the peer


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    p.add_argument("--steps", type=int, default=60, help="steps of each run (60)")
    p.add_argument("--ranks", type=int, default=2, help="(2)")
    p.add_argument("--batch", type=int, default=16, help="sentences a rank and step (16)")
    p.add_argument("--model", default="models/minilm", help="Hugging Face folder (models/minilm)")
    p.add_argument("--data", default="../shared/data/sst2",
                   help="folder of train.tsv and dev.tsv (../shared/data/sst2)")
    p.add_argument("--peer", default="../shared/bench/ddp_peer.py", help="the peer (../shared/bench/ddp_peer.py)")
    p.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", "python3"),
                   help="a Python with torch and transformers (PEER_PYTHON, else python3)")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--out", default="runs/vs-ddp", help="our run folder (runs/vs-ddp)")
    return p.parse_args()


def run(command, watch=lambda: None):
    """Runs a command to its end, calling `watch` meanwhile; gives its standard output."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and watch():
        time.sleep(0.01)
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{out}\nfailed with {process.returncode}: {shlex.join(command)}")
    return out


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer(a, steps):
    command = shlex.split(a.peer_python) + [
        "-m", "torch.distributed.run", "--nproc-per-node", str(a.ranks), os.path.join(HERE, "peer_first_step.py"),
        a.peer, a.model, f"{a.data}/train.tsv", f"{a.data}/dev.tsv", str(steps), str(a.batch)]
    start = time.time()
    result = {}
    for line in json_lines(run(command)):
        result.update(line)
    first_step = result["first_step_at"] - start
    return {"tokens/s": result["tokens_per_s"], "first step": first_step, "peak memory": result["rss_mb"]}


def ours(a, steps):
    log = os.path.join(a.out, "metrics.jsonl")
    if os.path.exists(log):
        os.remove(log)
    command = shlex.split(a.mpirun) + [
        "-n", str(a.ranks), "target/release/trainer", "train", "configs/sst2-minilm.toml", f"output_dir={a.out}",
        "overwrite_output_dir=true", f"model.path={a.model}", f"data.train={a.data}/train.tsv",
        f"data.eval={a.data}/dev.tsv", f"max_steps={steps}", f"global_batch_size={a.ranks * a.batch}",
        "logging_steps=1"]
    first = []

    def first_line_is_missing():
        if os.path.exists(log) and os.path.getsize(log) > 0:
            first.append(time.time())
        return not first

    start = time.time()
    run(command, first_line_is_missing)
    with open(log, encoding="utf-8") as lines:
        lines = json_lines(lines.read())
    return digest(lines, first[0] - start)


def digest(lines, first_step):
    """Our three numbers from the lines of metrics.jsonl."""
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line and line["step"] > WARM_UP]
    summary = next(line for line in reversed(lines) if line.get("event") == "summary")
    return {
        # Steps are equal shares of the data in random order: tokens over time is the harmonic mean of their rates.
        "tokens/s": statistics.harmonic_mean(rates) if rates else float("nan"),
        "first step": first_step,
        "peak memory": max(summary["peak_rss_bytes"]) / 2**20,
    }


def main():
    a = arguments()
    for path, option in ((a.peer, "--peer"), (f"{a.data}/train.tsv", "--data"), (a.model, "--model")):
        if not os.path.exists(path):
            sys.exit(f"vs_ddp: no {path}: name it with {option}")
    row = "{:<10} {:>12} {:>14} {:>16}"
    print(f"{a.ranks} ranks, 1 thread each, {a.batch} sentences a rank, {a.steps} steps, {a.runs} runs in turn")
    print(row.format("", "tokens/s", "first step s", "peak memory MiB"))
    results = {"peer": [], "trainer": []}
    sides = ("peer", peer), ("trainer", ours)
    for _, side in sides:
        side(a, WARM_UP + 1)  # warms the file cache and our token cache

    def show(name, r):
        print(row.format(name, f"{r['tokens/s']:.1f}", f"{r['first step']:.2f}", f"{r['peak memory']:.0f}"), flush=True)

    for _ in range(a.runs):
        for name, side in sides:
            results[name].append(side(a, a.steps))
            show(name, results[name][-1])
    medians = {name: {key: statistics.median(r[key] for r in rs) for key in rs[0]} for name, rs in results.items()}
    print("medians")
    for name, r in medians.items():
        show(name, r)
    ratio = {key: medians["trainer"][key] / medians["peer"][key] for key in medians["peer"]}
    print("trainer / peer")
    print(row.format("ratio", *(f"{ratio[key]:.3f}" for key in ("tokens/s", "first step", "peak memory"))))


if __name__ == "__main__":
    main()
