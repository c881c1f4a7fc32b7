#!/usr/bin/env python3
"""The same job in PyTorch on one GPU, to compare trainer with: what an engineer writes with torch and transformers.

    gpu_peer.py minilm|bert [--rows 256] [--lengths FILE] [--group] [--compile]
    gpu_peer.py llama       [--rows 1] [--tokens 8192] [--recompute] [--compile]

`minilm` is MiniLM-L6 and `bert` BERT-base, both with a head of two classes and dropout 0.1. A step is `--rows` texts,
padded to the longest; with `--group`, texts of about the same length share a step. `--lengths` names a file with the
length of a text in tokens on each line. `llama` has the shape of Llama 3.2 1B and documents of `--tokens` tokens.
Weights are random and fp32, under autocast to bf16; SDPA; fused AdamW; gradients clipped at 1. On a CPU the shapes are
tiny. Prints one JSON line: `tokens_per_second` counts no padding, `flops_per_token` is 6 a multiplied weight, and 12 a
layer, hidden unit and token of context for attention.
"""

import argparse
import itertools
import json
import random
import statistics
import time

import torch
import transformers

BERT = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}
TINY_BERT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
LLAMA = {
    "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
}
TINY_LLAMA = {
    "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "intermediate_size": 128,
}


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["minilm", "bert", "llama"])
    parser.add_argument("--rows", type=int, help="texts or documents of a step (default 256; llama 1)")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a document")
    parser.add_argument("--lengths", help="file with the length of a text on each line")
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them")
    parser.add_argument("--group", action="store_true", help="texts of about the same length in a step")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing")
    return parser.parse_args()


def build(given, gpu):
    """The model, and how many of its weights multiply each token."""
    if given.model == "llama":
        config = transformers.LlamaConfig(
            **(LLAMA if gpu else TINY_LLAMA), tie_word_embeddings=True, rope_theta=500000.0,
            max_position_embeddings=131072, attn_implementation="sdpa",
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        shape = BERT[given.model] if gpu else TINY_BERT
        config = transformers.BertConfig(**shape, num_labels=2, attn_implementation="sdpa")
        model = transformers.BertForSequenceClassification(config)
    multiplied = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    if given.model == "llama":
        multiplied += config.vocab_size * config.hidden_size  # the tied head
    return model, config, multiplied


def text_lengths(given, rng):
    """The lengths of each step's texts."""
    count = given.rows * (given.warmup + given.steps)
    if given.lengths:
        with open(given.lengths, encoding="utf-8") as file:
            lengths = list(itertools.islice(itertools.cycle(map(int, file.read().split())), count))
    else:
        lengths = [min(128, max(4, round(rng.lognormvariate(3.05, 0.5)))) for _ in range(count)]
    if given.group:
        lengths.sort()
    steps = [lengths[at : at + given.rows] for at in range(0, count, given.rows)]
    rng.shuffle(steps)
    return steps


def batches(given, config, device, rng):
    """Each step's arguments of the model, and its real tokens. Made beforehand, as a data loader's workers would."""

    def to_device(x):
        return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x

    if given.model == "llama":
        for _ in range(given.warmup + given.steps):
            ids = torch.randint(0, config.vocab_size, (given.rows, given.tokens))
            yield lambda ids=ids: (lambda x: {"input_ids": x, "labels": x})(to_device(ids)), ids.numel()
        return
    for lengths in text_lengths(given, rng):
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        ids = torch.randint(1000, config.vocab_size, mask.shape) * mask
        labels = torch.randint(0, 2, (len(lengths),))
        batch = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
        yield lambda b=batch: {key: to_device(x) for key, x in b.items()}, sum(lengths)


def main():
    given = parsed()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    given.rows = given.rows or (1 if given.model == "llama" else 256)
    torch.manual_seed(1)
    rng = random.Random(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    with device:
        model, config, multiplied = build(given, gpu)
    model.train()
    if given.recompute:
        model.gradient_checkpointing_enable()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=gpu)
    forward = torch.compile(model, dynamic=given.model != "llama") if given.compile else model

    timed, tokens, began = [], [], time.perf_counter()
    for step, (make, real) in enumerate(list(batches(given, config, device, rng))):
        if step == given.warmup and gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = forward(**make()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # every step's loss is logged, as trainer does
        if step == 0:
            first = time.perf_counter() - began
        if step >= given.warmup:
            timed.append(time.perf_counter() - start)
            tokens.append(real)
    context = given.tokens if given.model == "llama" else sum(tokens) / len(tokens) / given.rows
    print(json.dumps({
        "tokens_per_second": round(sum(tokens) / sum(timed)),
        "ms_per_step": round(1e3 * statistics.median(timed), 2),
        "peak_bytes": torch.cuda.max_memory_allocated() if gpu else None,
        "flops_per_token": 6 * multiplied + 12 * config.num_hidden_layers * config.hidden_size * context,
        "seconds_to_first_step": round(first, 1),
        "loss": round(value, 4),
        "parameters": sum(p.numel() for p in parameters),
        "model": given.model, "rows": given.rows, "group": given.group, "compile": given.compile,
        "recompute": given.recompute, "torch": torch.__version__, "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
    }))


if __name__ == "__main__":
    main()
