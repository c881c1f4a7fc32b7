"""Measures data.streaming on zstd shards: memory, a run that is killed, and speed beside the same data in memory.

Run it through streaming.sh. The shards have JSON lines with documents of public texts: paragraphs of the files in
--texts, drawn with a fixed seed and repeated until a shard has its size. The model is a GPT-2 with random weights and
a tokenizer that is trained on the texts; it is small, so that the cost of reading shows. Memory is `peak_rss_bytes` of
metrics.jsonl: what the operating system counts for the process (VmHWM), mapped files included. Speed is
`train_tokens_per_second`, which does not include reading before the first step. Standard library only, and the command
zstd.
"""

import argparse
import glob
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

TRAINER = "target/release/trainer"
# Memory may grow by this fraction from a tenth of the shards to all of them, and streaming may be this much slower.
TOLERANCE = 0.05


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--texts", default="../shared/data", help="folder of public texts, .txt and .tsv (../shared/data)")
    p.add_argument("--shards", type=int, default=20, help="number of shards (20)")
    p.add_argument("--bytes", type=int, default=2_000_000_000, help="uncompressed bytes of all shards (2000000000)")
    p.add_argument("--pairs", type=int, default=5, help="pairs of runs (5)")
    p.add_argument("--compared", type=int, default=1, help="shards of the runs in memory (1)")
    p.add_argument("--steps", type=int, default=250, help="steps of each run (250)")
    p.add_argument("--passes", action="store_true", help="stream whole passes for the peak, instead of --steps steps")
    p.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for every run")
    p.add_argument("--work", required=True, help="an empty folder for shards, models and runs")
    return p.parse_args()


def paragraphs(folder):
    """Texts of at least 40 characters: paragraphs of plain text, lines of tables."""
    found = []
    for path in sorted(glob.glob(os.path.join(folder, "**", "*"), recursive=True)):
        if not path.endswith((".txt", ".tsv")):
            continue
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        parts = text.split("\n\n") if path.endswith(".txt") else text.replace("\t", " ").split("\n")
        found.extend(part.strip() for part in parts if len(part.strip()) >= 40)
    return found


def make_shards(a, texts):
    folder = os.path.join(a.work, "shards")
    os.makedirs(folder)
    draw = random.Random(1)
    for shard in range(a.shards):
        path = os.path.join(folder, f"{shard:03}.jsonl.zst")
        zstd = subprocess.Popen(["zstd", "-q", "-1", "-o", path], stdin=subprocess.PIPE)
        written = 0
        while written < a.bytes // a.shards:
            document = "\n\n".join(draw.choices(texts, k=draw.randint(1, 12)))
            line = (json.dumps({"text": document}) + "\n").encode()
            zstd.stdin.write(line)
            written += len(line)
        zstd.stdin.close()
        if zstd.wait():
            sys.exit(f"zstd failed for {path}")
    return folder


