"""The same run in PyTorch: trains what a `trainer` configuration says with transformers, and prints the metrics.

    python tests/trials/peer.py configs/wnut17-minilm.toml [seed=N] [key=value...]

Data, steps, batch, learning rate, schedule, clipping and lengths are the configuration's; the loop is the one that a good
PyTorch engineer writes, on one process. Needs torch, transformers, and for the metrics seqeval, scipy, sacrebleu and
rouge-score. Run by hand; what it gave stands in docs/trials.md.
"""

import collections
import gzip
import json
import math
import random
import re
import string
import sys
import time
import tomllib
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    get_scheduler,
)
from transformers.utils import logging

IGNORED = -100


def settings(argv):
    with open(argv[0], "rb") as file:
        config = tomllib.load(file)
    for word in argv[1:]:
        key, value = word.split("=", 1)
        section, _, name = key.rpartition(".")
        place = config.setdefault(section, {}) if section else config
        try:
            place[name] = json.loads(value)
        except ValueError:
            place[name] = value
    return config


def lines(path):
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return file.read().split("\n")


def jsonl(path):
    return [json.loads(line) for line in lines(path) if line.strip()]


def pad(rows, fill):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)


def arrays(tok, encodings):
    """input_ids, attention_mask and token_type_ids of encodings, padded to the longest."""
    batch = {"input_ids": pad([e["input_ids"] for e in encodings], tok.pad_token_id or 0)}
    batch["attention_mask"] = pad([[1] * len(e["input_ids"]) for e in encodings], 0)
    if "token_type_ids" in encodings[0]:
        batch["token_type_ids"] = pad([e["token_type_ids"] for e in encodings], 0)
    return batch


class Regression:
    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        self.train, self.eval = (self.read(config["data"][part]) for part in ("train", "eval"))

    def read(self, path):
        columns = self.config["data"]["columns"]
        rows = [dict(zip(columns, line.split("\t"))) for line in lines(path) if line.strip()]
        rows = [row for row in rows if row.get("label", "").strip()]
        pair = self.config["data"].get("text_pair_column", "text_pair")
        length = self.config["data"].get("max_length", 512)
        return [(self.tok(row["text"], row[pair], truncation=True, max_length=length), float(row["label"])) for row in rows]

    def model(self, path):
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, problem_type="regression")

    def batch(self, examples):
        return arrays(self.tok, [e for e, _ in examples]) | {"labels": torch.tensor([y for _, y in examples])}

    def metrics(self, model):
        from scipy.stats import pearsonr, spearmanr

        scores = [x for part in parts(self.eval, 32) for x in model(**{k: v for k, v in self.batch(part).items() if k != "labels"}).logits[:, 0].tolist()]
        wanted = [y for _, y in self.eval]
        return {"spearmanr": spearmanr(scores, wanted).statistic, "pearson": pearsonr(scores, wanted).statistic}


class Tagging:
    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        read = [self.read(config["data"][part]) for part in ("train", "eval")]
        self.labels = sorted({tag for _, tags in read[0] for tag in tags})
        self.train, self.eval = ([self.encode(*sentence) for sentence in part] for part in read)

    @staticmethod
    def read(path):
        sentences, words, tags = [], [], []
        for line in lines(path) + [""]:
            cells = line.split("\t") if "\t" in line else line.split()
            if not line.strip():
                if words:
                    sentences.append((words, tags))
                words, tags = [], []
            else:
                words.append(cells[0])
                tags.append(cells[-1])
        return sentences

    def encode(self, words, tags):
        encoding = self.tok(words, is_split_into_words=True, truncation=True, max_length=self.config["data"].get("max_length", 512))
        labels, before = [], None
        for word in encoding.word_ids():
            labels.append(IGNORED if word is None or word == before else self.labels.index(tags[word]))
            before = word
        return dict(encoding), labels, tags

    def model(self, path):
        return AutoModelForTokenClassification.from_pretrained(path, num_labels=len(self.labels))

    def batch(self, examples):
        return arrays(self.tok, [e for e, _, _ in examples]) | {"labels": pad([y for _, y, _ in examples], IGNORED)}

    def metrics(self, model):
        from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

        wanted, found = [], []
        for part in parts(self.eval, 32):
            for (_, labels, tags), row in zip(part, model(**self.batch(part)).logits.argmax(-1).tolist()):
                told = [self.labels[tag] for tag, label in zip(row, labels) if label != IGNORED]
                wanted.append(tags)
                found.append(told + ["O"] * (len(tags) - len(told)))
        return {"f1": f1_score(wanted, found), "precision": precision_score(wanted, found), "recall": recall_score(wanted, found),
                "accuracy": accuracy_score(wanted, found)}  # fmt: skip


