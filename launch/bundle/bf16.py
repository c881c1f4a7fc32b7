"""Rounds the fp32 weights of a model's folder to bf16 in place, to the nearest, ties to even: bf16.py FOLDER.

Needs nothing but Python. Only .safetensors files are converted; the dtype in config.json follows.
"""

import array
import json
import os
import struct
import sys


def rounded(part):
    words = array.array("I", part)
    return array.array(
        "H", [(word >> 16 | 0x40) if word & 0x7FFFFFFF > 0x7F800000 else word + 0x7FFF + (word >> 16 & 1) >> 16 for word in words]
    ).tobytes()


def convert(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        before, body = json.loads(file.read(length)), file.read()
    after, parts, at = {}, [], 0
    for name, info in before.items():
        if name == "__metadata__":
            after[name] = info
            continue
        begin, end = info["data_offsets"]
        part, dtype = body[begin:end], info["dtype"]
        if dtype == "F32":
            dtype, part = "BF16", rounded(part)
        after[name] = {"dtype": dtype, "shape": info["shape"], "data_offsets": [at, at + len(part)]}
        parts.append(part)
        at += len(part)
    header = json.dumps(after).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.writelines(parts)


def main(folder):
    names = [name for name in os.listdir(folder) if name.endswith(".safetensors")]
    if not names:
        sys.exit(f"{folder}: no .safetensors file to convert to bf16")
    for name in names:
        convert(os.path.join(folder, name))
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for key in ("dtype", "torch_dtype"):
        if config.get(key) == "float32":
            config[key] = "bfloat16"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, ensure_ascii=False)


main(sys.argv[1])
