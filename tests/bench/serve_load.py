"""Measures `trainer serve` and serve_peer.py with the same clients on the same texts, in turn.

Run it through serve.sh. 64 clients send the sentences of the SST-2 development set, one sentence a request, each client
its next one when it has its answer. Prints requests/s and latencies (median over the rounds) as a Markdown table, the
ratio of throughputs, and how many labels agree. Standard library only.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--clients", type=int, default=64, help="(64)")
    p.add_argument("--rounds", type=int, default=3, help="rounds of each side (3)")
    p.add_argument("--repeats", type=int, default=4, help="times that each sentence is sent in a round (4)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a model (all cores)")
    p.add_argument("--max-batch-tokens", type=int, default=8192, help="(8192)")
    p.add_argument("--port", type=int, default=8123, help="(8123)")
    p.add_argument("--model", default="models/minilm", help="Hugging Face folder (models/minilm)")
    p.add_argument("--data", default="../shared/data/sst2",
                   help="folder with train.tsv and dev.tsv (../shared/data/sst2)")
    p.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON", "python3"),
                   help="a Python with torch, transformers, fastapi and uvicorn (PEER_PYTHON, else python3)")
    p.add_argument("--trainer", default="target/release/trainer", help="(target/release/trainer)")
    p.add_argument("--out", default="runs/serve-bench", help="folder of the classifier (runs/serve-bench)")
    return p.parse_args()


def classifier(a):
    """Returns the folder of a classifier; trains it for a few steps if there is none."""
    final = f"{a.out}/final"
    if not os.path.exists(final):
        command = [a.trainer, "train", "configs/sst2-minilm.toml", f"output_dir={a.out}", f"model.path={a.model}",
                   f"data.train={a.data}/train.tsv", f"data.eval={a.data}/dev.tsv", "max_steps=100", "save_strategy=no"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}\nfailed with {done.returncode}: {shlex.join(command)}")
    return final


class Server:
    """A server while it is measured."""

    def __init__(self, a, command):
        self.port = a.port
        environment = {**os.environ, "OMP_NUM_THREADS": str(a.threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            if self.process.poll() is not None:
                sys.exit(f"ended with {self.process.returncode}: {shlex.join(command)}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{a.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"no answer within two minutes: {shlex.join(command)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


async def ask(streams, text):
    """Sends a text on a connection; returns the label."""
    reader, writer = streams
    body = json.dumps({"input": text}).encode()
    writer.write(b"POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    answer = await reader.readexactly(length)
    if " 200 " not in lines[0]:
        sys.exit(f"{lines[0]}: {answer.decode()}")
    return json.loads(answer)["data"][0]["label"]


async def load(a, texts):
    """Returns seconds, latencies, and the labels in the order of the texts."""
    waiting, latencies, labels = iter(enumerate(texts)), [], [None] * len(texts)

    async def client():
        streams = await asyncio.open_connection("127.0.0.1", a.port)
        for i, text in waiting:
            since = time.perf_counter()
            labels[i] = await ask(streams, text)
            latencies.append(time.perf_counter() - since)
        streams[1].close()

    since = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(a.clients)))
    return time.perf_counter() - since, latencies, labels


def measure(a, command, texts):
    with Server(a, command):
        # Both sides allocate memory for the largest batches first.
        asyncio.run(load(a, texts[: 4 * a.clients]))
        seconds, latencies, labels = asyncio.run(load(a, texts))
    cuts = statistics.quantiles(latencies, n=100)
    return len(texts) / seconds, 1000 * cuts[49], 1000 * cuts[98], labels


def main():
    a = arguments()
    with open(f"{a.data}/dev.tsv", encoding="utf-8") as file:
        texts = [line.rstrip("\n").rsplit("\t", 1)[0] for line in file] * a.repeats
    model, tokens = classifier(a), str(a.max_batch_tokens)
    sides = {
        "trainer serve": [a.trainer, "serve", model, "--port", str(a.port), "--max-batch-tokens", tokens],
        "transformers, FastAPI": [a.peer_python, f"{HERE}/serve_peer.py", model, str(a.port), str(a.threads), tokens],
    }
    rounds = {name: [] for name in sides}
    for i in range(a.rounds):
        for name, command in sides.items():
            rounds[name].append(measure(a, command, texts))
            rate, p50, p99, _ = rounds[name][-1]
            print(f"round {i + 1}: {name}: {rate:.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)
    print(f"\n{len(texts)} requests of {a.clients} clients, {a.threads} threads\n")
    print("| | Requests/s | p50, ms | p99, ms |\n|---|---|---|---|")
    middle = {name: [statistics.median(column) for column in list(zip(*found))[:3]] for name, found in rounds.items()}
    for name, (rate, p50, p99) in middle.items():
        print(f"| {name} | {rate:.0f} | {p50:.1f} | {p99:.1f} |")
    (ours, *_), (peers, *_) = middle.values()
    first, second = (found[0][3] for found in rounds.values())
    agree = sum(x == y for x, y in zip(first, second))
    print(f"\nthroughput {ours / peers:.2f} times; {agree} of {len(texts)} labels agree")


main()
