"""Trains MiniLM as sentence embeddings on STS with `trainer` and with sentence-transformers, and compares both.

Both use the settings of configs/sts-embedding.toml and the dropout of the model. The cases are

- scores: `cosine_similarity` and CosineSimilarityLoss on all pairs;
- matches: `multiple_negatives_ranking` and MultipleNegativesRankingLoss, with the same scale and batch size, on the
  pairs with a score of at least 4, each text once;
- matches-3: the same with the first three layers only, since MiniLM distinguishes most of these texts before training.

Data is made as tests/trials/prepare.py makes it. For each case

- the same batch in every step, without dropout, so that neither order nor random numbers matter: the largest
  differences of loss, gradient norm and learning rate of all steps, divided by the largest value, and the largest
  relative difference of the vectors of both folders;
- for each seed a run of both programs in turn. Data order and dropout are each program's own: their spread is that of
  the results. Spearman's correlation on the evaluation data of each folder by both programs; the largest relative
  difference of a folder's vectors in sentence-transformers from those of `trainer predict`; seconds of the training
  loop, and CPU seconds, which other programs on the machine change less. CPU seconds of sentence-transformers leave out
  its imports, and its tokenizing, which is part of its loop; ours are of the whole process.

Prints Markdown tables; fails if the ranges of both programs do not overlap, or if a difference exceeds its tolerance.
Standard library only; embeddings_peer.py runs in --peer-python. One thread unless OMP_NUM_THREADS is set.
"""

import argparse
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "trials"))
sys.dont_write_bytecode = True
import prepare  # noqa: E402

PROGRAMS = ("trainer", "sentence-transformers")
CONFIG = "configs/sts-embedding.toml"
SCALE = 20
CONTRASTIVE = "multiple_negatives_ranking"
# Case: loss, training data, records per batch, epochs, layers.
CASES = {
    "scores": ("cosine_similarity", "train", 16, 1, None),
    "matches": (CONTRASTIVE, "matches", 64, 2, None),
    "matches-3": (CONTRASTIVE, "matches", 64, 4, 3),
}
EVALUATED = ["--columns", "label,text,text_pair", "--label-column", "label", "--text-pair-column", "text_pair"]
SAME_STEPS = 10  # steps with the same batch
# Largest relative differences.
LOSS, NORM, RATE, TRAINED, VECTORS, SPEARMAN = 1e-4, 1e-3, 1e-6, 1e-3, 1e-5, 1e-4


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cases", nargs="*", help=", ".join(CASES) + " (all)")
    p.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    p.add_argument("--steps", type=int, help="steps of a run (one epoch of scores, two and four of matches)")
    p.add_argument("--model", default="models/minilm", help="(models/minilm)")
    p.add_argument("--data", default="../shared/data/sts", help="folder with the files of STS (../shared/data/sts)")
    p.add_argument("--peer-python", default=os.environ.get("PEER_PYTHON"),
                   help="a Python with sentence-transformers (PEER_PYTHON)")
    p.add_argument("--trainer", default="target/release/trainer", help="(target/release/trainer)")
    p.add_argument("--out", default="runs/embeddings", help="folder for data and runs (runs/embeddings)")
    return p.parse_args()


