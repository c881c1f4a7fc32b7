#!/usr/bin/env python3
"""A language model from scratch with transformers and torch DDP over gloo: the peer of `peers.py`.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 lm_peer.py blocks MODEL_DIR TEXT LENGTH ROWS STEPS
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 lm_peer.py pairs MODEL_DIR SOURCE,TARGET LENGTH ROWS STEPS

`blocks` trains a decoder on blocks of LENGTH tokens, without padding; `pairs` trains an encoder-decoder on two parallel
files, with dynamic padding. MODEL_DIR has config.json and tokenizer.json; a step has ROWS examples per rank. Prints one
JSON line on rank 0: real tokens per second of all ranks (sources and targets; steps after the first five), the last
loss and the peak resident set of rank 0.
"""

import gzip
import json
import resource
import sys
import time

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

WARM_UP = 5


def padded(rows, fill):
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def blocks(tokenizer, text, length):
    """Every block of the file, and a function from blocks to inputs and their number of tokens."""
    with open(text, encoding="utf-8") as file:
        ids = torch.tensor(tokenizer.encode(file.read()).ids)
    examples = ids[: len(ids) // length * length].view(-1, length)

    def batch(chosen):
        x = examples[chosen]
        return {"input_ids": x, "labels": x}, x.numel()

    return len(examples), batch


def pairs(tokenizer, files, length):
    """Every pair of lines, and a function from pairs to padded inputs and their number of real tokens."""
    def read(path):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            encoded = tokenizer.encode_batch([line.rstrip("\n") for line in file])
        return [row.ids[:length] for row in encoded]

    sources, targets = map(read, files.split(","))

    def batch(chosen):
        xs, ys = [sources[i] for i in chosen], [targets[i] for i in chosen]
        x = padded(xs, 0)
        inputs = {"input_ids": x, "attention_mask": (x != 0).long(), "labels": padded(ys, -100)}
        return inputs, sum(map(len, xs)) + sum(map(len, ys))

    return len(sources), batch


def main():
    kind, folder, text = sys.argv[1:4]
    length, rows, steps = map(int, sys.argv[4:7])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    count, batch = (blocks if kind == "blocks" else pairs)(tokenizer, text, length)
    order = torch.randperm(count).tolist()
    auto = AutoModelForCausalLM if kind == "blocks" else AutoModelForSeq2SeqLM
    config = AutoConfig.from_pretrained(folder)
    model = auto.from_config(config, attn_implementation="sdpa" if kind == "blocks" else None).train()
    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    loss, tokens, start = None, torch.zeros(1), 0.0
    for step in range(steps):
        if step == WARM_UP:
            tokens.zero_()
            dist.barrier()
            start = time.perf_counter()
        first = (step * world + rank) * rows
        inputs, real = batch([order[(first + row) % count] for row in range(rows)])
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += real
        loss = loss.item()
    dist.all_reduce(tokens)
    seconds = time.perf_counter() - start
    if rank == 0:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"tokens_per_s": round(tokens.item() / seconds, 1), "loss": round(loss, 4), "rss_mb": peak}))


if __name__ == "__main__":
    main()
