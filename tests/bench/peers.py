"""Compares `trainer` with PyTorch: both in turn on the same data, and the medians side by side.

Run it through peers.sh. Both sides have the same ranks, threads, model, examples per rank and step, dropout and fp32, and
read their loss in every step. The cases:
  sst2   MiniLM on sentences of different lengths (ddp_peer.py of --shared, else skipped)
  llama  a Llama from scratch on blocks of 512 tokens, nothing to pad (lm_peer.py)
  gpt2   a GPT-2 from scratch on blocks of 256 tokens, with dropout (lm_peer.py)
  t5     a T5 from scratch on pairs of sentences (lm_peer.py)
Three numbers, measured alike:
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
WARM_UP = 5  # steps that do not count, as in the peers
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8000, "hidden_size": 384,
    "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2,
    "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 8000, "n_positions": 256, "n_embd": 384,
    "n_layer": 6, "n_head": 6, "activation_function": "gelu_new", "bos_token_id": 0, "eos_token_id": 0,
}
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": 8000, "d_model": 256, "d_kv": 32,
    "d_ff": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 8, "dropout_rate": 0.1,
    "feed_forward_proj": "relu", "is_encoder_decoder": True, "tie_word_embeddings": True, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}


def case(a, name):
    """A job for both sides: what it needs, how to make its model, the peer's arguments and our settings."""
    data = os.path.join(a.shared, "data")
    if name == "sst2":
        peer, (train, dev) = f"{a.shared}/bench/ddp_peer.py", [f"{data}/sst2/{part}.tsv" for part in ("train", "dev")]
        ours = ["configs/sst2-minilm.toml", f"model.path={a.model}", f"data.train={train}", f"data.eval={dev}"]
        needs = [peer, a.model, train, dev]
        return {"name": name, "batch": 16, "needs": needs, "peer": [peer, a.model, train, dev], "ours": ours}
    config, batch, length = {"llama": (LLAMA, 4, 512), "gpt2": (GPT2, 8, 256), "t5": (T5, 32, 64)}[name]
    pairs, folder = name == "t5", os.path.join(a.out, "models", name)
    needs = [f"{data}/multi30k/train.{language}.gz" for language in ("en", "de")] if pairs else [
        f"{data}/shakespeare/tinyshakespeare.txt"]
    kind = ["--kind", "unigram", "--format", "text"] if pairs else ["--kind", "bpe"]
    tokenizer = [*kind, "--family", name, "--vocab-size", str(config["vocab_size"]),
                 *(word for path in needs for word in ("--input", path))]
    own = ["task.kind=seq2seq", f"data.train_target={needs[1]}", f"task.max_target_length={length}"] if pairs else [
        "task.kind=causal-lm"]
    ours = [f"model.path={folder}", "model.init=random", f"data.train={needs[0]}", f"data.max_length={length}",
            "learning_rate=1e-3", "weight_decay=0.01", "max_grad_norm=1.0", "save_strategy=no", *own]
    peer = [f"{HERE}/lm_peer.py", "pairs" if pairs else "blocks", folder, ",".join(needs), str(length)]
    return {"name": name, "batch": batch, "needs": needs, "peer": peer, "ours": ours,
            "model": (folder, config, tokenizer)}


def make_model(trainer, folder, config, tokenizer):
    """A folder without weights: both sides initialize them."""
    if not os.path.exists(f"{folder}/tokenizer.json"):
        os.makedirs(folder, exist_ok=True)
        run([trainer, "tokenizer", "--output", folder, *tokenizer])
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", help="sst2, llama, gpt2, t5 (all)")
    p.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    p.add_argument("--steps", type=int, default=30, help="steps of each run (30)")
    p.add_argument("--ranks", type=int, default=2, help="(2)")
    p.add_argument("--model", default="models/minilm", help="Hugging Face folder for sst2 (models/minilm)")
    p.add_argument("--shared", default="../shared",
                   help="folder with data/sst2, data/shakespeare, data/multi30k and bench/ddp_peer.py (../shared)")
    p.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", "python3"),
                   help="a Python with torch and transformers (PEER_PYTHON, else python3)")
    p.add_argument("--trainer", default="target/release/trainer", help="the program (target/release/trainer)")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--out", default="runs/peers", help="folder for models and our runs (runs/peers)")
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


def peer(a, job, steps):
    command = shlex.split(a.peer_python) + [
        "-m", "torch.distributed.run", "--nproc-per-node", str(a.ranks), f"{HERE}/peer_first_step.py", *job["peer"]]
    # lm_peer.py takes the rows first, ddp_peer.py the steps.
    command += [str(steps), str(job["batch"])] if job["name"] == "sst2" else [str(job["batch"]), str(steps)]
    start = time.time()
    result = {}
    for line in json_lines(run(command)):
        result.update(line)
    first_step = result["first_step_at"] - start
    return {"tokens/s": result["tokens_per_s"], "first step": first_step, "peak memory": result["rss_mb"]}


def ours(a, job, steps):
    folder = os.path.join(a.out, job["name"])
    log = os.path.join(folder, "metrics.jsonl")
    if os.path.exists(log):
        os.remove(log)
    command = shlex.split(a.mpirun) + [
        "-n", str(a.ranks), a.trainer, "train", *job["ours"], f"output_dir={folder}", "overwrite_output_dir=true",
        f"max_steps={steps}", f"global_batch_size={a.ranks * job['batch']}", "logging_steps=1"]
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


ROW = "{:<14} {:>12} {:>14} {:>16}"


def compare(a, job):
    """Runs both sides in turn and returns the ratios of the medians."""
    name, results = job["name"], {"peer": [], "trainer": []}
    sides = ("peer", peer), ("trainer", ours)
    for _, side in sides:
        side(a, job, WARM_UP + 1)  # warms the file cache and our token cache

    def show(side, r):
        line = ROW.format(f"{name} {side}", f"{r['tokens/s']:.0f}", f"{r['first step']:.2f}", f"{r['peak memory']:.0f}")
        print(line, flush=True)

    for _ in range(a.runs):
        for side, measure in sides:
            results[side].append(measure(a, job, a.steps))
            show(side, results[side][-1])
    peers, own = ({key: statistics.median(r[key] for r in rs) for key in rs[0]} for rs in results.values())
    return {key: own[key] / peers[key] for key in peers}


def main():
    a = arguments()
    jobs = [case(a, name) for name in a.cases or ["sst2", "llama", "gpt2", "t5"]]
    print(f"{a.ranks} ranks, 1 thread each, {a.steps} steps, {a.runs} runs in turn")
    print(ROW.format("", "tokens/s", "first step s", "peak memory MiB"), flush=True)
    ratios = {}
    for job in jobs:
        missing = [path for path in job["needs"] if not os.path.exists(path)]
        if missing:
            print(f"{job['name']}: skipped, no {', '.join(missing)} (--shared, --model)", flush=True)
            continue
        if "model" in job:
            make_model(a.trainer, *job["model"])
        ratios[job["name"]] = compare(a, job)
    print("trainer / peer, medians")
    for name, ratio in ratios.items():
        print(ROW.format(name, *(f"{ratio[key]:.3f}" for key in ("tokens/s", "first step", "peak memory"))))


if __name__ == "__main__":
    main()