class Choice:
    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        self.train, self.eval = ([self.encode(record) for record in jsonl(config["data"][part])] for part in ("train", "eval"))

    def encode(self, record):
        length = self.config["data"].get("max_length", 512)
        pairs = [(record["context"], f"{record['question']} {choice}") for choice in record["choices"]]
        label = record["label"] if isinstance(record["label"], int) else record["choices"].index(record["label"])
        return [dict(self.tok(a, b, truncation="only_first", max_length=length)) for a, b in pairs], label

    def model(self, path):
        return AutoModelForMultipleChoice.from_pretrained(path)

    def batch(self, examples):
        flat = arrays(self.tok, [e for choices, _ in examples for e in choices])
        return {k: v.view(len(examples), -1, v.shape[-1]) for k, v in flat.items()} | {"labels": torch.tensor([y for _, y in examples])}

    def metrics(self, model):
        right = sum((model(**self.batch(part)).logits.argmax(-1) == torch.tensor([y for _, y in part])).sum().item()
                    for part in parts(self.eval, 8))  # fmt: skip
        return {"accuracy": right / len(self.eval)}


def normalised(text):
    """The official SQuAD script's normalize_answer."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(found, gold):
    found, gold = normalised(found).split(), normalised(gold).split()
    same = sum((collections.Counter(found) & collections.Counter(gold)).values())
    return 2 * same / (len(found) + len(gold)) if same else float(found == gold)


class Answers:
    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        self.train = [window for question in self.read("train") for window in self.windows(question)]
        self.questions = self.read("eval")
        self.eval = [window for question in self.questions for window in self.windows(question)]

    def read(self, part):
        articles = json.load(open(self.config["data"][part], encoding="utf-8"))["data"]
        return [{"id": qa["id"], "question": qa["question"], "context": p["context"], "answers": qa["answers"]}
                for article in articles for p in article["paragraphs"] for qa in p["qas"]]  # fmt: skip

    def windows(self, question):
        encoded = self.tok(question["question"], question["context"], truncation="only_second",
                           max_length=self.config["data"].get("max_length", 384), stride=self.config["task"].get("doc_stride", 128),
                           return_overflowing_tokens=True, return_offsets_mapping=True)  # fmt: skip
        answer = question["answers"][0]
        start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        for i, ids in enumerate(encoded["input_ids"]):
            offsets, owner = encoded["offset_mapping"][i], encoded.sequence_ids(i)
            context = [t for t, o in enumerate(owner) if o == 1]
            span = (0, 0)
            if offsets[context[0]][0] <= start and offsets[context[-1]][1] >= end:
                first = max(t for t in context if offsets[t][0] <= start)
                last = min(t for t in context if offsets[t][1] >= end)
                span = (first, last)
            types = {"token_type_ids": encoded["token_type_ids"][i]} if "token_type_ids" in encoded else {}
            yield {"input_ids": ids} | types, span, [o if w == 1 else None for o, w in zip(offsets, owner)], question["id"]

    def model(self, path):
        return AutoModelForQuestionAnswering.from_pretrained(path)

    def batch(self, examples):
        spans = torch.tensor([span for _, span, _, _ in examples])
        return arrays(self.tok, [e for e, _, _, _ in examples]) | {"start_positions": spans[:, 0], "end_positions": spans[:, 1]}

    def metrics(self, model):
        best = collections.defaultdict(lambda: (-math.inf, ""))
        context = {q["id"]: q["context"] for q in self.questions}
        for part in parts(self.eval, 16):
            out = model(**self.batch(part))
            for (_, _, offsets, name), starts, ends in zip(part, out.start_logits, out.end_logits):
                for s in starts[: len(offsets)].topk(min(20, len(offsets))).indices.tolist():
                    for e in ends[: len(offsets)].topk(min(20, len(offsets))).indices.tolist():
                        if offsets[s] is None or offsets[e] is None or e < s or e - s + 1 > 30:
                            continue
                        score = (starts[s] + ends[e]).item()
                        if score > best[name][0]:
                            best[name] = (score, context[name][offsets[s][0] : offsets[e][1]])
        golds = {q["id"]: [a["text"] for a in q["answers"]] for q in self.questions}
        exact = [max(float(normalised(best[n][1]) == normalised(g)) for g in gold) for n, gold in golds.items()]
        f1 = [max(squad_f1(best[n][1], g) for g in gold) for n, gold in golds.items()]
        return {"exact_match": 100 * sum(exact) / len(exact), "f1": 100 * sum(f1) / len(f1)}


class Causal:
    """Text in blocks, as run_clm makes them."""

    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        self.train, self.eval = (self.blocks(config["data"][part]) for part in ("train", "eval"))

    def blocks(self, path):
        ids = self.tok("\n".join(lines(path)))["input_ids"]
        n = self.config["data"]["max_length"]
        return [ids[i : i + n] for i in range(0, len(ids), n) if len(ids[i : i + n]) > 1]

    def model(self, path):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))

    def batch(self, examples):
        batch = arrays(self.tok, [{"input_ids": ids} for ids in examples])
        return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)}

    def metrics(self, _):
        return {}


class Chat(Causal):
    """Prompts and answers by the folder's chat template; the answers alone are learnt."""

    def blocks(self, path):
        return [self.encode(record["messages"]) for record in jsonl(path)]

    def encode(self, messages):
        prompt = self.tok.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        whole = self.tok.apply_chat_template(messages, tokenize=False)
        assert whole.startswith(prompt)
        encoded = self.tok(whole, add_special_tokens=False, return_offsets_mapping=True)
        # What the template writes after the end of the turn is not part of the answer.
        answer = range(len(prompt), len(whole.rstrip()))
        labels = [i if o[0] in answer else IGNORED for i, o in zip(encoded["input_ids"], encoded["offset_mapping"])]
        n = self.config["data"]["max_length"]
        return encoded["input_ids"][:n], labels[:n]

    def batch(self, examples):
        return arrays(self.tok, [{"input_ids": ids} for ids, _ in examples]) | {"labels": pad([y for _, y in examples], IGNORED)}


