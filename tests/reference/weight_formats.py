"""Weight files as torch.save writes them, for the tests of src/checkpoint/formats and tests/weight_files.rs.

    python tests/reference/weight_formats.py     # rewrites formats/torch: torch 2.13, safetensors

`zip.bin`, `legacy.bin` and `protocol-4.bin` hold the same state dict: every dtype, tied tensors, views with strides and
offsets, a parameter. `expected.safetensors` has what torch.load gives for each name. `calls-*.bin` call a function when
they are unpickled, each in another way: a reader must refuse them by name. `gpt2-causal` is the case of that name as one
file, in which two names share a storage; `sharded` is `llama-causal` as several files with an index.
"""

import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
OUT = HERE / "formats" / "torch"


def state():
    """A state dict with everything that one can have."""
    torch.manual_seed(3)
    base = torch.randn(6, 5)
    tied = torch.randn(7, 2)
    tensors = OrderedDict(
        f32=torch.randn(3, 4),
        f64=torch.randn(2, 3, dtype=torch.float64),
        f16=torch.randn(5).half(),
        bf16=torch.randn(5).bfloat16(),
        i64=torch.arange(4) * -(2**40),
        i32=torch.arange(4, dtype=torch.int32) - 2,
        i16=torch.arange(4, dtype=torch.int16) - 2,
        i8=torch.arange(4, dtype=torch.int8) - 2,
        u8=torch.arange(4, dtype=torch.uint8) + 250,
        bool=torch.tensor([True, False, True]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )
    tensors["tied.a"], tensors["tied.b"] = tied, tied
    tensors["view.transposed"] = base.t()
    tensors["view.rows"] = base[2:4]
    tensors["view.columns"] = base[:, 1:4]
    tensors["view.step"] = base[::2, ::2]
    tensors["view.permuted"] = torch.randn(2, 3, 4).permute(2, 0, 1)
    tensors._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})
    return tensors


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


class Object:
    """An object of a class, with attributes."""

    def __init__(self):
        self.step = 3


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    torch.save(state(), OUT / "zip.bin")
    torch.save(state(), OUT / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save(state(), OUT / "protocol-4.bin", pickle_protocol=4)
    for name in ["zip", "legacy", "protocol-4"]:
        loaded = torch.load(OUT / f"{name}.bin", weights_only=name != "protocol-4")
        assert list(loaded) == list(state()) and all(torch.equal(loaded[k], v) for k, v in state().items())
    contiguous = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in loaded.items()}
    save_file(contiguous, OUT / "expected.safetensors")

    ran = "executed-by-a-pickle"
    torch.save({"weight": Calls(os.system, f"touch {ran}")}, OUT / "calls-system.bin")
    torch.save({"weight": Calls(os.system, f"touch {ran}")}, OUT / "calls-legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"weight": Calls(eval, f"open({ran!r}, 'w')")}, OUT / "calls-eval.bin", pickle_protocol=4)
    torch.save({"weight": torch.ones(2), "state": Object()}, OUT / "calls-object.bin")
    torch.save({"model": {"weight": torch.ones(2)}, "step": 3}, OUT / "nested.bin")
    torch.save([torch.ones(2)], OUT / "list.bin")

    gpt2 = OUT / "gpt2-causal"
    gpt2.mkdir()
    shutil.copy(HERE / "cases" / "gpt2-causal" / "config.json", gpt2)
    weights = load_file(HERE / "cases" / "gpt2-causal" / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save(weights, gpt2 / "pytorch_model.bin")

    sharded = OUT / "sharded"
    sharded.mkdir()
    shutil.copy(HERE / "cases" / "llama-causal" / "config.json", sharded)
    weights = load_file(HERE / "cases" / "llama-causal" / "model.safetensors")
    names, places = list(weights), {}
    for i, part in enumerate([names[::2], names[1::2]]):
        file = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, sharded / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": places}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
