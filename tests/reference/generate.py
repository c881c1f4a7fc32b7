"""Makes the small models and reference values that the parity tests compare with. Run by hand, never by a test.

    pip install torch==2.13.0 transformers==5.23.0
    python tests/reference/generate.py            # rewrites the case folders beside this file

Every case is a Hugging Face folder with random weights, plus `inputs.jsonl` (what the command line would read) and
`reference.safetensors` (what transformers answers, in eval mode and fp32, after loading that very folder). README.md
lists the tensors. A run fails unless the folder loads without a missing key, float32 agrees with float64 to a quarter
of the tolerances that the tests use, and every gradient is large enough to be compared.
"""

import json
import math
import random
import shutil
import string
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel, BertTokenizer
from transformers.utils import logging

HERE = Path(__file__).resolve().parent

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SUFFIXES = ["##ed", "##ing", "##er", "##ly", "##est"]
WORDS = (
    "after again age all and at before big bright by cloud cold come day deep dry each east end fall far fast field "
    "find first for game goal grey hard heat high home hour ice in into it kick last late lead light long loud "
    "low match moon new night no north not of old on open over play quick rain river run sea see short sky slow "
    "small snow south star storm strong summer sun team the then this thunder to turn warm wave weather west "
    "white win wind winter with year you your"
).split()
VOCABULARY = SPECIAL + list(string.ascii_lowercase) + [f"##{c}" for c in string.ascii_lowercase] + [".", ",", "!"]
VOCABULARY += SUFFIXES + WORDS
# Words outside the vocabulary: pieces, case, accents, a single letter, a CJK character and a symbol that become [UNK].
ODD_WORDS = ["raining", "Winds", "kicked", "SLOWEST", "café", "x", "雪", "€", "brightly", "runner", ".", ",", "!"]

# The tests' tolerances; this script demands a quarter of each from float32 itself.
LOGITS, LOSS, GRADIENT, GRADIENT_OF_GLOBAL = 1e-5, 1e-6, 1e-5, 1e-7
SMALL = dict(hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=160, max_position_embeddings=64)


def tokenizer():
    """A BERT WordPiece tokenizer, lower-casing, over the 160 entries of VOCABULARY."""
    assert len(VOCABULARY) == len(set(VOCABULARY)) == SMALL["vocab_size"], len(VOCABULARY)
    return BertTokenizer(vocab={token: i for i, token in enumerate(VOCABULARY)}, model_max_length=64)


def text(tok, pieces, rng):
    """A random text of exactly `pieces` word pieces, special tokens not counted."""
    while True:
        words = [rng.choice(ODD_WORDS if rng.random() < 0.25 else WORDS) for _ in range(rng.randint(0, pieces))]
        if len(tok.tokenize(" ".join(words))) == pieces:
            return " ".join(words)


def randomise(model, scale, generator):
    """Weights far larger than a fresh model's: no gradient is small, no nonlinearity stays in its linear part."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "LayerNorm.weight" in name:
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_((0.2 if name.endswith("bias") else scale) * noise)


def ragged(tok, rows):
    """`rows` of (text, pair or None) as concatenated real tokens: input_ids [T], token_type_ids [T], lengths [B]."""
    encoded = [tok(first, second) for first, second in rows]
    return {
        "input_ids": torch.tensor([i for e in encoded for i in e["input_ids"]]),
        "token_type_ids": torch.tensor([i for e in encoded for i in e["token_type_ids"]]),
        "lengths": torch.tensor([len(e["input_ids"]) for e in encoded]),
    }


def padded(batch):
    """The ragged batch as transformers takes it: arrays [B, longest] and a mask."""
    lengths = batch["lengths"].tolist()
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in enumerate(lengths):
        mask[row, :n] = 1
    arrays = {"attention_mask": mask}
    for name in ("input_ids", "token_type_ids"):
        arrays[name] = torch.zeros_like(mask).masked_scatter(mask.bool(), batch[name])
    return arrays


def load(cls, folder, dtype=torch.float32):
    """The model of a folder as transformers loads it, in eval mode, on the plain (eager) attention."""
    model, info = cls.from_pretrained(folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model.eval(), info


def classify(folder, batch, labels, with_gradients, dtype=torch.float32):
    """logits [B, C], loss [1] (mean) and, if asked, every parameter's gradient of it and their norm [1]."""
    model, info = load(BertForSequenceClassification, folder, dtype)
    assert not info["unexpected_keys"], info
    out = model(**padded(batch), labels=labels.to(dtype) if labels.is_floating_point() else labels)
    values = {"logits": out.logits.detach(), "loss": out.loss.detach().reshape(1)}
    if with_gradients:
        out.loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        squares = sum(g.double().square().sum().item() for g in grads.values())
        values |= {f"grad.{name}": g for name, g in grads.items()}
        values["grad_norm"] = torch.tensor([math.sqrt(squares)], dtype=torch.float64)
    return values


