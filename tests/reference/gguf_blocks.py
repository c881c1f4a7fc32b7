"""Makes the blocks that the unit tests of GGUF files compare with. Run by hand, never by a test.

    python tests/reference/gguf_blocks.py   # rewrites gguf_blocks.json; the committed file: gguf 0.19, numpy 2.4

Each case has 32 fp32 numbers by their bits, and their bytes in q8_0, bf16 and f16 by the `gguf` package.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

BLOCK = 32


def cases():
    rng = np.random.default_rng(7)
    yield "normal", rng.standard_normal(BLOCK)
    yield "weights", rng.standard_normal(BLOCK) * 0.02
    yield "zeros", np.zeros(BLOCK)
    # With the scale 1, halves are rounded away from zero.
    yield "halves", np.concatenate([[127.0, -127.0], np.arange(-15, 15) + 0.5])
    # Even and odd halves of the last place of bf16 and of f16.
    yield "ties", np.concatenate([1 + np.arange(16) * 2.0**-8, 1 + np.arange(16) * 2.0**-11])
    # Scales and numbers that are subnormal in f16, and zero there.
    yield "subnormal", rng.standard_normal(BLOCK) * 1e-6
    yield "tiny", rng.standard_normal(BLOCK) * 1e-9
    yield "large", rng.uniform(-6e4, 6e4, BLOCK)
    yield "one", np.eye(1, BLOCK, 5)[0] * -3.7
    yield "wide", rng.standard_normal(BLOCK) * 10.0 ** rng.uniform(-6, 3, BLOCK)


def main():
    found = []
    for name, values in cases():
        values = values.astype(np.float32)
        case = {"name": name, "fp32_bits": values.view(np.uint32).tolist()}
        for key, kind in [("q8_0", Type.Q8_0), ("bf16", Type.BF16), ("f16", Type.F16)]:
            case[key] = quantize(values, kind).tobytes().hex()
        found.append(case)
    text = "[\n" + ",\n".join(json.dumps(case) for case in found) + "\n]\n"
    Path(__file__).with_suffix(".json").write_text(text)


if __name__ == "__main__":
    main()
