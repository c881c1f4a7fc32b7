"""Makes the values that the unit tests of learning rate schedules compare with. Run by hand, never by a test.

    python tests/reference/schedules.py     # rewrites schedules.json; the committed file: torch 2.11, transformers 5.24

Each schedule at 50 steps, from `transformers.get_scheduler`, torch's `ExponentialLR` and `ReduceLROnPlateau`, and the
formula of ULMFiT (arXiv 1801.06146, section 3.2).
"""

import json
import math
import random
from pathlib import Path

import torch
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from transformers import get_scheduler

STEPS = 50
RATE = 0.003
EPOCH = 12


def optimizer(rate=RATE):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def rates(opt, step):
    found = []
    for done in range(STEPS):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        step(done + 1)
    return found


def hugging_face(name, warmup, kwargs):
    opt = optimizer()
    steps = math.ceil(STEPS * warmup) if warmup < 1 else warmup
    given = dict(kwargs)
    if name == "warmup_stable_decay" and "num_decay_steps" not in given:
        given["num_decay_steps"] = 5  # our default: a tenth of the steps
    schedule = get_scheduler(name, opt, steps, STEPS, scheduler_specific_kwargs=given)
    return rates(opt, lambda _: schedule.step())


def exponential(gamma=0.95):
    opt = optimizer()
    schedule = ExponentialLR(opt, gamma)
    return rates(opt, lambda done: schedule.step() if done % EPOCH == 0 else None)


def triangle(cut_frac=0.1, ratio=32):
    cut = math.floor(STEPS * cut_frac)

    def rate(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        return RATE * (1 + p * (ratio - 1)) / ratio

    return [rate(t) for t in range(STEPS)]


def plateau(kwargs, seed):
    random.seed(seed)
    # Falls and then stays, with noise.
    metrics = [1 / (1 + min(n, 15)) + random.random() * 0.05 for n in range(STEPS)]
    if kwargs.get("mode") == "max":
        metrics = [1 - metric for metric in metrics]
    metrics[7] = math.nan
    opt = optimizer(0.1)
    schedule = ReduceLROnPlateau(opt, **kwargs)
    found = []
    for metric in metrics:
        schedule.step(metric)
        found.append(opt.param_groups[0]["lr"])
    return [None if math.isnan(metric) else metric for metric in metrics], found


def main():
    cases = [
        ("linear", 0, {}),
        ("linear", 7, {}),
        ("linear", 0.13, {}),
        ("cosine", 5, {}),
        ("cosine", 0, {"num_cycles": 1.25}),
        ("cosine_with_restarts", 5, {}),
        ("cosine_with_restarts", 3, {"num_cycles": 3}),
        ("cosine_with_min_lr", 5, {"min_lr": 0.0005}),
        ("cosine_with_min_lr", 0, {"min_lr_rate": 0.1, "num_cycles": 0.75}),
        ("polynomial", 5, {}),
        ("polynomial", 0, {"lr_end": 0.0002, "power": 2.5}),
        ("constant", 0, {}),
        ("constant_with_warmup", 10, {}),
        ("inverse_sqrt", 10, {}),
        ("inverse_sqrt", 0, {}),
        ("inverse_sqrt", 4, {"timescale": 20}),
        ("warmup_stable_decay", 5, {}),
        ("warmup_stable_decay", 8, {"num_decay_steps": 20, "decay_type": "linear", "warmup_type": "cosine"}),
        (
            "warmup_stable_decay",
            8,
            {"num_decay_steps": 15, "num_stable_steps": 20, "decay_type": "1-sqrt", "warmup_type": "1-sqrt", "min_lr_ratio": 0.05},
        ),
        ("warmup_stable_decay", 0, {"num_decay_steps": 25, "num_cycles": 1.5, "min_lr_ratio": 0.2}),
    ]
    found = [(name, warmup, kwargs, hugging_face(name, warmup, kwargs)) for name, warmup, kwargs in cases]
    found += [("exponential", 0, kwargs, exponential(**kwargs)) for kwargs in ({}, {"gamma": 0.5})]
    found += [
        ("slanted_triangular", 0, kwargs, triangle(**kwargs)) for kwargs in ({}, {"cut_frac": 0.2, "ratio": 10})
    ]
    schedules = [
        {"name": name, "warmup": warmup, "kwargs": kwargs, "learning_rate": RATE, "epoch": EPOCH, "rates": values}
        for name, warmup, kwargs, values in found
    ]
    plateaus = []
    for seed, kwargs in enumerate(
        [
            {"mode": "min", "patience": 3},
            {"mode": "max", "factor": 0.5, "patience": 1, "cooldown": 2, "threshold": 0.01, "threshold_mode": "abs"},
            {"mode": "min", "factor": 0.3, "patience": 0, "min_lr": 0.002, "eps": 0.001, "threshold": 0.02},
            {"mode": "max"},
        ]
    ):
        metrics, values = plateau(kwargs, seed)
        plateaus.append(
            {"name": "reduce_lr_on_plateau", "warmup": 0, "kwargs": kwargs, "learning_rate": 0.1, "metrics": metrics, "rates": values}
        )
    lines = [f'"{key}": [\n' + ",\n".join(map(json.dumps, value)) + "\n]" for key, value in (("schedules", schedules), ("plateaus", plateaus))]
    (Path(__file__).resolve().parent / "schedules.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
