"""Does `trainer serve` answer OpenAI's Python client, and a whole evaluation, as the other commands do? Run by hand.

    pip install openai
    cargo build --release
    python tests/reference/check_serving.py target/release/trainer [CLASSIFIER DEV]

Serves a small chat model of this folder: OpenAI's client must get the models, completions and chat completions, whole
and as streams, and errors of the right classes; every greedy text must be that of `trainer predict`, alone and among 32
concurrent requests. CLASSIFIER is the folder of a classifier that was fine-tuned on two labels, DEV a TSV file of texts
and labels without a header (SST-2's dev.tsv): its texts, asked by 32 clients, must give exactly the metrics of labels of
`trainer evaluate`. Exit code 1 if something differs. Standard library and the package openai only; checked with openai 3.57.0.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

HERE = Path(__file__).resolve().parent
SPECIAL = ["<pad>", "</s>", "<unk>"]
WORDS = [a + b for a in "abcdef" for b in "uvwxyz"]
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}au{% endif %}"
CLIENTS = 32
KEY = "a key"


def check(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")


def chat_model(folder):
    """A model of tests/reference/cases with a tokenizer of whole words and a chat template."""
    shutil.copytree(HERE / "cases/gpt2-causal", folder)
    vocabulary = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "decoder": None, "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL)],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def run(command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


class Server:
    """`trainer serve` while it is used, with a key."""

    def __init__(self, trainer, model):
        command = [trainer, "serve", model, "--port", "0"]
        environment = {**os.environ, "TRAINER_API_KEY": KEY}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.address, said = None, []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"serving +http://(\S+)", line):
                self.address = found[1]
                break
        check(self.address, f"{command}: {''.join(said)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        check(self.process.wait(60) == 0, "the server ends with exit code 0")


def predicted(trainer, model, folder, records, tokens):
    """The texts that `trainer predict` generates for records."""
    source, target = folder / "records.jsonl", folder / "texts.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    run([trainer, "predict", "--model", model, "--input", source, "--output", target, "--max-new-tokens", str(tokens)])
    return [json.loads(line)["text"] for line in target.read_text().splitlines()]


def refused(error, call):
    """Whether a call raises an error of this class, with a message; returns its code."""
    try:
        call()
    except error as e:
        check(e.body and e.body["message"], f"{error.__name__} has a message")
        return e.body["code"]
    sys.exit(f"FAILED: no {error.__name__}")


def check_chat(trainer, folder):
    model, tokens = folder / "chat", 12
    chat_model(model)
    prompts = [" ".join(WORDS[(7 * i + 5 * j) % len(WORDS)] for j in range(1 + i % 9)) for i in range(CLIENTS)]
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = predicted(trainer, model, folder, [{"text": prompt} for prompt in prompts], tokens)
    answers = predicted(trainer, model, folder, [{"messages": chat} for chat in messages], tokens)
    with Server(trainer, model) as server, ThreadPoolExecutor(2 * CLIENTS) as pool:
        client = openai.OpenAI(base_url=f"http://{server.address}/v1", api_key=KEY, max_retries=0)
        name = client.models.list().data[0].id
        check(name == "chat", f"the model's name is that of its folder: {name}")
        complete = lambda prompt, **more: client.completions.create(
            model=name, prompt=prompt, max_tokens=tokens, **more)
        chat = lambda messages, **more: client.chat.completions.create(
            model=name, messages=messages, max_tokens=tokens, **more)

        # Alone, then all at the same time.
        for text, prompt in zip(texts[:4], prompts):
            check(complete(prompt).choices[0].text == text, f"a completion alone: {prompt}")
        for answer, message in zip(answers[:4], messages):
            check(chat(message).choices[0].message.content == answer, f"an answer alone: {message}")
        first, second = pool.map(complete, prompts), pool.map(chat, messages)
        for found, text in zip(first, texts):
            check(found.choices[0].text == text, f"a completion among others: {found} instead of {text!r}")
            check(found.object == "text_completion" and found.usage.completion_tokens <= tokens, f"{found}")
        for found, answer in zip(second, answers):
            check(found.choices[0].message.content == answer, f"an answer among others: {found} instead of {answer!r}")
            check(found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens, f"{found}")

        # Streams have the same texts, and an end.
        for text, prompt in zip(texts, prompts):
            parts = list(complete(prompt, stream=True))
            check("".join(part.choices[0].text for part in parts) == text, f"the stream of {prompt}")
            check(parts[-1].choices[0].finish_reason in ("stop", "length"), f"the end of {parts}")
        for answer, message in zip(answers, messages):
            parts = list(chat(message, stream=True, stream_options={"include_usage": True}))
            said = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            check(said == answer, f"the stream of {message}: {said!r} instead of {answer!r}")
            check(parts[0].choices[0].delta.role == "assistant" and parts[-1].usage.completion_tokens, f"{parts}")

        # A stop text, sampling by a seed, and errors.
        longest = max(texts, key=len)
        if " " in longest.strip():
            stop = longest.split()[1]
            found = complete(prompts[texts.index(longest)], stop=stop).choices[0]
            check(found.text == longest[:longest.index(stop)], f"the text before {stop}: {found}")
            check(found.finish_reason == "stop", f"{found}")
        sampled = {complete(prompts[0], temperature=1.5, seed=3).choices[0].text for _ in range(3)}
        check(len(sampled) == 1, f"a seed gives one text: {sampled}")
        unknown = lambda: client.completions.create(model="other", prompt="au")
        check(refused(openai.NotFoundError, unknown) == "model_not_found", "another model")
        check(refused(openai.BadRequestError, lambda: complete("au", logprobs=2)) == "invalid_request", "log-probs")
        check(refused(openai.BadRequestError, lambda: chat([])) == "invalid_request", "no messages")
        long = lambda: complete(" ".join(WORDS * 40))
        check(refused(openai.BadRequestError, long) == "context_length_exceeded", "a long prompt")
        other = client.with_options(api_key="other")
        check(refused(openai.AuthenticationError, other.models.list) == "invalid_api_key", "another key")
    print(f"OpenAI's client: {len(prompts)} completions and {len(prompts)} chats, whole and as streams: as predicted")


def check_classifier(trainer, model, dev):
    records = [line.rsplit("\t", 1) for line in dev.read_text().splitlines()]
    wanted = json.loads(run([trainer, "evaluate", "--model", model, "--data", dev, "--json"]))
    with Server(trainer, model) as server, ThreadPoolExecutor(CLIENTS) as pool:

        def label(part):
            connection, labels = http.client.HTTPConnection(server.address, timeout=600), []
            for text, _ in part:
                body, head = json.dumps({"input": text}), {"Authorization": f"Bearer {KEY}"}
                connection.request("POST", "/v1/classify", body, head)
                answer = json.load(connection.getresponse())
                check("data" in answer, f"{text}: {answer}")
                labels.append(answer["data"][0]["label"])
            connection.close()
            return labels

        parts = [records[i::CLIENTS] for i in range(CLIENTS)]
        pairs = [(found, label) for part, found in zip(parts, pool.map(label, parts))
                 for found, (_, label) in zip(found, part)]
    positive = wanted["positive_label"]
    of = lambda found, label: sum((a == positive, b == positive) == (found, label) for a, b in pairs)
    tp, fp, fn, tn = of(True, True), of(True, False), of(False, True), of(False, False)
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    f1, of_other = 2 * tp / max(2 * tp + fp + fn, 1), 2 * tn / max(2 * tn + fp + fn, 1)
    found = {
        "eval_accuracy": (tp + tn) / len(pairs),
        "eval_binary_f1": f1,
        "eval_f1": (f1 + of_other) / 2,
        "eval_matthews_correlation": (tp * tn - fp * fn) / root if root else 0.0,
    }
    for name, value in found.items():
        check(abs(value - wanted[name]) < 1e-12, f"{name}: {value} over HTTP, {wanted[name]} by evaluate")
    said = ", ".join(f"{name} {value:.6f}" for name, value in found.items())
    print(f"{len(pairs)} texts over HTTP: {said}: as by evaluate")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trainer", type=Path)
    p.add_argument("classifier", type=Path, nargs="?")
    p.add_argument("dev", type=Path, nargs="?")
    a = p.parse_args()
    trainer = a.trainer.resolve()
    with tempfile.TemporaryDirectory() as folder:
        check_chat(trainer, Path(folder))
    if a.classifier:
        check(a.dev, "CLASSIFIER needs DEV")
        check_classifier(trainer, a.classifier, a.dev)


main()