def make_model(a, texts):
    corpus, folder = os.path.join(a.work, "corpus.txt"), os.path.join(a.work, "model")
    with open(corpus, "w", encoding="utf-8") as file:
        file.write("\n\n".join(texts))
    done = subprocess.run([TRAINER, "tokenizer", "--kind", "bpe", "--vocab-size", "8000", "--input", corpus, "--output",
                           folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 8192, "n_positions": 512,
              "n_embd": 128, "n_layer": 2, "n_head": 4, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
              "initializer_range": 0.02, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
              "tie_word_embeddings": True}
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return folder


def command(a, out, data, more):
    return [TRAINER, "train", f"output_dir={os.path.join(a.work, out)}", f"model.path={os.path.join(a.work, 'model')}",
            "model.init=random", "task.kind=causal-lm", "data.train=" + json.dumps(data), "data.max_length=256",
            f"data.cache_dir={os.path.join(a.work, 'tokens')}", "global_batch_size=16", "logging_steps=1",
            "save_strategy=no"] + more + a.settings


def lines(a, out):
    path = os.path.join(a.work, out, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def run(a, out, data, more):
    """Runs to the end; returns the summary line."""
    shutil.rmtree(os.path.join(a.work, out), ignore_errors=True)
    words = command(a, out, data, more)
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with {done.returncode}: {' '.join(words)}")
    return next(line for line in lines(a, out) if line.get("event") == "summary")


def losses(a, out):
    return [(line["step"], line["step_loss"]) for line in lines(a, out) if "step_loss" in line]


def memory(a, shards):
    """Peak memory with a tenth of the shards and with all; returns whether it grows."""
    some = shards[:max(1, len(shards) // 10)]
    print("| Shards | Steps | Peak resident set, MB | Tokens/s |\n|--:|--:|--:|--:|", flush=True)
    peaks = []
    for data in (some, shards):
        # A buffer of blocks of all shards; with --passes as many steps as a pass takes, estimated by the bytes.
        steps = a.steps
        if a.passes:
            steps = a.bytes * len(data) // len(shards) // (4 * 256 * 16)
        summary = run(a, "memory", data, ["data.streaming=true", f"max_steps={steps}"])
        peaks.append(max(summary["peak_rss_bytes"]))
        print(f"| {len(data)} | {steps} | {peaks[-1] / 1e6:.0f} | {summary['train_tokens_per_second']:.0f} |", flush=True)
    return peaks[1] > peaks[0] * (1 + TOLERANCE)


def killed(a, shards):
    """Whether a run that is killed by SIGKILL and resumed has other losses than one that is not."""
    half = a.steps // 2
    more = ["data.streaming=true", f"max_steps={a.steps}", "save_strategy=steps", f"save_steps={max(1, half // 2)}"]
    run(a, "whole", shards, more)
    process = subprocess.Popen(command(a, "cut", shards, more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and max([step for step, _ in losses(a, "cut")], default=0) < half + 1:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at = max([step for step, _ in losses(a, "cut")], default=0)
    again = subprocess.run(command(a, "cut", shards, more) + ["--resume", "auto"], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    if again.returncode:
        sys.exit(f"{again.stdout}\nthe killed run did not resume")
    same = losses(a, "cut") == losses(a, "whole")
    print(f"\nKilled after step {at} of {a.steps} and resumed: losses {'bit-equal' if same else 'DIFFER'}\n", flush=True)
    return not same


def speed(a, shards):
    """Tokens per second of both in alternating pairs; returns whether streaming is slower than allowed."""
    data, ratios = shards[:a.compared], []
    run(a, "warm", data, ["max_steps=1"])
    print("| Pair | Streaming, tokens/s | In memory, tokens/s | Ratio |\n|--:|--:|--:|--:|", flush=True)
    for pair in range(a.pairs):
        rates = {}
        kinds = ["data.streaming=true", "data.streaming=false"]
        for kind in kinds if pair % 2 == 0 else reversed(kinds):
            rates[kind] = run(a, "speed", data, [kind, f"max_steps={a.steps}"])["train_tokens_per_second"]
        streaming, in_memory = (rates[kind] for kind in kinds)
        ratios.append(streaming / in_memory)
        print(f"| {pair + 1} | {streaming:.0f} | {in_memory:.0f} | {ratios[-1]:.3f} |", flush=True)
    median = statistics.median(ratios)
    print(f"\nMedian ratio {median:.3f}", flush=True)
    return median < 1 - TOLERANCE


def main():
    a = arguments()
    if shutil.which("zstd") is None:
        print("skipped: the command zstd is missing (apt-get install zstd)")
        return
    texts = paragraphs(a.texts)
    if not texts:
        print(f"skipped: no .txt or .tsv files with texts in {a.texts}: name a folder with --texts")
        return
    make_model(a, texts)
    folder = make_shards(a, texts)
    shards = sorted(glob.glob(os.path.join(folder, "*.zst")))
    size = sum(map(os.path.getsize, shards))
    print(f"{len(shards)} shards, {a.bytes / 1e6:.0f} MB of JSON lines, {size / 1e6:.0f} MB compressed\n", flush=True)
    grows, differ, slower = memory(a, shards), killed(a, shards), speed(a, shards)
    problems = [text for text, wrong in (("memory grows with the data", grows), ("resumed losses differ", differ),
                                         ("streaming is slower", slower)) if wrong]
    sys.exit("; ".join(problems) if problems else 0)


if __name__ == "__main__":
    main()
