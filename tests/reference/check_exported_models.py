"""Do models that this program writes load in `transformers`, with every kind of tokenizer? Run by hand.

    cargo build --release
    python tests/reference/check_exported_models.py target/release/trainer [FOLDER]

For each vocabulary, set of files and model type of `tokenizers/cases.json`: makes a folder with a small model's
config.json, trains a model from scratch for a step, and loads the run's `final` folder by AutoTokenizer, AutoModel and
the class that its config.json names. Fails (exit 1) on other ids of the 200 texts than in training, on a missing, unexpected
or misshapen weight, and on a NaN. FOLDER keeps the folders; a few minutes on two cores. It needs the packages sentencepiece, protobuf and tiktoken besides
torch; the committed values are those of transformers 5.24.0.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers_reference import FOLDER, SENTENCES, TEXTS, make, values
from transformers import AutoConfig, AutoModel, AutoTokenizer

ENCODER = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
DECODER = ENCODER | dict(num_key_value_heads=1, head_dim=8, tie_word_embeddings=False)
T5 = dict(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, decoder_start_token_id=0)
SIZES = {
    "bert": ENCODER,
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "distilbert": dict(dim=16, n_layers=1, n_heads=2, hidden_dim=32),
    "albert": ENCODER | dict(embedding_size=8),
    "xlnet": dict(d_model=16, n_layer=1, n_head=2, d_inner=32),
    "gpt2": dict(n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None),
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": DECODER,
    "qwen3": DECODER,
    "t5": T5,
    "mt5": T5,
}


def kinds():
    """The first case of each kind of folder, and its number."""
    seen = set()
    for number, case in enumerate(json.loads((FOLDER / "cases.json").read_text())):
        kind = (case["base"], case["model_type"], *case["files"])
        if kind not in seen:
            seen.add(kind)
            yield number, case


def write_model(folder, case):
    folder.mkdir(parents=True)
    make(folder, case["base"], case["files"], case["model_type"], case["json"])
    size = max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1
    config = AutoConfig.for_model(case["model_type"], vocab_size=size, **SIZES[case["model_type"]])
    config.save_pretrained(folder)


def train(trainer, folder, model_type):
    """Trains the model in `model` for a step; returns the folder that it is in then."""
    is_t5 = model_type in ("t5", "mt5")
    with open(folder / "train.jsonl", "w", encoding="utf-8") as file:
        for i, text in enumerate(SENTENCES):
            record = {"source": text, "target": text[:20]} if is_t5 else {"text": text, "label": "ab"[i % 2]}
            file.write(json.dumps(record) + "\n")
    settings = {
        "model.path": folder / "model",
        "model.init": "random",
        "task.kind": "seq2seq" if is_t5 else "sequence-classification",
        "data.train": folder / "train.jsonl",
        "data.cache_dir": folder / "cache",
        "data.max_length": 128,
        "train.max_steps": 1,
        "train.global_batch_size": 8,
        "output_dir": folder / "run",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    run = subprocess.run([trainer, "train", *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"trainer exits with {run.returncode}: {run.stderr.strip()[-500:]}")
    return folder / "run" / "final"


def problems(final, case):
    """What differs in `transformers` from training."""
    found = []
    tokenizer = AutoTokenizer.from_pretrained(final)
    own = values(tokenizer)
    found += [f"tokens: {key}" for key in own if own[key] != case[key]]
    name = json.loads((final / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(final, dtype=torch.float32, output_loading_info=True)
    found += [f"{name}: {kind} {sorted(map(str, keys))}" for kind, keys in info.items() if keys]
    base = AutoModel.from_pretrained(final, dtype=torch.float32)
    rows = base.get_input_embeddings().weight.shape[0]
    ids = [tokenizer(text, truncation=True, max_length=128)["input_ids"] for text in TEXTS]
    if max(max(each, default=0) for each in ids) >= rows:
        found.append(f"{rows} rows of the embedding matrix for tokens up to {max(map(max, filter(None, ids)))}")
    elif not found:
        model.eval()
        inputs = {"input_ids": torch.tensor([ids[0]])}
        if case["model_type"] in ("t5", "mt5"):
            inputs["decoder_input_ids"] = torch.tensor([[0]])
        with torch.no_grad():
            if not torch.isfinite(model(**inputs).logits).all():
                found.append("logits that are NaN or infinite")
    return found


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    trainer = Path(sys.argv[1]).resolve()
    wrong = count = 0
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        for number, case in kinds():
            folder = base / str(number)
            write_model(folder / "model", case)
            count += 1
            try:
                found = problems(train(trainer, folder, case["model_type"]), case)
            except Exception as error:  # noqa: BLE001
                found = [f"{type(error).__name__}: {error}"]
            if found:
                wrong += 1
                print(f"{number}, {case['name']}:", *found, sep="\n  ")
    print(count - wrong, "of", count, "kinds of folders load in transformers with the ids of training")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
