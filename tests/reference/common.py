"""What the generators of reference cases share: small random models, ragged inputs, and what transformers makes of them.

A case is a folder under `cases/`: `config.json`, `model.safetensors` and `reference.safetensors`. README.md lists the
tensors. A run fails unless the folder loads without a missing or an unexpected key, float32 agrees with float64 to a
quarter of the tolerances that the tests use, and every gradient is large enough to be compared.
"""

import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

CASES = Path(__file__).resolve().parent / "cases"

# The tests' tolerances; a generator demands a quarter of each from float32 itself.
LOGITS, LOSS, GRADIENT, GRADIENT_OF_GLOBAL = 1e-5, 1e-6, 1e-5, 1e-7
IGNORED = -100


def randomise(model, scale, seed):
    """Weights far larger than a fresh model's: no gradient is small, no nonlinearity stays in its linear part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight") or name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_((0.2 if name.endswith("bias") else scale) * noise)


def sequences(lengths, vocab, seed, first=5, pairs=()):
    """Random token ids of these lengths in `first..vocab`: input_ids [T], token_type_ids [T], lengths [S].

    `pairs` gives for each sequence where its second text begins (None: nowhere).
    """
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(first, vocab, (n,), generator=generator) for n in lengths]
    starts = list(pairs) or [None] * len(lengths)
    types = [(torch.arange(n) >= (n if start is None else start)).long() for n, start in zip(lengths, starts, strict=True)]
    return {"input_ids": torch.cat(ids), "token_type_ids": torch.cat(types), "lengths": torch.tensor(lengths)}


def rows(flat, lengths):
    """A flat tensor [T, ...] as a list of each sequence's part."""
    return list(torch.split(flat, lengths.tolist()))


def padded(parts, fill, left=False):
    """A list of [n, ...] as [B, longest, ...], filled up behind or, with `left`, before."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill, padding_side=side)


def arrays(batch, pad_id=0, segments=True, left=False):
    """The ragged batch as transformers takes it: arrays [S, longest] and a mask."""
    ids = rows(batch["input_ids"], batch["lengths"])
    out = {"input_ids": padded(ids, pad_id, left), "attention_mask": padded([torch.ones_like(i) for i in ids], 0, left)}
    if segments:
        out["token_type_ids"] = padded(rows(batch["token_type_ids"], batch["lengths"]), 0, left)
    return out


def load(cls, folder, dtype, attention="eager"):
    """The model of a folder as transformers loads it, in eval mode, on the plain (eager) attention."""
    model, info = cls.from_pretrained(folder, dtype=dtype, attn_implementation=attention, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"], info
    return model.eval().to(dtype)  # XLNet's attention stays float32 otherwise


def answer(cls, folder, run, dtype, attention="eager"):
    """Logits, loss [1] and every parameter's gradient of it; `run(model)` gives ([logits, ...], loss)."""
    model = load(cls, folder, dtype, attention)
    logits, loss = run(model)
    loss.backward()
    values = {"logits" if i == 0 else f"logits.{i}": x.detach() for i, x in enumerate(logits)}
    values["loss"] = loss.detach().reshape(1)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    squares = sum(g.double().square().sum().item() for g in grads.values())
    values |= {f"grad.{name}": g for name, g in grads.items()}
    values["grad_norm"] = torch.tensor([math.sqrt(squares)], dtype=torch.float64)
    return values


def check(name, values, exact, tiny):
    """Fails unless `values` (fp32) are within a quarter of the tolerances of `exact` and no gradient is too small."""
    worst = {}
    for key in exact:
        off = (values[key].double() - exact[key].double()).abs()
        if key.startswith("logits"):
            worst["logits"] = max(worst.get("logits", 0.0), off.max().item() / LOGITS)
        elif key in ("loss", "grad_norm"):
            worst[key] = (off / exact[key]).item() / (LOSS if key == "loss" else GRADIENT)
        else:
            norm, total = exact[key].norm().item(), exact["grad_norm"].item()
            allowed = max(GRADIENT * norm, GRADIENT_OF_GLOBAL * total)
            worst["gradients"] = max(worst.get("gradients", 0.0), off.norm().item() / allowed)
            assert norm > 1e-3 * total or any(part in key for part in tiny), f"{name}: {key} has norm {norm} of {total}"
    print(name, "float32 against float64, in units of the tolerance:", {k: f"{v:.3f}" for k, v in worst.items()})
    assert all(v < 0.25 for v in worst.values()), f"{name}: choose another scale or seed"


