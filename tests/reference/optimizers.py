"""Makes the values that `tests/optimizers.rs` compares with. Run by hand, never by a test.

    python tests/reference/optimizers.py    # rewrites optimizers.safetensors; committed: torch 2.11, transformers 5.24

50 updates of a few tensors by made-up gradients: by `torch.optim`, `transformers.Adafactor`, and for Lion by algorithm 2
of its paper (arXiv 2302.06675). In fp64, except Muon, which iterates in bf16. The tensors are three matrices of 4 x 20
(as queries, keys and values are stored), one of 24 x 8, and a vector of 10 without weight decay.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Adafactor

STEPS = 50
SHAPES = [(4, 20), (4, 20), (4, 20), (24, 8), (10,)]
SIZES = [torch.Size(shape).numel() for shape in SHAPES]
torch.set_num_threads(1)


class Lion(torch.optim.Optimizer):
    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = torch.sign(beta1 * m + (1 - beta1) * p.grad)
                p -= group["lr"] * (update + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


class Muon:
    """Muon for the matrices, AdamW for the vector."""

    def __init__(self, groups, lr, weight_decay, **kwargs):
        matrices, vector = groups
        self.both = [
            torch.optim.Muon(matrices["params"], lr=lr, weight_decay=weight_decay, **kwargs),
            torch.optim.AdamW(vector["params"], lr=lr, weight_decay=0.0, foreach=False),
        ]

    @property
    def param_groups(self):
        return [group for one in self.both for group in one.param_groups]

    def step(self):
        for one in self.both:
            one.step()


def run(weights, grads, make, rate, decay, dtype=torch.float64, penalties=(0.0, 0.0)):
    tensors = [
        part.reshape(shape).to(dtype).clone().requires_grad_() for part, shape in zip(weights.split(SIZES), SHAPES)
    ]
    groups = [
        {"params": tensors[:4], "weight_decay": decay},
        {"params": tensors[4:], "weight_decay": 0.0},
    ]
    optimizer = make(groups)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / 100)
        for index, (tensor, grad) in enumerate(zip(tensors, grads[step].split(SIZES))):
            tensor.grad = grad.reshape(tensor.shape).to(dtype)
            if index < 4:
                tensor.grad += penalties[0] * tensor.detach().sign() + penalties[1] * tensor.detach()
        optimizer.step()
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).float()


def main():
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(sum(SIZES), generator=generator) * 0.5
    noise = torch.randn(STEPS, sum(SIZES), generator=generator)
    drift = torch.randn(sum(SIZES), generator=generator)
    scale = torch.rand(sum(SIZES), generator=generator) * 0.9 + 0.1
    grads = ((noise + drift) * scale).bfloat16()
    optim = torch.optim
    betas = {"betas": (0.9, 0.99), "eps": 1e-6, "foreach": False}
    f32 = {"dtype": torch.float32}
    cases = {
        "adamw": (lambda g: optim.AdamW(g, **betas), 0.01, 0.1, {}),
        "adam": (lambda g: optim.Adam(g, **betas), 0.01, 0.1, {}),
        "sgd": (lambda g: optim.SGD(g, lr=1.0), 0.02, 0.1, {}),
        "sgd_momentum": (lambda g: optim.SGD(g, lr=1.0, momentum=0.9), 0.005, 0.1, {}),
        "sgd_nesterov": (lambda g: optim.SGD(g, lr=1.0, momentum=0.8, nesterov=True), 0.005, 0.0, {}),
        "adagrad": (lambda g: optim.Adagrad(g), 0.05, 0.1, {}),
        "adagrad_decay": (lambda g: optim.Adagrad(g, lr_decay=0.05, eps=1e-6), 0.05, 0.0, {}),
        "rmsprop": (lambda g: optim.RMSprop(g), 0.005, 0.1, {}),
        "rmsprop_all": (
            lambda g: optim.RMSprop(g, alpha=0.9, eps=1e-5, momentum=0.8, centered=True), 0.002, 0.0, {},
        ),
        "lion": (lambda g: Lion(g, 0.002, (0.9, 0.99)), 0.002, 0.3, {}),
        "adafactor": (
            lambda g: Adafactor(g, lr=1.0, scale_parameter=False, relative_step=False), 0.01, 0.1, {},
        ),
        "muon": (lambda g: Muon(g, 0.01, 0.1), 0.01, 0.1, f32),
        "muon_all": (
            lambda g: Muon(g, 0.02, 0.0, momentum=0.9, nesterov=False, ns_steps=6, adjust_lr_fn="match_rms_adamw"),
            0.02, 0.0, f32,
        ),
        "penalties": (lambda g: optim.AdamW(g, foreach=False), 0.01, 0.1, {"penalties": (0.3, 0.2)}),
    }
    found = {"weights": weights, "grads": grads}
    for name, (make, rate, decay, more) in cases.items():
        found[f"{name}.updated"] = run(weights, grads, make, rate, decay, **more)
    save_file(found, Path(__file__).resolve().parent / "optimizers.safetensors")


main()