def encode(folder, batch, dtype=torch.float32):
    """The encoder's last states of the real tokens, hidden [T, H], and the pooled output [B, H]."""
    model, info = load(BertModel, folder, dtype)
    assert set(info["unexpected_keys"]) == {"cls.predictions.bias"}, info
    arrays = padded(batch)
    with torch.no_grad():
        out = model(**arrays)
    return {"hidden": out.last_hidden_state[arrays["attention_mask"].bool()], "pooled": out.pooler_output}


def check(name, values, exact):
    """Fails unless `values` (fp32) are within a quarter of the tolerances of `exact` and no gradient is too small."""
    worst = {}
    for key in exact:
        off = (values[key].double() - exact[key]).abs()
        if key in ("logits", "hidden", "pooled"):
            worst[key] = off.max().item() / LOGITS
        elif key in ("loss", "grad_norm"):
            worst[key] = (off / exact[key]).item() / (LOSS if key == "loss" else GRADIENT)
        else:
            norm, total = exact[key].norm().item(), exact["grad_norm"].item()
            worst["gradients"] = max(
                worst.get("gradients", 0.0), off.norm().item() / max(GRADIENT * norm, GRADIENT_OF_GLOBAL * total)
            )
            # The softmax does not see a shift of all scores, so a key's bias has no gradient.
            assert norm > 1e-3 * total or key.endswith("key.bias"), f"{name}: {key} has norm {norm} of {total}"
    print(name, "float32 against float64, in units of the tolerance:", {k: f"{v:.3f}" for k, v in worst.items()})
    assert all(v < 0.25 for v in worst.values()), f"{name}: choose another scale or seed"


def write(folder, tok, rows, labels, batch, values):
    """inputs.jsonl and reference.safetensors of a case."""
    with open(folder / "inputs.jsonl", "w", encoding="utf-8") as file:
        for (first, second), label in zip(rows, labels, strict=True):
            record = {"text": first} | ({} if second is None else {"text_pair": second}) | {"label": label}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    again = ragged(AutoTokenizer.from_pretrained(folder), rows)
    assert all(torch.equal(again[key], batch[key]) for key in batch), "the folder's tokenizer disagrees"
    save_file({k: v.contiguous() for k, v in (batch | values).items()}, folder / "reference.safetensors")