def case(name, model, inputs, run, scale=0.2, seed=1, tiny=("key.bias",), dtype=None, exact="eager"):
    """Writes a case. `inputs` are the tensors that a test builds its batch from; `run(model, dtype)` gives logits and loss.

    `tiny` names gradients that are zero but for rounding: the softmax does not see a shift of all scores, so a key's
    bias has none. A model of another `dtype` is compared in fp32. `exact` is the attention of float64.
    """
    folder = CASES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    randomise(model, scale, seed)
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    values = answer(type(model), folder, lambda m: run(m, torch.float32), torch.float32)
    check(name, values, answer(type(model), folder, lambda m: run(m, torch.float64), torch.float64, exact), tiny)
    for file in folder.iterdir():
        if file.name not in ("config.json", "model.safetensors", "generation_config.json"):
            file.unlink()
    save_file({k: v.contiguous() for k, v in (inputs | values).items()}, folder / "reference.safetensors")


# One function a role: the case's inputs, and how transformers is asked. `options` go to `arrays`.


def sequence_classification(batch, labels, **options):
    """labels: i64 [B] classes, f32 [B] values, or f32 [B, C] flags."""

    def run(model, dtype):
        out = model(**arrays(batch, **options), labels=labels.to(dtype) if labels.is_floating_point() else labels)
        return [out.logits], out.loss

    return batch | {"labels": labels}, run


def token_classification(batch, labels, **options):
    """labels: i64 [T], IGNORED where a token has none. Logits are those of the labelled tokens."""

    def run(model, _):
        wanted = padded(rows(labels, batch["lengths"]), IGNORED)
        out = model(**arrays(batch, **options), labels=wanted)
        return [out.logits[wanted != IGNORED]], out.loss

    return batch | {"token_labels": labels}, run


def masked_lm(batch, labels, next_sentence=None, names=("next_sentence_label", "seq_relationship_logits"), **options):
    """As token classification, over the vocabulary; next_sentence: i64 [B]; names: how transformers takes and gives it."""
    if next_sentence is None:
        return token_classification(batch, labels, **options)

    def run(model, _):
        wanted = padded(rows(labels, batch["lengths"]), IGNORED)
        out = model(**arrays(batch, **options), labels=wanted, **{names[0]: next_sentence})
        return [out.prediction_logits[wanted != IGNORED], out[names[1]]], out.loss

    return batch | {"token_labels": labels, "labels": next_sentence}, run


def question_answering(batch, spans, **options):
    """spans: i64 [B, 2]. Logits are [T, 2].

    The loss is transformers' for each sequence alone: in a batch it lets scores of padding into the softmax.
    """

    def run(model, _):
        array = arrays(batch, **options)
        out = model(**array)
        real = array["attention_mask"].bool()
        ends = [x.masked_fill(~real, -torch.inf) for x in (out.start_logits, out.end_logits)]
        loss = sum(torch.nn.functional.cross_entropy(x, spans[:, i]) for i, x in enumerate(ends)) / 2
        return [torch.stack([out.start_logits[real], out.end_logits[real]], -1)], loss

    return batch | {"labels": spans}, run


def multiple_choice(batch, choices, labels, **options):
    """labels: i64 [B]; as many choices for every example."""

    def run(model, _):
        array = {k: v.view(-1, choices, v.shape[-1]) for k, v in arrays(batch, **options).items()}
        out = model(**array, labels=labels)
        return [out.logits.reshape(-1, 1)], out.loss

    return batch | {"labels": labels, "widths": torch.full((len(labels),), choices)}, run


def causal_lm(batch, **options):
    """Every token but the first of a sequence is told. Logits are those of the tokens that tell one."""

    def run(model, _):
        array = arrays(batch, **options)
        wanted = array["input_ids"].masked_fill(array["attention_mask"] == 0, IGNORED)
        out = model(**array, labels=wanted)
        told = torch.nn.functional.pad(wanted[:, 1:], (0, 1), value=IGNORED) != IGNORED
        return [out.logits[told]], out.loss

    return batch, run


def seq2seq(source, target, start, **options):
    """Both are batches. A source and its target are the two sequences of one example."""

    def run(model, _):
        wanted = padded(rows(target["input_ids"], target["lengths"]), IGNORED)
        out = model(**arrays(source, segments=False, **options), labels=wanted)
        return [out.logits[wanted != IGNORED]], out.loss

    both = [part for pair in zip(rows(source["input_ids"], source["lengths"]), rows(target["input_ids"], target["lengths"])) for part in pair]
    ids = torch.cat(both)
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "lengths": torch.tensor([len(part) for part in both]),
        "widths": torch.full((len(source["lengths"]),), 2),
        "decoder_start": torch.tensor([start]),
    }
    return inputs, run
