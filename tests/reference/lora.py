"""Adapters on the reference cases, as peft saves them, and what peft makes of them. Run by hand: see common.py.

A case is a folder under `lora/`: `adapter_config.json`, `adapter_model.safetensors`, and `reference.safetensors` with the
logits, the loss, and the gradient of every trained tensor under the names of `adapter_model.safetensors`. Inputs are those
of the base case, which `base_model_name_or_path` names; `merged.safetensors` has the merged weights of some.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertForSequenceClassification,
    BertForSequenceClassification,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5ForConditionalGeneration,
)

import common
import t5

HERE = Path(__file__).resolve().parent
KEPT = ("adapter_config.json", "adapter_model.safetensors")


def randomise(model, seed, scale):
    """Adapters that change the model: B is not zero, magnitudes are not the norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            noise = torch.randn(weight.shape, generator=generator)
            if "magnitude" in name:
                weight.mul_(1 + scale * noise)
            else:
                weight.copy_((0.2 if "classifier" in name or "score" in name else scale) * noise)


def bare(name):
    """The name in adapter_model.safetensors."""
    return name.replace(".modules_to_save.default", "").replace(".default.weight", ".weight").replace("vector.weight", "vector")


def answer(cls, base, folder, run, dtype):
    model = PeftModel.from_pretrained(common.load(cls, base, dtype), folder, is_trainable=True, autocast_adapter_dtype=False)
    model = model.eval().to(dtype)
    logits, loss = run(model, dtype)
    loss.backward()
    values = {"logits": logits[0].detach(), "loss": loss.detach().reshape(1)}
    grads = {bare(name): p.grad for name, p in model.named_parameters() if p.requires_grad}
    squares = sum(g.double().square().sum().item() for g in grads.values())
    values |= {f"grad.{name}": g for name, g in grads.items()}
    return values | {"grad_norm": torch.tensor([squares**0.5], dtype=torch.float64)}


def case(name, cls, base, run, config, seed=1, scale=0.15, merged=False):
    base = HERE / base
    folder = HERE / "lora" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = get_peft_model(cls.from_pretrained(base), config)
    randomise(model, seed, scale)
    model.save_pretrained(folder)
    for file in folder.iterdir():
        if file.name not in KEPT:
            file.unlink()
    file = folder / KEPT[0]
    written = json.loads(file.read_text())
    written["base_model_name_or_path"] = str(Path("tests/reference") / base.relative_to(HERE))
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    values = answer(cls, base, folder, run, torch.float32)
    common.check(name, values, answer(cls, base, folder, run, torch.float64), ("",))
    save_file({k: v.contiguous() for k, v in values.items()}, folder / "reference.safetensors")
    stored = set(load_file(folder / KEPT[1]))
    assert stored == {key.removeprefix("grad.") for key in values if key.startswith("grad.")}, stored
    if merged:
        whole = PeftModel.from_pretrained(common.load(cls, base, torch.float32), folder).merge_and_unload()
        changed = {k: v for k, v in whole.state_dict().items() if not torch.equal(v, load_file(base / "model.safetensors").get(k, v))}
        save_file({k: v.contiguous() for k, v in changed.items()}, folder / "merged.safetensors")


def inputs(base):
    values = load_file(HERE / base / "reference.safetensors")
    return {key: values[key] for key in ("input_ids", "token_type_ids", "lengths")}, values.get("labels")


def main():
    base = "bert-classification"
    run = common.sequence_classification(*inputs(base))[1]
    linear = dict(task_type=TaskType.SEQ_CLS, target_modules="all-linear")
    case("bert", BertForSequenceClassification, base, run, LoraConfig(**linear, r=4, lora_alpha=6), merged=True)
    case("bert-dora", BertForSequenceClassification, base, run, LoraConfig(**linear, r=2, use_dora=True), merged=True)
    some = dict(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"], r=3, lora_alpha=5, use_rslora=True)
    case("bert-some", BertForSequenceClassification, base, run, LoraConfig(**some, use_dora=True))

    base = "cases/llama-causal"
    run = common.causal_lm(inputs(base)[0], segments=False)[1]
    linear = dict(task_type=TaskType.CAUSAL_LM, target_modules="all-linear")
    case("llama", LlamaForCausalLM, base, run, LoraConfig(**linear, r=2), merged=True)
    case("llama-dora", LlamaForCausalLM, base, run, LoraConfig(**linear, r=2, use_dora=True), seed=2, scale=0.05)
    base = "cases/llama-classes"
    run = common.sequence_classification(*inputs(base), segments=False)[1]
    parts = ["k_proj", "gate_proj", "down_proj"]
    case("llama-classes", LlamaForSequenceClassification, base, run, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=parts, r=2))

    base = "cases/gpt2-causal"
    run = common.causal_lm(inputs(base)[0], segments=False)[1]
    conv = dict(task_type=TaskType.CAUSAL_LM, target_modules="all-linear", fan_in_fan_out=True)
    case("gpt2", GPT2LMHeadModel, base, run, LoraConfig(**conv, r=2))
    case("gpt2-dora", GPT2LMHeadModel, base, run, LoraConfig(**conv, r=2, use_dora=True), merged=True)

    run = t5.batch()[1]
    config = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, target_modules="all-linear", r=2, use_rslora=True)
    case("t5", T5ForConditionalGeneration, "cases/t5-gated-gelu", run, config)

    base = "cases/albert-classes"
    run = common.sequence_classification(*inputs(base))[1]
    linear = dict(task_type=TaskType.SEQ_CLS, target_modules="all-linear")
    case("albert", AlbertForSequenceClassification, base, run, LoraConfig(**linear, r=2))
    case("albert-dora", AlbertForSequenceClassification, base, run, LoraConfig(**linear, r=2, use_dora=True))


if __name__ == "__main__":
    main()
