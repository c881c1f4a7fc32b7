"""Writes the reference cases as whole model folders with made-up data that can be learnt, so that trainer runs on them.

What `tests/common/cases.rs` does for the project's own tests, on a machine without Rust.
"""

import json
import random
import shutil
from pathlib import Path

# A case of every family, what it is trained for, and the records of that task.
CASES = {
    "bert-pretraining": "masked-lm",
    "bert-choice": "multiple-choice",
    "bert-tokens": "token-classification",
    "roberta-masked": "masked-lm",
    "distilbert-tokens": "token-classification",
    "albert-classes": "sequence-classification",
    "modernbert-masked": "masked-lm",
    "xlnet-classes": "sequence-classification",
    "gpt2-causal": "causal-lm",
    "llama-causal": "causal-lm",
    "qwen2-tokens": "token-classification",
    "qwen3-causal": "causal-lm",
    "mistral-answers": "question-answering",
    "t5-tied-relu": "seq2seq",
    "t5-gated-gelu": "seq2seq",
}
SPECIAL = ["<pad>", "</s>", "<unk>", "<mask>", "<sep>"]
WORDS = [chr(97 + i // 7 % 26) + chr(97 + 3 * i % 26) for i in range(34)]


def word_tokenizer(words, special=SPECIAL):
    """A tokenizer.json of whole words between spaces; a text ends with `</s>`, a pair has `<sep>` between."""
    ids = {word: i for i, word in enumerate([*special, *words])}
    assert len(ids) == len(special) + len(words), "words differ"

    def token(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def sequence(name, kind):
        return {"Sequence": {"id": name, "type_id": kind}}

    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "decoder": None,
        "added_tokens": [{"id": ids[name], "content": name, **flags} for name in special],
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A", 0), token("</s>")],
            "pair": [sequence("A", 0), token("<sep>"), sequence("B", 1), {"SpecialToken": {"id": "</s>", "type_id": 1}}],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("</s>", "<sep>")},
        },
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
    }


def write_json(path, value):
    Path(path).write_text(json.dumps(value), encoding="utf-8")


def write_lines(path, records):
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def record(task, rng):
    def words(most):
        return [rng.choice(WORDS) for _ in range(1 + rng.randrange(most))]

    first = words(14)
    text = " ".join(first)
    value = lambda word: sum(map(ord, word))
    if task == "sequence-classification":
        return {"text": text, "label": "xyz"[value(first[0]) % 3]}
    if task == "token-classification":
        return {"words": first, "tags": [("O", "B-a", "B-b")[value(word) % 3] for word in first]}
    if task == "question-answering":
        answer = {"text": [first[-1]], "answer_start": [len(text) - len(first[-1])]}
        return {"question": " ".join(words(4)), "context": text, "answers": answer}
    if task == "multiple-choice":
        choices = [" ".join(words(3)), " ".join(words(3))]
        label = int(value(choices[0]) > value(choices[1]))
        return {"context": text, "question": " ".join(words(4)), "choices": choices, "label": label}
    if task == "seq2seq":
        return {"source": text, "target": " ".join(first[::-1][:5])}
    return {"text": text}


def write_cases(reference, out):
    """Writes out/CASE/{model,train.jsonl,eval.jsonl} for every case."""
    for case, task in CASES.items():
        model = Path(out, case, "model")
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(Path(reference, "cases", case), model, ignore=shutil.ignore_patterns("reference.safetensors"))
        write_json(model / "tokenizer.json", word_tokenizer(WORDS))
        write_json(model / "tokenizer_config.json", {"mask_token": "<mask>", "eos_token": "</s>"})
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        write_json(model / "config.json", {**config, "eos_token_id": 1})
        rng = random.Random(case)
        for name, count in (("train", 70), ("eval", 9)):
            write_lines(Path(out, case, f"{name}.jsonl"), (record(task, rng) for _ in range(count)))
