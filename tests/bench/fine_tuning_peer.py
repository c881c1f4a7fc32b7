"""One run of a fine-tuning method in PyTorch: DistributedDataParallel (gloo, CPU), transformers and peft.

usage: torchrun --nproc-per-node N fine_tuning_peer.py METHOD MODEL TRAIN.tsv DEV.tsv STEPS BATCH_PER_RANK RATE SEED
METHOD is one of those of fine_tuning.py that the libraries offer: full, top-half, head, layer-decay, bitfit, lora, dora.
Constant learning rate after a linear warm-up over a tenth of the steps, AdamW without weight decay, clipping at 1.0,
dropout as the model has it. Prints one JSON line on rank 0.
"""

import json
import os
import resource
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

WARM_UP = 5  # steps that are not timed
DECAY = 0.8


def read(path):
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [row[0] for row in rows], [int(row[1]) for row in rows]


def batch(encoded, labels, chosen):
    longest = max(len(encoded[i]) for i in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, i in enumerate(chosen):
        ids[row, : len(encoded[i])] = torch.tensor(encoded[i])
        mask[row, : len(encoded[i])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([labels[i] for i in chosen])}


def layer_of(name, layers):
    """Depth of a parameter: 0 for the embeddings, layers + 1 for what is above the last layer."""
    if "embeddings" in name:
        return 0
    parts = name.split(".")
    return int(parts[parts.index("layer") + 1]) + 1 if "layer" in parts else layers + 1


def prepare(method, model, rate):
    """Freezes or adapts the model; returns it and the optimizer's parameter groups."""
    layers = model.config.num_hidden_layers
    if method in ("lora", "dora"):
        from peft import LoraConfig, TaskType, get_peft_model

        # A list rather than "all-linear", which would not leave out the pooler's layer.
        model = get_peft_model(model, LoraConfig(
            task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.0, use_dora=method == "dora",
            target_modules=["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]))
    trained = {
        "top-half": lambda name: layer_of(name, layers) > layers // 2,
        "head": lambda name: name.startswith("classifier"),
        "bitfit": lambda name: name.endswith(".bias") or name.startswith("classifier"),
    }.get(method)
    if trained:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = trained(name)
    if method == "layer-decay":
        groups = {}
        for name, parameter in model.named_parameters():
            groups.setdefault(layer_of(name, layers), []).append(parameter)
        return model, [
            {"params": each, "lr": rate * DECAY ** (layers + 1 - depth)} for depth, each in groups.items()]
    return model, [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]


def main():
    method, folder, train, dev = sys.argv[1:5]
    steps, size, rate, seed = int(sys.argv[5]), int(sys.argv[6]), float(sys.argv[7]), int(sys.argv[8])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (texts, labels), (dev_texts, dev_labels) = read(train), read(dev)
    encoded, dev_encoded = (tokenizer(x, truncation=True, max_length=128)["input_ids"] for x in (texts, dev_texts))
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model, groups = prepare(method, model, rate)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    model.train()
    network = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warm))
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(seed)).tolist()
    tokens, began = 0, None
    for step in range(steps):
        if step == WARM_UP:
            tokens, began = 0, time.perf_counter()
        at = (step * world + rank) * size
        inputs = batch(encoded, labels, [order[i % len(order)] for i in range(at, at + size)])
        optimizer.zero_grad()
        loss = network(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        loss.item()
        tokens += int(inputs["attention_mask"].sum())
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(rank * 32, len(dev_encoded), 32 * world):
            inputs = batch(dev_encoded, dev_labels, range(start, min(start + 32, len(dev_encoded))))
            right += int((model(**inputs).logits.argmax(-1) == inputs["labels"]).sum())
    sums = torch.tensor([right, tokens], dtype=torch.float64)
    dist.all_reduce(sums)
    if rank == 0:
        print(json.dumps({"trained": trained, "tokens_per_s": sums[1].item() / seconds, "rss_mb": memory,
                          "accuracy": sums[0].item() / len(dev_encoded)}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
