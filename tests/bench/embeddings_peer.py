"""The part of embeddings.py that runs in sentence-transformers.

usage: embeddings_peer.py train JSON   trains with SentenceTransformerTrainer; writes the folder and prints a JSON line
       embeddings_peer.py check JSON   prints a JSON line for each folder
       embeddings_peer.py versions

JSON has the keys that embeddings.py writes. TSV files have the columns score, sentence, sentence without a header;
those of the contrastive loss have two sentences. `check` evaluates folders with EmbeddingSimilarityEvaluator, and
compares a folder's vectors with those of `trainer predict` in f64: the largest difference divided by the vector's
length.
"""

import json
import os
import sys
import tempfile
import time

import sentence_transformers
import torch
import transformers
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback

try:
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
except ImportError:  # before version 5.4
    from sentence_transformers import losses
    from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator


def rows(path):
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file]


def lines(path, key):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)[key] for line in file]


class Clock(TrainerCallback):
    """Wall and CPU seconds from the begin to the end of the loop."""

    def on_train_begin(self, *_, **__):
        self.began = time.perf_counter(), time.process_time()

    def on_train_end(self, *_, **__):
        self.seconds = time.perf_counter() - self.began[0]
        self.cpu_seconds = time.process_time() - self.began[1]


class Timed:
    """A collator, which tokenizes, and the CPU seconds it takes."""

    def __init__(self, collator):
        self.collator, self.seconds = collator, 0.0

    def __getattr__(self, name):
        return getattr(self.collator, name)

    def __call__(self, features):
        began = time.process_time()
        batch = self.collator(features)
        self.seconds += time.process_time() - began
        return batch


def dataset(job):
    table = rows(job["train"])
    if job["loss"] == "multiple_negatives_ranking":
        return Dataset.from_dict({"anchor": [row[0] for row in table], "positive": [row[1] for row in table]})
    scores = [float(row[0]) / job["max_score"] for row in table]
    return Dataset.from_dict(
        {"sentence1": [row[1] for row in table], "sentence2": [row[2] for row in table], "score": scores})


def train(job):
    changed = {"num_hidden_layers": job["layers"]} if job["layers"] else {}
    if not job["dropout"]:
        changed |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(job["model"], device="cpu", config_kwargs=changed)
    model.max_seq_length = job["max_length"]
    if job["loss"] == "multiple_negatives_ranking":
        loss = losses.MultipleNegativesRankingLoss(model, scale=job["scale"])
    else:
        loss = losses.CosineSimilarityLoss(model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as work:
        settings = SentenceTransformerTrainingArguments(
            output_dir=work, seed=job["seed"], data_seed=job["seed"], use_cpu=True, max_steps=job["steps"] or -1,
            num_train_epochs=job["epochs"], per_device_train_batch_size=job["batch"], learning_rate=job["rate"],
            lr_scheduler_type="linear", warmup_steps=job["warmup"], weight_decay=job["decay"],
            max_grad_norm=job["clip"], logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=False)
        trainer = SentenceTransformerTrainer(
            model=model, args=settings, train_dataset=dataset(job), loss=loss, callbacks=[clock])
        trainer.data_collator = collator = Timed(trainer.data_collator)
        sys.stdout = sys.stderr  # it prints each line of the log
        trainer.train()
        sys.stdout = sys.__stdout__
    model.save_pretrained(job["out"], create_model_card=False)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    print(json.dumps({
        "loss": [float(entry["loss"]) for entry in log], "norm": [float(entry["grad_norm"]) for entry in log],
        "rate": [float(entry["learning_rate"]) for entry in log], "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds, "tokenizing_cpu_seconds": collator.seconds}))


def check(job):
    table, texts = rows(job["eval"]), lines(job["texts"], "text")
    evaluator = EmbeddingSimilarityEvaluator(
        [row[1] for row in table], [row[2] for row in table], [float(row[0]) for row in table], write_csv=False)
    for folder, predicted in job["folders"]:
        model = SentenceTransformer(folder, device="cpu")
        line = {"spearman": float(evaluator(model)["spearman_cosine"])}
        if predicted:
            expected = model.encode(texts, convert_to_tensor=True).double()
            found = torch.tensor(lines(predicted, "embedding"), dtype=torch.float64)
            line["difference"] = ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()
        print(json.dumps(line))


def versions():
    print(json.dumps({"sentence-transformers": sentence_transformers.__version__,
                      "transformers": transformers.__version__, "torch": torch.__version__}))


def main():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    {"train": train, "check": check, "versions": versions}[sys.argv[1]](*map(json.loads, sys.argv[2:]))


if __name__ == "__main__":
    main()
