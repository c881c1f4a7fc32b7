"""Measures what a rank keeps between steps, in bytes a parameter, and compares it with ZeRO's formulas.

Run it through memory.sh. A BERT of the base size (110 M parameters) starts from random weights and takes two steps for
each row. Measured is the `total` of `persistent_bytes` in metrics.jsonl: all that the rank's tensors hold after the last
step. Of the ranks the table shows the one furthest from the formula, and the largest peaks. The formulas follow from
arXiv 1910.02054, with the type in which gradients are accumulated and reduced:
  fp32                   4 weights, 4 gradients, 8 moments
  bf16, reduced in bf16  2 weights, 2 gradients, 4 master weights, 8 moments
  bf16, reduced in fp32  2 weights, 4 gradients, 4 master weights, 8 moments
Stage 1 divides masters and moments by the ranks, stage 2 gradients too, stage 3 weights too. At stage 3 the peaks must
not pass that by more than two stages' whole weights, two stages' whole gradients, and what is activations or
communication. Standard library only.
"""

import argparse
import glob
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys

TOLERANCE = 0.05
TOKENIZER = "tests/reference/bert-classification"
# (precision, reduce_dtype): bytes a parameter of weights, gradients, optimizer (masters included). The masters of fp32
# are its weights: where these are whole on each rank, so are the masters.
TYPES = {"fp32/fp32": (4, 4, 8), "bf16/bf16": (2, 2, 12), "bf16/fp32": (2, 4, 12)}
USES = ("weights", "gradients", "optimizer", "activations", "communication", "total")
LABELS = ("down", "up")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="(2 4)")
    p.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3], choices=range(4), help="(0 1 2 3)")
    p.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES),
                   help="precision/reduce_dtype (all)")
    p.add_argument("--settings", nargs="+", default=[], metavar="KEY=VALUE", help="more settings for every run")
    p.add_argument("--mpirun", default="mpirun", help="mpirun with its options")
    p.add_argument("--work", required=True, help="an empty folder for models and runs")
    return p.parse_args()


def formula(types, stage, ranks):
    """Bytes a parameter that a rank keeps: each part divided by the ranks from its stage on."""
    weights, gradients, optimizer = TYPES[types]
    share = lambda size, first: size / ranks if stage >= first else size
    return share(weights, 3) + share(gradients, 2) + share(optimizer, 1)


def make_model(folder):
    """config.json of the base size with its full vocabulary, and the tokenizer of a small test model."""
    os.makedirs(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(TOKENIZER, name), folder)
    config = {
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_act": "gelu",
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2, "pad_token_id": 0,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02,
        "layer_norm_eps": 1e-12, "id2label": {str(i): name for i, name in enumerate(LABELS)},
        "label2id": {name: i for i, name in enumerate(LABELS)},
    }
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def make_data(path):
    words = "storm ice wind match runner team night day new old".split()
    with open(path, "w", encoding="utf-8") as file:
        for i in range(32):
            text = " ".join(words[(i * step) % len(words)] for step in range(1, 9))
            file.write(json.dumps({"text": text, "label": LABELS[i % 2]}) + "\n")


def train(a, types, stage, ranks):
    """One run: its summary line, and of each stage of the model that it wrote the parameters, all and with dense gradients."""
    out = os.path.join(a.work, "run")
    precision, reduce_dtype = types.split("/")
    command = shlex.split(a.mpirun) + [
        "-n", str(ranks), "target/release/trainer", "train", f"output_dir={out}",
        f"model.path={os.path.join(a.work, 'model')}", "model.init=random", "task.kind=sequence-classification",
        f"data.train={os.path.join(a.work, 'train.jsonl')}", f"data.cache_dir={os.path.join(a.work, 'tokens')}",
        "max_steps=2", "global_batch_size=8", "save_strategy=no", f"parallel.zero_stage={stage}",
        f"parallel.precision={precision}", f"parallel.reduce_dtype={reduce_dtype}"] + a.settings
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed with {done.returncode}: {shlex.join(command)}")
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as lines:
        summary = next(line for line in map(json.loads, lines) if line.get("event") == "summary")
    stages = {}
    for path in glob.glob(os.path.join(out, "final", "*.safetensors")):
        for name, n in elements(path):
            layer = re.match(r"bert\.(embeddings|encoder\.layer\.\d+)\.", name)
            stage = stages.setdefault(layer[0] if layer else "head", [0, 0])
            stage[0] += n
            # Of a vocabulary table's gradient there are never more than the rows of the batch.
            stage[1] += 0 if "word_embeddings" in name else n
    shutil.rmtree(out)
    return summary, list(stages.values())


def elements(path):
    """Name and number of elements of each tensor of a safetensors file, by its header."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return [(name, math.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__"]


def passes(types, summary, stages):
    """Whether the peaks of stage 3 stay within two stages' weights and gradients."""
    weights, gradients, _ = TYPES[types]
    two = [sum(sorted(sizes, reverse=True)[:2]) * 1.01 for sizes in zip(*stages)]
    for held, peak in zip(summary["persistent_bytes"], summary["peak_bytes"]):
        passing = {"weights": weights * two[0], "gradients": gradients * two[1]}
        for use, room in passing.items():
            if peak[use] > held[use] + room:
                return False
        if peak["total"] > held["total"] + sum(passing.values()) + peak["activations"] + peak["communication"]:
            return False
    return True


def main():
    a = arguments()
    make_model(os.path.join(a.work, "model"))
    make_data(os.path.join(a.work, "train.jsonl"))
    print("| Ranks | Weights | Reduced in | Stage | Bytes a parameter | Formula | Ratio | "
          + " | ".join(f"Peak {use}, MB" for use in USES) + " |")
    print("|" + "---|" * 3 + "--:|" * (4 + len(USES)), flush=True)
    wrong = 0
    for types in a.types:
        for ranks in a.ranks:
            for stage in a.stages:
                summary, stages = train(a, types, stage, ranks)
                parameters = sum(size for size, _ in stages)
                if parameters < 100e6:
                    sys.exit(f"memory: the model has only {parameters} parameters")
                expected = formula(types, stage, ranks)
                ratios = [held["total"] / parameters / expected for held in summary["persistent_bytes"]]
                ratio = max(ratios, key=lambda r: abs(r - 1))
                far = abs(ratio - 1) > TOLERANCE or (stage == 3 and not passes(types, summary, stages))
                wrong += far
                peaks = [max(rank[use] for rank in summary["peak_bytes"]) / 1e6 for use in USES]
                print(f"| {ranks} | {types.replace('/', ' | ')} | {stage} | {ratio * expected:.2f} | {expected:.2f} | "
                      f"{ratio:.3f}{' (!)' if far else ''} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + " |",
                      flush=True)
    if wrong:
        sys.exit(f"memory: {wrong} rows are off by more than {TOLERANCE:.0%}, or pass two stages at stage 3")


if __name__ == "__main__":
    main()
