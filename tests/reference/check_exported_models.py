"""Do models that this program writes load in `transformers`, with every kind of tokenizer? Run by hand.

    cargo build --release
    python tests/reference/check_exported_models.py target/release/trainer [FOLDER]

For each vocabulary, set of files and model type of `tokenizers/cases.json`: makes a folder with a small model's
config.json, trains a model from scratch for a step, and loads the run's `final` folder by AutoTokenizer, AutoModel and
the class that its config.json names; then an adapter by peft, and each model card by huggingface_hub. Fails (exit 1) on
other ids of the 200 texts than in training, on a missing, unexpected or misshapen weight, on a NaN, on a card that is
not valid or has other results than the run's last evaluation. FOLDER keeps the folders; a few minutes on two cores. It
needs the packages sentencepiece, protobuf, tiktoken and peft besides torch; the committed values are those of
transformers 5.24.0.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCard
from peft import AutoPeftModelForSequenceClassification, get_peft_model_state_dict
from safetensors.torch import load_file
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
    "deberta-v2": ENCODER | dict(relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False),
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


def train(trainer, folder, model_type, **more):
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
        "data.eval": folder / "train.jsonl",
        "data.cache_dir": folder / "cache",
        "data.max_length": 128,
        "train.max_steps": 1,
        "train.global_batch_size": 8,
        "output_dir": folder / "run",
    } | more
    words = [f"{key}={value}" for key, value in settings.items()]
    run = subprocess.run([trainer, "train", *words], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"trainer exits with {run.returncode}: {run.stderr.strip()[-500:]}")
    return Path(settings["output_dir"]) / "final"


def card_problems(final, library):
    """What is wrong with the model card of a run."""
    data = ModelCard.load(final / "README.md").data
    lines = map(json.loads, (final.parent / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "eval_loss" in line][-1]
    found = [f"card: library_name {data.library_name}"] if data.library_name != library else []
    if data.pipeline_tag not in ("text-classification", "summarization", "translation", "text2text-generation"):
        found.append(f"card: pipeline_tag {data.pipeline_tag}")
    results = {result.metric_type: result.metric_value for result in data.eval_results or []}
    known = {value for key, value in last.items() if key.startswith("eval_")}
    found += [f"card: {name} is {value}" for name, value in results.items() if value not in known]
    return found if results else [*found, "card: no results"]


def adapter_problems(trainer, folder):
    """What is wrong with an adapter of a small BERT, which is trained for a step."""
    case = next(case for _, case in kinds() if case["model_type"] == "bert")
    write_model(folder / "model", case)
    config = AutoConfig.from_pretrained(folder / "model")
    AutoModel.from_config(config).save_pretrained(folder / "model")
    final = train(trainer, folder, "bert", **{"model.init": "pretrained", "lora.r": 4, "lora.lora_alpha": 8})
    model = AutoPeftModelForSequenceClassification.from_pretrained(final, dtype=torch.float32)
    found = [f"tokens: {key}" for key, own in values(AutoTokenizer.from_pretrained(final)).items() if own != case[key]]
    weights = load_file(final / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model)
    if weights.keys() != loaded.keys() or any(not torch.equal(weights[key], loaded[key]) for key in weights):
        found.append("peft has other weights than the file")
    return found + card_problems(final, "peft")


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
    return found + card_problems(final, "transformers")


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
        found = adapter_problems(trainer, base / "adapter")
        if found:
            wrong += 1
            print("adapter:", *found, sep="\n  ")
        count += 1
    print(count - wrong, "of", count, "kinds of folders load in transformers and peft with the ids of training")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