def run(command):
    """Returns the output and the CPU seconds of a command."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads,
                               "TOKENIZERS_PARALLELISM": "false"})
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed with {done.returncode}: {shlex.join(command)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def peer(a, mode, *jobs):
    command = [*shlex.split(a.peer_python), str(HERE / "embeddings_peer.py"), mode, *map(json.dumps, jobs)]
    return json_lines(run(command)[0])


def check(a, data, *folders):
    """What sentence-transformers says about folders, each with the file of vectors of `trainer predict` or None."""
    return peer(a, "check", {"eval": str(data / "eval.tsv"), "texts": str(data / "texts.jsonl"), "folders": folders})


def missing(a):
    """Why nothing can be compared, if so."""
    if not a.peer_python:
        return "no Python with sentence-transformers: set --peer-python or PEER_PYTHON"
    found = subprocess.run([*shlex.split(a.peer_python), "-c", "import sentence_transformers, datasets, accelerate"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        return f"{a.peer_python}: {(found.stderr.strip().splitlines() or ['it fails'])[-1]}"
    if not (Path(a.data) / "2014-images.test.tsv").exists():
        return f"no 2014-images.test.tsv in {a.data}: name the folder with --data"
    if not (Path(a.model) / "modules.json").exists():
        return f"no model in {a.model}: launch/fetch.sh downloads it, or name the folder with --model"
    return None


def make_data(a):
    """Writes train.tsv, matches.tsv, eval.tsv, texts.jsonl and, for each case, a batch of the last records."""
    folder = Path(a.out) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    prepare.sts(Path(a.data), folder)
    scored, evaluated = ([line.split("\t") for line in (folder / name).read_text(encoding="utf-8").splitlines()]
                         for name in ("train.tsv", "eval.tsv"))
    matches, known = [], set()
    for score, *texts in scored:
        if float(score) >= 4 and len(set(texts)) == 2 and known.isdisjoint(texts):
            known.update(texts)
            matches.append(texts)
    write(folder / "matches.tsv", matches)
    for name, (_, data, batch, *_) in CASES.items():
        write(folder / f"{name}-batch.tsv", {"train": scored, "matches": matches}[data][-batch:])
    texts = [json.dumps({"text": text}) for row in evaluated for text in row[1:]]
    (folder / "texts.jsonl").write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"{len(scored)} pairs with scores, {len(matches)} matches, {len(evaluated)} pairs to evaluate\n", flush=True)
    return folder


def write(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def config():
    with open(CONFIG, "rb") as file:
        return tomllib.load(file)


def settings(a, case, data, out, seed, steps, dropout=True):
    """The settings of a run, by the names of embeddings_peer.py."""
    train = config()["train"]
    loss, _, batch, epochs, layers = CASES[case]
    return {"loss": loss, "model": a.model, "train": str(data), "out": str(out), "seed": seed, "steps": steps,
            "epochs": epochs, "batch": batch, "layers": layers, "rate": train["learning_rate"],
            "warmup": train["warmup_ratio"], "decay": train["weight_decay"], "clip": train["max_grad_norm"],
            "max_length": config()["data"]["max_length"], "max_score": config()["task"]["max_score"], "scale": SCALE,
            "dropout": dropout}


def ours(a, job):
    """Trains with `trainer`; returns what the peer prints."""
    contrastive = job["loss"] == CONTRASTIVE
    words = {
        "model.path": job["model"], "task.kind": "embedding", "task.loss": job["loss"], "data.train": job["train"],
        "data.columns": ["label", "text", "text_pair"][contrastive:], "data.text_pair_column": "text_pair",
        "data.max_length": job["max_length"], "output_dir": job["out"], "overwrite_output_dir": True,
        "seed": job["seed"], "train.num_train_epochs": job["epochs"], "train.global_batch_size": job["batch"],
        "train.learning_rate": job["rate"], "train.lr_scheduler_type": "linear", "train.warmup_ratio": job["warmup"],
        "train.weight_decay": job["decay"], "train.max_grad_norm": job["clip"], "train.logging_steps": 1,
        "train.save_strategy": "no",
        **({"task.scale": job["scale"]} if contrastive else {"task.max_score": job["max_score"]}),
        **({"train.max_steps": job["steps"]} if job["steps"] else {}),
        **({"model.layers": list(range(job["layers"]))} if job["layers"] else {}),
        **({} if job["dropout"] else {"model.hidden_dropout_prob": 0.0, "model.attention_probs_dropout_prob": 0.0}),
    }
    _, cpu = run([*shlex.split(a.trainer), "train", *(f"{key}={json.dumps(value)}" for key, value in words.items())])
    lines = json_lines((Path(job["out"]) / "metrics.jsonl").read_text(encoding="utf-8"))
    steps = [line for line in lines if "step_loss" in line]
    summary = next(line for line in lines if line.get("event") == "summary")
    return {"loss": [line["step_loss"] for line in steps], "norm": [line["grad_norm"] for line in steps],
            "rate": [line["learning_rate"] for line in steps], "seconds": summary["train_seconds"], "cpu_seconds": cpu}


def evaluate(a, folder, data):
    words = ["evaluate", "--model", folder, "--task", "embedding", "--data", data / "eval.tsv", "--json",
             "--max-score", config()["task"]["max_score"], *EVALUATED]
    found = json_lines(run([*shlex.split(a.trainer), *map(str, words)])[0])[-1]
    return next(value for key, value in found.items() if key.endswith("spearmanr"))


def predict(a, folder, data):
    path = Path(a.out) / ("-".join(Path(folder).parts[-2:]) + ".jsonl")
    words = ["predict", "--model", folder, "--input", data / "texts.jsonl", "--output", path]
    run([*shlex.split(a.trainer), *map(str, words)])
    return str(path)


def largest(found, expected):
    if len(found) != len(expected):
        sys.exit(f"{len(found)} and {len(expected)} steps: the runs have other settings")
    return max(abs(x - y) for x, y in zip(found, expected)) / max(map(abs, expected))


def before(a, case, data):
    """Evaluates a model before training; returns a row of the table, and what exceeds its tolerance."""
    folder = a.model
    if CASES[case][-1]:
        # The learning rate of the first step is 0.
        out = Path(a.out) / f"{case}-before"
        ours(a, settings(a, case, data / f"{case}-batch.tsv", out, 1, 1))
        folder = str(out / "final")
    found = evaluate(a, folder, data), check(a, data, (folder, None))[0]["spearman"]
    row = f"| {case} | before training | | {found[0]:.5f} | {found[1]:.5f} | | |"
    return row, [] if abs(found[0] - found[1]) <= SPEARMAN else [f"{folder}: the programs' Spearman differs"]


def same_batch(a, case, data):
    """Trains both on the same batch without dropout; returns a row of the table, and what exceeds its tolerance."""
    outs = [Path(a.out) / f"{case}-same", Path(a.out) / f"{case}-same-peer"]
    jobs = [settings(a, case, data / f"{case}-batch.tsv", out, 1, SAME_STEPS, False) for out in outs]
    mine, theirs = ours(a, jobs[0]), peer(a, "train", jobs[1])[0]
    # The vectors of both folders.
    vectors = check(a, data, (str(outs[1]), predict(a, outs[0] / "final", data)))[0]["difference"]
    found = [*(largest(mine[key], theirs[key]) for key in ("loss", "norm", "rate")), vectors]
    cells = " | ".join(f"{value:.1e}" for value in found)
    row = f"| {case} | {theirs['loss'][0]:.5f} | {theirs['loss'][-1]:.5f} | {cells} |"
    names = ["loss", "gradient norm", "learning rate", "vectors"]
    limits = [LOSS, NORM, RATE, TRAINED]
    return row, [f"{case}, the same batch: {what} differs by {value:.1e}"
                 for what, value, limit in zip(names, found, limits) if not value <= limit]


def compare(a, case, data):
    """The runs of all seeds; prints a table of them, and returns what is wrong and the rows of the summary."""
    runs, folders, problems = [], [], []
    train = data / f"{CASES[case][1]}.tsv"
    for seed in range(1, a.seeds + 1):
        outs = [Path(a.out) / f"{case}-{seed}", Path(a.out) / f"{case}-{seed}-peer"]
        jobs = [settings(a, case, train, out, seed, a.steps) for out in outs]
        runs.append([ours(a, jobs[0]), peer(a, "train", jobs[1])[0]])
        rates = largest(runs[-1][0]["rate"], runs[-1][1]["rate"])
        if not rates <= RATE:
            problems.append(f"{case}, seed {seed}: learning rates differ by {rates:.1e}")
        folders += [str(outs[0] / "final"), str(outs[1])]
    by_trainer = [evaluate(a, folder, data) for folder in folders]
    checked = check(a, data, *((folder, predict(a, folder, data)) for folder in folders))
    by_peer = [line["spearman"] for line in checked]
    for at, folder in enumerate(folders):
        found, difference = (by_trainer[at], by_peer[at]), checked[at]["difference"]
        last = statistics.mean(runs[at // 2][at % 2]["loss"][-10:])
        print(f"| {case} | {PROGRAMS[at % 2]} | {at // 2 + 1} | {found[0]:.5f} | {found[1]:.5f} | {difference:.1e} | "
              f"{last:.4f} |", flush=True)
        if not abs(found[0] - found[1]) <= SPEARMAN:
            problems.append(f"{folder}: the programs' Spearman differs")
        if not difference <= VECTORS:
            problems.append(f"{folder}: vectors differ by {difference:.1e}")
    spearman = [by_peer[side::2] for side in (0, 1)]
    if max(map(min, spearman)) > min(map(max, spearman)):
        problems.append(f"{case}: the ranges of Spearman's correlation do not overlap")
    seconds = [statistics.median(both[side]["seconds"] for both in runs) for side in (0, 1)]
    cpu = [statistics.median(both[side]["cpu_seconds"] - both[side].get("tokenizing_cpu_seconds", 0) for both in runs)
           for side in (0, 1)]
    steps = len(runs[0][0]["loss"])
    rows = [f"| {case} | {PROGRAMS[side]} | {statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}) "
            f"| {steps} | {seconds[side]:.0f} | {cpu[side]:.0f} |" for side, values in enumerate(spearman)]
    rows.append(f"| | ratio | | | {seconds[1] / seconds[0]:.2f} | {cpu[1] / cpu[0]:.2f} |")
    return rows, problems


def main():
    a = arguments()
    wrong = [case for case in a.cases if case not in CASES]
    if wrong:
        sys.exit(f"unknown case {wrong[0]}: one of {', '.join(CASES)}")
    reason = missing(a)
    if reason:
        print(f"skipped: {reason}")
        return
    chosen, problems, summary = a.cases or list(CASES), [], []
    versions = ", ".join(f"{name} {version}" for name, version in peer(a, "versions")[0].items())
    print(f"{run([*shlex.split(a.trainer), '--version'])[0].strip()}, {versions}; {os.cpu_count()} cores, "
          f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '1')}\n")
    data = make_data(a)
    print(f"The same batch in all of {SAME_STEPS} steps without dropout, largest differences:\n\n"
          "| Case | First loss | Last loss | Losses | Gradient norms | Learning rates | Vectors after training |\n"
          "|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for case in chosen:
        row, found = same_batch(a, case, data)
        print(row, flush=True)
        problems += found
    print("\nEach folder: Spearman by both programs, difference of its vectors, mean loss of the last ten steps:\n\n"
          "| Case | Trained with | Seed | By trainer | By sentence-transformers | Vectors | Last losses |\n"
          "|---|---|--:|--:|--:|--:|--:|", flush=True)
    for case in chosen:
        row, found = before(a, case, data)
        print(row, flush=True)
        rows, more = compare(a, case, data)
        summary += rows
        problems += found + more
    print("\n| Case | Program | Spearman, mean and range | Steps | Seconds of the loop | CPU seconds |\n"
          "|---|---|---|--:|--:|--:|\n" + "\n".join(summary), flush=True)
    sys.exit("\n".join(["", *problems]) if problems else 0)


if __name__ == "__main__":
    main()
