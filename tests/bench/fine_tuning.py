"""Fine-tunes MiniLM on SST-2 by every method, with `trainer` and, where they offer it, with torch and peft.

Run it through fine_tuning.sh. Both sides in turn for each seed, with the same ranks, threads, batches per rank, learning
rates and steps; the order of the data is each side's own. Prints a Markdown table: trained parameters, tokens/s, peak
memory (resident set of the largest rank), accuracy on the development set as mean and range over the seeds.
Standard library only.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WARM_UP = 5  # steps that do not count, as in the peer
# All linear layers but the pooler's, as in the peer.
LORA = ["lora.r=8", "lora.lora_alpha=16", 'lora.target_modules=["query", "key", "value", "attention.output.dense", '
        '"intermediate.dense", "output.dense"]']
# Method: peak learning rate, our settings, whether the peer has it.
METHODS = {
    "full": (1e-4, [], True),
    "top-half": (1e-4, ['model.train=["layers.3-5", "bert.pooler.*", "head"]'], True),
    "head": (1e-3, ['model.train=["classifier.*"]'], True),
    "layer-decay": (2e-4, ["train.layer_lr_decay=0.8"], True),
    "unfreezing": (1e-4, ["train.unfreeze={tenth}"], False),  # a layer each tenth of the steps
    "bitfit": (1e-3, ['model.train=["*.bias", "classifier.*"]'], True),
    "lora": (1e-3, LORA, True),
    "dora": (1e-3, [*LORA, "lora.use_dora=true"], True),
}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("methods", nargs="*", help=", ".join(METHODS) + " (all)")
    p.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    p.add_argument("--steps", type=int, default=200, help="(200)")
    p.add_argument("--batch", type=int, default=16, help="examples per rank and step (16)")
    p.add_argument("--ranks", type=int, default=2, help="(2)")
    p.add_argument("--model", default="models/minilm", help="(models/minilm)")
    p.add_argument("--data", default="../shared/data/sst2", help="folder with train.tsv and dev.tsv (../shared/data/sst2)")
    p.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON"),
                   help="a Python with torch, transformers and peft (PEER_PYTHON; without it only trainer runs)")
    p.add_argument("--trainer", default="target/release/trainer", help="(target/release/trainer)")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--out", default="runs/fine-tuning", help="folder for our runs (runs/fine-tuning)")
    return p.parse_args()


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with {done.returncode}: {shlex.join(command)}")
    return done.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer(a, method, seed):
    train, dev = f"{a.data}/train.tsv", f"{a.data}/dev.tsv"
    rate = METHODS[method][0]
    command = shlex.split(a.peer_python) + [
        "-m", "torch.distributed.run", "--nproc-per-node", str(a.ranks), f"{HERE}/fine_tuning_peer.py", method, a.model,
        train, dev, str(a.steps), str(a.batch), str(rate), str(seed)]
    return json_lines(run(command))[-1]


def ours(a, method, seed):
    rate, settings, _ = METHODS[method]
    folder = os.path.join(a.out, f"{method}-{seed}")
    words = [
        "train", "configs/sst2-minilm.toml", f"model.path={a.model}", f"data.train={a.data}/train.tsv",
        f"data.eval={a.data}/dev.tsv", f"output_dir={folder}", "overwrite_output_dir=true", f"max_steps={a.steps}",
        f"global_batch_size={a.ranks * a.batch}", f"learning_rate={rate}", "lr_scheduler_type=constant_with_warmup",
        f"warmup_steps={max(1, a.steps // 10)}", "weight_decay=0", "max_grad_norm=1.0", "logging_steps=1",
        "save_strategy=no", f"seed={seed}", *(word.format(tenth=max(1, a.steps // 10)) for word in settings)]
    text = run(shlex.split(a.mpirun) + ["-n", str(a.ranks), a.trainer, *words])
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        lines = json_lines(file.read())
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line and line["step"] > WARM_UP]
    summary = next(line for line in reversed(lines) if line.get("event") == "summary")
    accuracy = [line["eval_accuracy"] for line in lines if "eval_accuracy" in line][-1]
    return {"trained": summary["trained_parameters"], "tokens_per_s": statistics.harmonic_mean(rates),
            "rss_mb": max(summary["peak_rss_bytes"]) / 2**20, "accuracy": accuracy, "text": text}


def row(method, side, results):
    accuracy = [100 * r["accuracy"] for r in results]
    spread = f"{statistics.mean(accuracy):.1f} ({min(accuracy):.1f} to {max(accuracy):.1f})"
    speed, memory = (statistics.median(r[key] for r in results) for key in ("tokens_per_s", "rss_mb"))
    return f"| {method} | {side} | {results[0]['trained']:,} | {speed:.0f} | {memory:.0f} | {spread} |"


def main():
    a = arguments()
    print("| Method | Program | Trained parameters | Tokens/s | Peak memory MiB | Accuracy % |\n|---|---|---|---|---|---|")
    for method in a.methods or METHODS:
        results = {"trainer": [], "torch": []}
        for seed in range(1, a.seeds + 1):
            results["trainer"].append(ours(a, method, seed))
            if a.peer_python and METHODS[method][2]:
                results["torch"].append(peer(a, method, seed))
        for side, found in results.items():
            if found:
                print(row(method, side, found), flush=True)


if __name__ == "__main__":
    main()