class Translation:
    def __init__(self, config, tok):
        self.config, self.tok = config, tok
        data = config["data"]
        self.train = self.read(data["train"], data["train_target"])
        self.eval = self.read(data["eval"], data["eval_target"])

    def read(self, source, target):
        task, n = self.config["task"], self.config["data"].get("max_length", 512)
        pairs = [(s, t) for s, t in zip(lines(source), lines(target)) if s and t]
        encode = lambda text, n: self.tok(text, truncation=True, max_length=n)["input_ids"]
        return [(encode(task.get("source_prefix", "") + s, n), encode(t, task.get("max_target_length", n)), t) for s, t in pairs]

    def model(self, path):
        return AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(path))

    def batch(self, examples):
        return arrays(self.tok, [{"input_ids": s} for s, _, _ in examples]) | {"labels": pad([t for _, t, _ in examples], IGNORED)}

    def metrics(self, model):
        import sacrebleu

        found = []
        for part in parts(self.eval, 64):
            batch = arrays(self.tok, [{"input_ids": s} for s, _, _ in part])
            found += self.tok.batch_decode(model.generate(**batch, max_new_tokens=64, num_beams=1, do_sample=False), skip_special_tokens=True)
        return {"bleu": sacrebleu.corpus_bleu(found, [[t for _, _, t in self.eval]]).score}


KINDS = {
    "regression": Regression, "token-classification": Tagging, "multiple-choice": Choice, "question-answering": Answers,
    "causal-lm": Causal, "chat": Chat, "seq2seq": Translation,
}  # fmt: skip


def parts(examples, n):
    return [examples[i : i + n] for i in range(0, len(examples), n)]


def targets(batch):
    """What the loss is a mean over."""
    labels = batch.get("labels")
    if labels is None or labels.dim() == 1:
        return len(batch["input_ids"])
    return int((labels[:, 1:] != IGNORED).sum()) if "decoder" not in batch else int((labels != IGNORED).sum())


def main():
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = settings(sys.argv[1:])
    began, seed = time.perf_counter(), config.get("seed", 42)
    torch.manual_seed(seed)
    path = config["model"]["path"]
    tok = AutoTokenizer.from_pretrained(path)
    task = KINDS[config["task"]["kind"]](config, tok)
    model = task.model(path)
    train = config["train"]
    size = train.get("global_batch_size", 8)
    per_epoch = math.ceil(len(task.train) / size)
    steps = train.get("max_steps") or math.ceil(train.get("num_train_epochs", 3.0) * per_epoch)
    # As the configuration has it: no decay of biases and norms.
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": train.get("weight_decay", 0.0)}, {"params": others, "weight_decay": 0.0}]
    betas = (train.get("adam_beta1", 0.9), train.get("adam_beta2", 0.999))
    optimizer = torch.optim.AdamW(groups, lr=train.get("learning_rate", 5e-5), betas=betas, fused=True)
    warmup = train.get("warmup_steps") or math.ceil(train.get("warmup_ratio", 0.0) * steps)
    schedule = get_scheduler(train.get("lr_scheduler_type", "linear"), optimizer, warmup, steps)
    order, shuffled, losses, tokens = [], random.Random(seed), [], 0
    model.train()
    for step in range(steps):
        if not order:
            order = list(range(len(task.train)))
            shuffled.shuffle(order)
        chosen, order = order[:size], order[size:]
        batch = task.batch([task.train[i] for i in chosen])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.get("max_grad_norm", 1.0))
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        tokens += int(batch["attention_mask"].sum())
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps} loss {sum(losses[-100:]) / len(losses[-100:]):.4f}", file=sys.stderr)
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        sums = [(model(**batch).loss.item(), targets(batch)) for part in parts(task.eval, 32) for batch in [task.batch(part)]]
        loss = sum(x * n for x, n in sums) / sum(n for _, n in sums)
        metrics = {"loss": loss} | task.metrics(model)
    print(json.dumps({"config": Path(sys.argv[1]).name, "seed": seed, "steps": steps, "train_tokens": tokens,
                      "seconds": round(seconds, 1), "train_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4)}
                     | {f"eval_{k}": round(v, 4) for k, v in metrics.items()}))  # fmt: skip


if __name__ == "__main__":
    main()
