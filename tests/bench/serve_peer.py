"""Serves a classifier of transformers behind FastAPI and uvicorn: the peer of serve_load.py.

What waits when the model is free forms the next batch, sorted by length and padded to its longest text (dynamic
batching and dynamic padding), in at most as many padded tokens as `trainer serve` has. Same request and answer as
POST /v1/classify.

usage: serve_peer.py MODEL PORT THREADS MAX_BATCH_TOKENS
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, port, threads, max_tokens = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
labels = model.config.id2label
waiting: asyncio.Queue = asyncio.Queue()


@torch.inference_mode()
def predict(ids):
    scores = model(**tokenizer.pad({"input_ids": ids}, return_tensors="pt")).logits.softmax(-1)
    best = scores.max(-1)
    return [{"label": labels[int(i)], "score": float(x)} for x, i in zip(best.values, best.indices)]


def batches(items):
    """Divides what waits into batches of at most max_tokens padded tokens."""
    items = sorted(items, key=lambda item: len(item[0]))
    while items:
        n = 1
        while n < len(items) and (n + 1) * len(items[n][0]) <= max_tokens:
            n += 1
        yield items[:n]
        items = items[n:]


async def work():
    loop = asyncio.get_running_loop()
    while True:
        items = [await waiting.get()]
        while not waiting.empty():
            items.append(waiting.get_nowait())
        for batch in batches(items):
            found = await loop.run_in_executor(None, predict, [ids for ids, _ in batch])
            for (_, future), answer in zip(batch, found):
                if not future.done():
                    future.set_result(answer)


@asynccontextmanager
async def lifespan(_):
    task = asyncio.create_task(work())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.post("/v1/classify")
async def classify(request: Request):
    texts = (await request.json())["input"]
    texts = [texts] if isinstance(texts, str) else texts
    futures = []
    for ids in tokenizer(texts, truncation=True)["input_ids"]:
        futures.append(asyncio.get_running_loop().create_future())
        waiting.put_nowait((ids, futures[-1]))
    return {"object": "list", "data": await asyncio.gather(*futures)}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