def fresh_folder(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def classification():
    """One label of three with names, single texts, exact gelu; two tokens is an empty text."""
    folder, tok, rng = fresh_folder("bert-classification"), tokenizer(), random.Random(1)
    names = ["science", "sport", "weather"]
    config = BertConfig(
        **SMALL, num_hidden_layers=2, hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    randomise(model, 0.2, torch.Generator().manual_seed(1))
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    rows = [(text(tok, n - 2, rng), None) for n in (9, 3, 17, 2, 12, 5)]
    labels = torch.tensor([2, 0, 1, 1, 2, 0])
    batch = ragged(tok, rows)
    values = classify(folder, batch, labels, True)
    check(folder.name, values, classify(folder, batch, labels, True, torch.float64))
    write(folder, tok, rows, [names[i] for i in labels], batch, {"labels": labels} | values)


def pairs_regression():
    """A score for a pair of texts, tanh gelu, three layers, another epsilon; the last pair fills all 64 positions."""
    folder, tok, rng = fresh_folder("bert-pairs-regression"), tokenizer(), random.Random(2)
    config = BertConfig(
        **SMALL, num_hidden_layers=3, hidden_act="gelu_new", layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=1, problem_type="regression",
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    randomise(model, 0.2, torch.Generator().manual_seed(2))
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    rows = [(text(tok, a, rng), text(tok, b, rng)) for a, b in ((4, 7), (1, 1), (12, 3), (6, 20), (25, 36))]
    labels = torch.tensor([3.5, 0.0, 5.0, 1.25, 2.75])
    batch = ragged(tok, rows)
    values = classify(folder, batch, labels, True)
    check(folder.name, values, classify(folder, batch, labels, True, torch.float64))
    write(folder, tok, rows, labels.tolist(), batch, {"labels": labels} | values)


def headless_legacy():
    """An encoder as old files have it: no prefix, gamma and beta, fp16, two shards, tensors that nobody uses."""
    folder, tok, rng = fresh_folder("bert-headless-legacy"), tokenizer(), random.Random(3)
    config = BertConfig(**SMALL, num_hidden_layers=2, hidden_act="relu")
    model = BertModel(config)
    randomise(model, 0.2, torch.Generator().manual_seed(3))

    weights = {}
    for name, weight in model.named_parameters():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        weights[name] = weight.detach().half()
    weights["embeddings.position_ids"] = torch.arange(config.max_position_embeddings).unsqueeze(0)
    weights["cls.predictions.bias"] = torch.zeros(config.vocab_size, dtype=torch.float16)
    late = {name: w for name, w in weights.items() if name.startswith(("encoder.layer.1.", "pooler.", "cls."))}
    early = {name: w for name, w in weights.items() if name not in late}
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": {}}
    for i, part in enumerate((early, late), 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, file)
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    keys = (
        "attention_probs_dropout_prob hidden_act hidden_dropout_prob hidden_size initializer_range intermediate_size "
        "layer_norm_eps max_position_embeddings num_attention_heads num_hidden_layers pad_token_id type_vocab_size "
        "use_cache vocab_size"
    ).split()
    settings = {key: getattr(config, key) for key in keys} | {
        "architectures": ["BertModel"], "classifier_dropout": None, "gradient_checkpointing": False,
        "model_type": "bert", "position_embedding_type": "absolute", "torch_dtype": "float16",
        "transformers_version": "4.8.2",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    # Padding and truncation inside tokenizer.json are what its author last used: a reader must not apply them.
    plain = tokenizer().backend_tokenizer
    plain.enable_padding(length=32, pad_id=0, pad_token="[PAD]")
    plain.enable_truncation(max_length=16)
    plain.save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": True, "model_max_length": 64, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")

    rows = [(text(tok, n - 2, rng), None) for n in (7, 21, 3, 64, 14)]
    batch = ragged(tok, rows)
    values = encode(folder, batch)
    check(folder.name, values, encode(folder, batch, torch.float64))
    write(folder, tok, rows, ["no", "yes", "yes", "no", "yes"], batch, values)


def half_precision():
    """One label of two without names, bf16 weights, pairs; the reference has the same weights in fp32."""
    folder, tok, rng = fresh_folder("bert-bf16"), tokenizer(), random.Random(4)
    model = BertForSequenceClassification(BertConfig(**SMALL, num_hidden_layers=2, num_labels=2))
    randomise(model, 0.2, torch.Generator().manual_seed(4))
    model.to(torch.bfloat16).save_pretrained(folder)
    tok.save_pretrained(folder)
    rows = [(text(tok, a, rng), text(tok, b, rng)) for a, b in ((3, 5), (10, 2), (1, 30), (8, 8))]
    labels = torch.tensor([0, 1, 1, 0])
    batch = ragged(tok, rows)
    values = classify(folder, batch, labels, False)
    check(folder.name, values, classify(folder, batch, labels, False, torch.float64))
    write(folder, tok, rows, [f"LABEL_{i}" for i in labels], batch, {"labels": labels} | values)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # load() judges what is missing or unexpected
    logging.disable_progress_bar()
    classification()
    pairs_regression()
    headless_legacy()
    half_precision()
