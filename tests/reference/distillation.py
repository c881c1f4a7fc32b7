"""Makes the values that the tests of distillation compare with. Run by hand, never by a test.

    python tests/reference/distillation.py   # rewrites distillation.safetensors; the committed file: torch 2.11,
                                             # transformers 5.24

For a reference case of each task: the logits of a made-up teacher, and the loss (1 - ALPHA) * task + ALPHA * T^2 *
KL(teacher at T || model at T) (arXiv 1503.02531) with its gradients, in float64, stored as float32. With several labels
per example the second term is the binary cross entropy with the teacher's probabilities, for numbers the squared error,
without T. The gradients of word embeddings, the largest tensors, are left out.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import common

HERE = Path(__file__).resolve().parent
TEMPERATURE, ALPHA = 3.0, 0.7
# Name: the case's folder, its class, what transformers is asked.
CASES = {
    "classes": ("bert-classification", AutoModelForSequenceClassification,
                lambda b: common.sequence_classification(b, b["labels"])),
    "flags": ("cases/bert-multi-label", AutoModelForSequenceClassification,
              lambda b: common.sequence_classification(b, b["labels"])),
    "number": ("cases/camembert-number", AutoModelForSequenceClassification,
               lambda b: common.sequence_classification(b, b["labels"], pad_id=1)),
    "tokens": ("cases/bert-tokens", AutoModelForTokenClassification,
               lambda b: common.token_classification(b, b["token_labels"])),
    "choice": ("cases/bert-choice", AutoModelForMultipleChoice,
               lambda b: common.multiple_choice(b, int(b["widths"][0]), b["labels"])),
    "answers": ("cases/bert-answers", AutoModelForQuestionAnswering,
                lambda b: common.question_answering(b, b["labels"])),
}


def divergence(model, teacher):
    """T^2 times the mean over rows of the divergence, from logits [n, C]."""
    model, teacher = (functional.log_softmax(x / TEMPERATURE, -1) for x in (model, teacher))
    return functional.kl_div(model, teacher, reduction="batchmean", log_target=True) * TEMPERATURE**2


def taught(name, batch, model, teacher):
    """The teacher's part of the loss, from logits as the case has them."""
    if name == "number":
        return functional.mse_loss(model, teacher)
    if name == "flags":
        loss = functional.binary_cross_entropy_with_logits(model / TEMPERATURE, torch.sigmoid(teacher / TEMPERATURE))
        return loss * TEMPERATURE**2
    if name == "choice":
        choices = int(batch["widths"][0])
        return divergence(model.view(-1, choices), teacher.view(-1, choices))
    if name == "answers":
        # Each sequence by itself: windows differ in length.
        pairs = [common.rows(x, batch["lengths"]) for x in (model, teacher)]
        each = [divergence(m.t(), t.t()) for m, t in zip(*pairs, strict=True)]
        return sum(each) / len(each)
    return divergence(model, teacher)


def main():
    values = {}
    for seed, (name, (folder, cls, ask)) in enumerate(CASES.items()):
        batch = load_file(HERE / folder / "reference.safetensors")
        model = common.load(cls, HERE / folder, torch.float64)
        (logits,), loss = ask(batch)[1](model, torch.float64)
        generator = torch.Generator().manual_seed(seed)
        teacher = (2.0 * torch.randn(logits.shape, generator=generator)).float()
        loss = (1 - ALPHA) * loss + ALPHA * taught(name, batch, logits, teacher.double())
        loss.backward()
        values[f"{name}.teacher"] = teacher
        values[f"{name}.loss"] = loss.detach().reshape(1)
        for parameter, tensor in model.named_parameters():
            if tensor.grad is not None and "word_embeddings" not in parameter:
                values[f"{name}.grad.{parameter}"] = tensor.grad.float().contiguous()
    save_file(values, HERE / "distillation.safetensors")
    print({key: value.item() for key, value in values.items() if key.endswith(".loss")})


if __name__ == "__main__":
    main()
