"""Makes the values that the tests of weighted and smoothed losses compare with. Run by hand, never by a test.

    python tests/reference/losses.py     # rewrites losses.safetensors; the committed file: torch 2.11, transformers 5.24

For reference cases the loss and every gradient of `torch.nn.CrossEntropyLoss` with class weights, label smoothing or
both, in float64, stored as float32. With weights of examples, also of the other losses: the sum of the weighted losses
divided by the sum of the weights.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

import common

HERE = Path(__file__).resolve().parent
SMOOTHING = 0.2
# Name: the case's folder, its class, whether classes are weighted, the smoothing. Examples are weighted in `WEIGHTED`.
LOSSES = {
    "classes": ("bert-classification", AutoModelForSequenceClassification, [0.5, 2.0, 3.0], SMOOTHING),
    "classes-weighted": ("bert-classification", AutoModelForSequenceClassification, [0.5, 2.0, 3.0], 0.0),
    "tokens": ("cases/bert-tokens", AutoModelForTokenClassification, [0.25, 1.0, 4.0, 0.0, 2.0], SMOOTHING),
    "next-token": ("cases/gpt2-causal", AutoModelForCausalLM, None, SMOOTHING),
    "examples": ("bert-classification", AutoModelForSequenceClassification, [0.5, 2.0, 3.0], SMOOTHING),
    "examples-numbers": ("bert-pairs-regression", AutoModelForSequenceClassification, None, 0.0),
    "examples-flags": ("cases/bert-multi-label", AutoModelForSequenceClassification, None, 0.0),
}
WEIGHTED = ["examples", "examples-numbers", "examples-flags"]


def targets(name, batch):
    """The class of each row of the padded logits, -100 where there is none."""
    ids = common.rows(batch["input_ids"], batch["lengths"])
    if name == "next-token":
        shifted = [torch.cat([i[1:], torch.tensor([common.IGNORED])]) for i in ids]
        return common.padded(shifted, common.IGNORED)
    if name == "tokens":
        return common.padded(common.rows(batch["token_labels"], batch["lengths"]), common.IGNORED)
    return batch["labels"]


def of_examples(labels, logits, weight, smoothing):
    """The mean loss with weights of examples: 0, 1, 2, 0.5, 1.5, 0, ..."""
    examples = torch.tensor([i * 7 % 5 / 2 for i in range(len(labels))], dtype=torch.float64)
    if not labels.is_floating_point():
        losses = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing, reduction="none")(logits, labels)
        return (examples * losses).sum() / (examples * weight[labels]).sum()
    if labels.dim() == 1:
        losses = torch.nn.MSELoss(reduction="none")(logits.squeeze(1), labels.double())
    else:
        losses = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, labels.double()).mean(1)
    return (examples * losses).sum() / examples.sum()


def main():
    values = {}
    for name, (folder, cls, weights, smoothing) in LOSSES.items():
        batch = load_file(HERE / folder / "reference.safetensors")
        model = common.load(cls, HERE / folder, torch.float64)
        logits = model(**common.arrays(batch, segments="gpt2" not in folder)).logits
        weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        if name in WEIGHTED:
            loss = of_examples(batch["labels"], logits, weight, smoothing)
        else:
            loss = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)(
                logits.flatten(0, -2), targets(name, batch).flatten())
        loss.backward()
        values[f"{name}.loss"] = loss.detach().reshape(1)
        for parameter, tensor in model.named_parameters():
            if tensor.grad is not None:
                values[f"{name}.grad.{parameter}"] = tensor.grad.float().contiguous()
    save_file(values, HERE / "losses.safetensors")
    print({key: value.item() for key, value in values.items() if key.endswith(".loss")})


if __name__ == "__main__":
    main()
