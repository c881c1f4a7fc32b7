"""Compares the vectors of a folder in sentence-transformers with those of `trainer predict`. Run by hand.

    trainer predict --model FOLDER --input texts.jsonl --output vectors.jsonl
    python check_embeddings.py FOLDER texts.jsonl vectors.jsonl
"""

import json
import sys

import torch
from sentence_transformers import SentenceTransformer

TOLERANCE = 1e-5


def lines(path, key):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)[key] for line in file]


def main(folder, texts, vectors):
    expected = SentenceTransformer(folder, device="cpu").encode(lines(texts, "text"), convert_to_tensor=True).double()
    found = torch.tensor(lines(vectors, "embedding"), dtype=torch.float64)
    difference = (found - expected).norm(dim=1) / expected.norm(dim=1)
    print(f"{len(found)} vectors, largest relative difference {difference.max():.1e}")
    assert difference.max() < TOLERANCE


if __name__ == "__main__":
    main(*sys.argv[1:])
