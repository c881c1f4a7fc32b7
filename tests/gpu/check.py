"""The GPU check, started by check.sh: runs the parts that it is asked for, the most important first, goes on after one
that fails, and writes OUT/report.json and a table. Exits 0 only if everything passed. docs/gpu.md describes the parts.

It uses nothing but Python's standard library; part 5 also runs PyTorch.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import small_models  # noqa: E402

TITLES = {1: "doctor", 2: "correctness", 3: "training", 5: "performance", 4: "several ranks and faults"}
# Of the time that is left when a part begins, against the parts after it.
WEIGHTS = {1: 1, 2: 6, 3: 8, 5: 10, 4: 6}
NO_DROPOUT = ["hidden_dropout_prob=0.0", "attention_probs_dropout_prob=0.0", "classifier_dropout=0.0"]
# Dense bf16 products, in TFLOP/s, of what reports such a name.
PEAKS = {"H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362}


def parsed():
    parser = argparse.ArgumentParser(prog="check.sh", description=__doc__.split("\n\n")[0])
    parser.add_argument("--cpu", action="store_true", help="run everything on the CPU, in reduced size")
    parser.add_argument("--seconds", type=float, default=540, help="time for all parts together (default 540)")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for report.json, logs and runs")
    parser.add_argument("--parts", default="1,2,3,5", help="default 1,2,3,5; 4 needs more time and runs last")
    given = parser.parse_args()
    wanted = given.parts.split(",")
    if unknown := set(wanted) - set(map(str, TITLES)):
        parser.error(f"--parts {given.parts}: {min(unknown)!r}: numbers from 1 to 5 with commas between")
    given.parts = [part for part in TITLES if str(part) in wanted]
    return given


GIVEN = parsed()
OUT = GIVEN.out.resolve()
BUNDLE = (ROOT / "run").exists()
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
TRAINER = str(ROOT / "trainer" if BUNDLE else TARGET / "release/trainer")
MPIRUN = str(ROOT / "mpirun") if BUNDLE else "mpirun"
TESTS = ROOT / "tests/bin" if BUNDLE else TARGET / "check"
CORES = len(os.sched_getaffinity(0))
DEVICE = "cpu" if GIVEN.cpu else "cuda"
TOLERANCES = json.loads((HERE / "tolerances.json").read_text())[DEVICE]
BEGAN = time.monotonic()
MODEL = ROOT / "models/minilm"


class Result:
    """What one check of a part came to."""

    def __init__(self, name, failure=None, seconds=0.0, **figures):
        self.name, self.failure, self.seconds, self.figures = name, failure, seconds, figures

    def json(self):
        own = {"name": self.name, "status": "failed" if self.failure else "passed", "seconds": round(self.seconds, 1)}
        return own | ({"failure": self.failure} if self.failure else {}) | self.figures


class Part:
    """A part's share of the time, and its results in the order in which they end."""

    def __init__(self, number, until):
        self.number, self.until, self.results = number, until, []
        self.began, self.seconds = time.monotonic(), None

    def left(self):
        return self.until - time.monotonic()

    def add(self, result):
        verdict = "FAILED" if result.failure else "ok"
        lines = [f"  {verdict:<6} {result.name:<34} {result.seconds:6.1f} s"]
        if result.failure:
            lines.append("         " + result.failure.strip().replace("\n", "\n         ")[:3000])
        with REPORTING:  # the tests of part 2 end in threads
            self.results.append(result)
            write_report()
            print("\n".join(lines), flush=True)


REPORTING = threading.Lock()
REPORT = {"machine": {}, "given": {k: str(v) for k, v in vars(GIVEN).items()}, "parts": []}
PARTS = []


def write_report():
    parts = []
    for part in PARTS:
        failed = [r.name for r in part.results if r.failure]
        status = "failed" if failed else "passed" if part.results else "not run"
        seconds = part.seconds or time.monotonic() - part.began
        entry = {"part": part.number, "name": TITLES[part.number], "status": status, "seconds": round(seconds, 1)}
        parts.append(entry | {"failed": failed, "results": [r.json() for r in part.results]})
    text = json.dumps(REPORT | {"seconds": round(time.monotonic() - BEGAN, 1), "parts": parts}, indent=1)
    partial = OUT / "report.json.partial"
    partial.write_text(text + "\n")
    partial.replace(OUT / "report.json")


def environment(device=None, threads=None, **more):
    """For a process on this device (cpu, cuda; by default the one under test)."""
    env = os.environ | {"XDG_CACHE_HOME": str(OUT / "cache"), "TRAINER_TEST_REFERENCE": str(ROOT / "tests/reference")}
    env["TRAINER_TEST_PROGRAM"] = TRAINER
    env["TRAINER_TEST_DEVICE"] = device or DEVICE
    if (device or DEVICE) == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    if threads:
        env["OMP_NUM_THREADS"] = str(threads)
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return env | more


def start(name, command, env):
    """Starts a process in a group of its own, its output in OUT/logs/NAME.log."""
    log = OUT / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        return log, subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(name, command, limit, env=None):
    """Runs a command for at most `limit` seconds: (exit code or None, output, seconds)."""
    began = time.monotonic()
    if limit <= 1:
        return None, "not started: the time for this part is over", 0.0
    log, process = start(name, command, env or environment())
    try:
        code = process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        end(process)
    text = log.read_text(errors="replace")
    if code is None:
        text += f"\nended: it took longer than {limit:.0f} s"
    return code, text, time.monotonic() - began


def tail(text, lines=12):
    return "\n".join(line[:400] for line in text.rstrip().splitlines()[-lines:])


# ---------------------------------------------------------------------------------------------------------- 1: doctor


def gpus():
    return REPORT["machine"].get("gpus", 1)


def doctor(part):
    """With several GPUs on all of them, so that the way between them is timed."""
    ranks = [MPIRUN, "--oversubscribe", "-n", gpus()] if gpus() > 1 else []
    code, text, seconds = run("doctor", [*ranks, TRAINER, "doctor", "--output-dir", OUT], min(90, part.left()))
    part.add(Result("doctor", None if code == 0 else f"exit {code}\n{tail(text, 40)}", seconds))
    for key, name in {"libtorch": "libtorch", "nccl": "NCCL"}.items():
        # A row of its table of software.
        if found := re.search(rf"^\W*{name}\s+(\d+\.[\w.+]+)", text, re.MULTILINE):
            REPORT["machine"][key] = found[1]
    print(text, flush=True)


# ----------------------------------------------------------------------------------------------------- 2: correctness


def correctness(part):
    binary = TESTS / "device"
    code, text, _ = run("tests-list", [binary, "--list"], 60)
    tests = re.findall(r"^(\S+): test$", text, re.MULTILINE)
    if code != 0 or not tests:
        part.add(Result("tests", f"{binary} --list: exit {code}\n{tail(text)}"))
        return
    at_once = max(1, min(12, CORES))

    def one(test):
        command = [binary, "--exact", test, "--test-threads", "1"]
        env = environment(threads=max(1, CORES // at_once))
        code, text, seconds = run("test-" + test.replace("::", "-"), command, min(240, part.left()), env)
        failure = None
        if code != 0:
            said = re.search(rf"---- {re.escape(test)} stdout ----\n(.*?)\n\n(failures:|successes:)", text, re.DOTALL)
            failure = said[1][:6000] if said else f"exit {code}\n{tail(text)}"
        elif "1 ignored" in text:
            return
        elif "1 passed" not in text:
            failure = f"did not run: {tail(text)}"
        part.add(Result(test, failure, seconds))

    # The longest first: layers go through all dtypes, families through all cases.
    tests.sort(key=lambda test: not test.startswith(("layers", "families", "parity")))
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, tests))


# -------------------------------------------------------------------------------------------------------- 3: training


def lines(folder):
    """The steps of a run by number, and its summary."""
    try:
        with open(Path(folder) / "metrics.jsonl", encoding="utf-8") as file:
            all_lines = [json.loads(line) for line in file if line.endswith("\n")]  # a run may be writing
    except FileNotFoundError:
        return {}, {}
    summary = next((line for line in all_lines if line.get("event") == "summary"), {})
    return {line["step"]: line for line in all_lines if "loss" in line}, summary


def compared(ours, wanted, precision, last=20, first=1):
    """How far two runs are apart at most, and what is wrong with that."""
    tolerance, wrong, figures, nan = TOLERANCES[precision], [], {}, float("nan")
    missing = [step for step in range(first, last + 1) if step not in ours or step not in wanted]
    if missing:
        return {}, f"steps {missing[0]} to {missing[-1]} are missing in it or in its reference"
    for key, limit in (("loss", tolerance["step_loss"]), ("grad_norm", tolerance["step_norm"])):
        pairs = {step: [nan if run[step][key] is None else run[step][key] for run in (ours, wanted)]
                 for step in range(first, last + 1)}
        # A step may have no target, and a loss of 0. NaN is larger than any limit.
        off = {step: abs(a - b) / max(abs(b), 1e-6) for step, (a, b) in pairs.items()}
        worst = max(off, key=lambda step: off[step] if off[step] == off[step] else float("inf"))
        figures[f"{key}_difference"] = float(f"{off[worst]:.2e}") if off[worst] == off[worst] else None
        if not off[worst] <= limit:
            pair = "{} against {}".format(*pairs[worst])
            wrong.append(f"{key} of step {worst}: {pair}: off by {off[worst]:.1e}, limit {limit:.0e}")
    return figures, "\n".join(wrong) or None


def copies(steps, uploads):
    """What is wrong with the transfers of a process's steps; `uploads`: micro-batches, None for at least two.

    On a CPU nothing is copied, but counted all the same. The first step may also upload what stays on the device, such
    as T5's tables of the encoder and the decoder.
    """
    for step, line in steps.items():
        up, down = line.get("host_to_device_copies"), line.get("device_to_host_copies")
        if up is None or down is None:
            return "metrics.jsonl does not count transfers"
        if down > 1:
            return f"step {step}: {down} copies from the device, at most 1 expected"
        too_many = uploads and up > uploads and step != min(steps)
        if up < (uploads or 2) or too_many:
            return f"step {step}: {up} copies to the device, {uploads or 'several'} micro-batches"
    return None


def train(name, settings, limit, device=None, ranks=0, threads=None, more=(), env=None):
    """Trains into OUT/runs/NAME: (failure, seconds)."""
    command = [MPIRUN, "--oversubscribe", "-n", ranks] if ranks else []
    command += [TRAINER, "train", *settings, f"output_dir={OUT}/runs/{name}", "overwrite_output_dir=true"]
    if threads:
        command.append(f"num_threads={threads}")
    code, text, seconds = run("train-" + name, [*command, *more], limit, environment(device, **(env or {})))
    return None if code == 0 else f"exit {code}\n{tail(text)}", seconds


def quick_start(steps=20):
    few = OUT / "data/few.jsonl"
    few.parent.mkdir(parents=True, exist_ok=True)
    few.write_text("".join((ROOT / "data/bbc/eval.jsonl").open(encoding="utf-8").readlines()[:16]), encoding="utf-8")
    size = ["max_length=48", "global_batch_size=8"] if GIVEN.cpu else []
    return [
        "configs/quickstart.toml", f"data.eval={few}", f"max_steps={steps}", "logging_steps=1", "eval_strategy=no",
        "save_strategy=no", "parallel.tf32=false", f"data.cache_dir={OUT}/cache/data", *NO_DROPOUT, *size,
    ]


def case_settings(case, task):
    folder = OUT / "cases" / case
    return [
        f"model.path={folder}/model", f"task.kind={task}", f"data.train={folder}/train.jsonl",
        f"data.eval={folder}/eval.jsonl", f"data.cache_dir={folder}/cache", "max_length=24", "max_steps=20",
        "global_batch_size=12", "logging_steps=1", "learning_rate=1e-3", "warmup_steps=2", "save_strategy=no",
        "parallel.tf32=false", *NO_DROPOUT,
    ]


# What a run adds to the quick start. A scale of fp16 that overflowed at the start would skip steps.
BF16 = ["parallel.precision=bf16"]
FP16 = ["parallel.precision=fp16", "parallel.loss_scale_init=256"]
FROZEN = ['model.freeze=["*embeddings*", "*layer.0.*", "*layer.1.*"]']
SAVE = ["save_strategy=steps", "save_steps=10"]
NCCL = [] if GIVEN.cpu else ["backend=nccl"]
# Reference runs on the CPU, by name.
REFERENCES = {"fp32": [], "bf16": BF16, "fp16": FP16, "frozen": FROZEN}
THREADS = max(1, min(4, CORES // 4))


def training(part):
    small_models.write_cases(ROOT / "tests/reference", OUT / "cases")
    at_once = max(1, min(12, CORES))
    base = quick_start()
    # Runs on the device under test: name -> (reference, precision, settings, ranks, micro-batches of a step).
    runs = {
        "gpu-fp32": ("fp32", "fp32", [], 0, 1),
        "gpu-bf16": ("bf16", "bf16", BF16, 0, 1),
        "gpu-fp16": ("fp16", "fp16", FP16, 0, 1),
        "gpu-frozen": ("frozen", "fp32", FROZEN, 0, 1),
        "gpu-micro-batches": ("fp32", "fp32", [f"micro_batch_tokens={96 if GIVEN.cpu else 512}"], 0, None),
        "gpu-recompute": ("fp32", "fp32", ["parallel.recompute=all"], 0, 1),
        "gpu-nccl-zero-0": ("fp32", "fp32", NCCL, 1, 1),
        "gpu-nccl-zero-1": ("fp32", "fp32", [*NCCL, "parallel.zero_stage=1"], 1, 1),
        "gpu-nccl-zero-2": ("fp32", "fp32", [*NCCL, "parallel.zero_stage=2"], 1, 1),
        "gpu-nccl-zero-3": ("fp32", "fp32", [*NCCL, "parallel.zero_stage=3"], 1, 1),
        "gpu-zero-3-bf16-recompute": (
            "bf16", "bf16", [*NCCL, *BF16, "parallel.zero_stage=3", "parallel.recompute=all"], 1, 1),
    }

    def limit(most):
        return min(most, part.left())

    def reference(name):
        return train(f"cpu-{name}", base + REFERENCES[name], limit(300), "cpu", threads=THREADS)

    def on_device(name):
        _, _, settings, ranks, _ = runs[name]
        return train(name, base + settings, limit(180), ranks=ranks, threads=THREADS)

    def resumed():
        failure, first = train("gpu-saved", [*base, *SAVE], limit(120), threads=THREADS)
        if failure:
            return "the run that saves: " + failure, first
        more = ["--resume", OUT / "runs/gpu-saved/checkpoint-10"]
        failure, second = train("gpu-resumed", [*base, *SAVE], limit(120), threads=THREADS, more=more)
        return failure, first + second

    def case(name, prefix):
        settings = [OUT / "cases/empty.toml", *case_settings(name, small_models.CASES[name])]
        return train(f"{prefix}-case-{name}", settings, limit(120), "cpu" if prefix == "cpu" else DEVICE, threads=1)

    (OUT / "cases/empty.toml").write_text("")
    with ThreadPoolExecutor(at_once) as pool:
        wanted = {name: pool.submit(reference, name) for name in REFERENCES}
        ours = {name: pool.submit(on_device, name) for name in runs}
        again = pool.submit(resumed)
        cases = {name: [pool.submit(case, name, d) for d in ("cpu", "gpu")] for name in small_models.CASES}
        for name, job in wanted.items():
            if job.result()[0]:
                part.add(Result(f"reference: CPU, {name}", *job.result()))
        for name, job in [*ours.items(), ("gpu-resumed", again)]:
            of, precision, _, _, uploads = runs.get(name, ("fp32", "fp32", [], 0, 1))
            failure, seconds = job.result()
            figures = {}
            if not failure:
                steps = lines(OUT / "runs" / name)[0]
                first = 11 if name == "gpu-resumed" else 1
                figures, failure = compared(steps, lines(OUT / f"runs/cpu-{of}")[0], precision, first=first)
                wrong = copies({s: line for s, line in steps.items() if s >= first}, uploads)
                failure = "\n".join(filter(None, [failure, wrong])) or None
            part.add(Result(name, failure, seconds, **figures))
        for name, jobs in cases.items():
            failures = [job.result()[0] for job in jobs]
            failure = "\n".join(f"{d}: {f}" for d, f in zip(("CPU", "device"), failures) if f) or None
            figures = {}
            if not failure:
                steps = lines(OUT / f"runs/gpu-case-{name}")[0]
                figures, failure = compared(steps, lines(OUT / f"runs/cpu-case-{name}")[0], "fp32")
                failure = "\n".join(filter(None, [failure, copies(steps, 1)])) or None
            part.add(Result(f"case {name}", failure, sum(job.result()[1] for job in jobs), **figures))


# ----------------------------------------------------------------------------------------------------- 5: performance

SHAPES = {
    "bert": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "llama": {
        "vocab_size": 128256, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "tie_word_embeddings": True, "rope_theta": 500000.0,
    },
}
if GIVEN.cpu:
    SHAPES["bert"] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    SHAPES["llama"] |= {
        "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128,
    }


def sentences(path, count, rng):
    """Texts as long as sentences of film reviews, of words that are one token each; their lengths in tokens."""
    vocabulary = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if re.fullmatch("[a-z]{3,}", word))
    lengths = [min(126, max(2, round(rng.lognormvariate(3.05, 0.5)) - 2)) for _ in range(count)]
    texts = ({"text": " ".join(rng.choices(words, k=n)), "label": rng.choice(["no", "yes"])} for n in lengths)
    small_models.write_lines(path, texts)
    return [n + 2 for n in lengths]


def speed_models(folder):
    """Writes the shapes of BERT-base and Llama-1B as model folders without weights."""
    bert = folder / "bert/model"
    bert.mkdir(parents=True, exist_ok=True)
    for file in MODEL.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "config.json":
            shutil.copy(file, bert)
    base = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    small_models.write_json(bert / "config.json", base | SHAPES["bert"])
    llama = folder / "llama/model"
    llama.mkdir(parents=True, exist_ok=True)
    shape = SHAPES["llama"]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_bias": False, "mlp_bias": False, "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 1,
    }
    small_models.write_json(llama / "config.json", config | shape)
    special = small_models.SPECIAL
    words = [f"w{i}" for i in range(shape["vocab_size"] - len(special))]
    small_models.write_json(llama / "tokenizer.json", small_models.word_tokenizer(words))
    small_models.write_json(llama / "tokenizer_config.json", {"eos_token": "</s>", "pad_token": "<pad>"})


def peak_of(gpu):
    return next((peak for name, peak in PEAKS.items() if name in gpu), None)


def performance(part):
    folder = OUT / "speed"
    speed_models(folder)
    rng = random.Random(1)
    rows, tokens, laps = (8, 64, 3) if GIVEN.cpu else (256, 8192, 6)
    each = 2 if GIVEN.cpu else 10
    steps = each * (laps + 2)
    lengths = sentences(folder / "train.jsonl", rows * steps, rng)
    (folder / "lengths").write_text("\n".join(map(str, lengths)))
    sentences(folder / "eval.jsonl", 8, rng)
    size = SHAPES["llama"]["vocab_size"] - len(small_models.SPECIAL)
    documents = steps // 2
    for name, count in (("train", documents), ("eval", 1)):
        texts = (" ".join(f"w{rng.randrange(size)}" for _ in range(tokens - 1)) for _ in range(count))
        small_models.write_lines(folder / f"llama/{name}.jsonl", ({"text": text} for text in texts))
    common = [
        OUT / "speed/empty.toml", f"data.cache_dir={OUT}/cache/data", "eval_strategy=no", "save_strategy=no",
        "num_train_epochs=1", "parallel.precision=bf16",
    ]
    common[0].write_text("")
    texts = [
        "task.kind=sequence-classification", f"data.train={folder}/train.jsonl", f"data.eval={folder}/eval.jsonl",
        "max_length=128", f"max_steps={steps}", f"global_batch_size={rows}", f"logging_steps={each}",
        "micro_batch_tokens=32768",
    ]
    jobs = {
        "minilm": [f"model.path={MODEL}", *texts],
        "bert": [f"model.path={folder}/bert/model", "model.init=random", *texts],
        "llama": [
            f"model.path={folder}/llama/model", "model.init=random", "task.kind=causal-lm",
            f"data.train={folder}/llama/train.jsonl", f"data.eval={folder}/llama/eval.jsonl", f"max_length={tokens}",
            f"max_steps={documents}", "global_batch_size=1", f"logging_steps={max(1, each // 2)}",
            f"micro_batch_tokens={tokens}",
        ],
    }
    gpu = REPORT["machine"].get("gpu", "")
    peak = peak_of(gpu)
    for model, settings in jobs.items():
        per_token = None
        variants = [[], ["--compile"]] if model == "llama" else [[], ["--group", "--compile"]]
        for variant in variants[: 1 if GIVEN.cpu else 2]:
            command = [sys.executable, ROOT / "tests/bench/gpu_peer.py", model, *variant]
            command += ["--tokens", tokens] if model == "llama" else ["--rows", rows, "--lengths", folder / "lengths"]
            count, warmup = (documents, max(1, each // 2)) if model == "llama" else (steps, each)
            command += ["--warmup", warmup, "--steps", count - warmup]
            name = f"{model}: PyTorch{' ' if variant else ''}{' '.join(variant)}"
            env = environment()
            # Of a bundle's environment, whose libraries are not meant for the machine's Python.
            env.pop("LD_LIBRARY_PATH", None)
            code, text, seconds = run(f"peer-{model}{''.join(variant)}", command, min(120, part.left()), env)
            figures = {}
            if code == 0:
                # Warnings may follow it.
                figures = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
                per_token = figures["flops_per_token"]
                figures["mfu"] = peak and round(figures["tokens_per_second"] * per_token / peak / 1e12, 4)
            part.add(Result(name, None if code == 0 else f"exit {code}\n{tail(text)}", seconds, **figures))
        failure, seconds = train(f"speed-{model}", [*common, *settings], min(150, part.left()))
        figures = {}
        if not failure:
            found, summary = lines(OUT / f"runs/speed-{model}")
            rates = [line["tokens_per_second"] for _, line in sorted(found.items())][2:]
            rate = statistics.harmonic_mean(rates)
            last = found[max(found)]
            figures = {
                "tokens_per_second": round(rate),
                "mfu": peak and per_token and round(rate * per_token / peak / 1e12, 4),
                "peak_bytes": max(rank["total"] for rank in summary["peak_bytes"]),
                "copies_to_device": last.get("host_to_device_copies"),
                "copies_from_device": last.get("device_to_host_copies"),
                "seconds_to_first_step": summary["seconds_to_first_step"], "memory": summary["peak_bytes"],
            }
        part.add(Result(f"{model}: trainer", failure, seconds, **figures))
        if not failure:
            part.add(traced(part, model, [*common, *settings]))


def traced(part, model, settings):
    """The same training for a few steps under libtorch's profiler, and what its trace says."""
    short = [s for s in map(str, settings) if not s.startswith(("max_steps=", "logging_steps="))]
    short += ["max_steps=8", "logging_steps=1", "train.profile=4"]
    failure, seconds = train(f"trace-{model}", short, min(120, part.left()))
    if failure:
        return Result(f"{model}: trace", failure, seconds)
    trace, summary = OUT / f"runs/trace-{model}/trace-rank0.json", OUT / f"trace-{model}.json"
    code, text, _ = run(f"trace-{model}", [sys.executable, HERE / "trace.py", trace, "--json", summary], 90)
    if code != 0:
        return Result(f"{model}: trace", f"exit {code}\n{tail(text)}", seconds)
    print(text, flush=True)
    found = json.loads(summary.read_text(encoding="utf-8"))
    shown = {key: found[key] for key in ("step_ms", "idle_share", "launches", "synchronizations")}
    return Result(f"{model}: trace", None, seconds, **shown, trace=found)


# ---------------------------------------------------------------------------------------- 4: several ranks, and faults


def faults(part):
    """Each rank on a GPU of its own where there are several GPUs; else all ranks on one GPU, if NCCL can do that."""
    if "nccl" not in REPORT["machine"] and not GIVEN.cpu:
        doctor(part)  # tells NCCL's version; part 1 was not asked for
    version = tuple(map(int, REPORT["machine"].get("nccl", "0").split(".")[:2]))
    if gpus() > 1:
        env, counts, stages = {}, sorted({2, gpus()}), (0, 1, 2, 3)
    else:
        env = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "2"}
        counts, stages = ((2, 4) if GIVEN.cpu or version >= (2, 30) else (1,)), (0, 3)
    if not GIVEN.cpu:
        code, text, seconds = run("nccl-real", [TESTS / "nccl_real", "--nocapture"], min(90, part.left()))
        part.add(Result("the real NCCL", None if code == 0 else f"exit {code}\n{tail(text)}", seconds))
    # Name, ranks, precision (and reference), settings.
    runs = [(f"zero-{stage}", n, "fp32", [f"parallel.zero_stage={stage}"]) for n in counts for stage in stages]
    if gpus() > 1:
        zero_3 = ["parallel.zero_stage=3", "parallel.recompute=all", *SAVE]
        runs += [
            ("micro-batches", gpus(), "fp32", ["parallel.zero_stage=2", "micro_batch_tokens=128"]),
            ("recompute", gpus(), "fp32", zero_3),
            ("resumed", gpus(), "fp32", zero_3),
            ("bf16", gpus(), "bf16", ["parallel.zero_stage=2", *BF16]),
            ("fp16", gpus(), "fp16", ["parallel.zero_stage=2", *FP16]),
        ]
    base = quick_start()

    def reference(precision):
        settings = base + REFERENCES[precision]
        return precision, *train(f"cpu-{precision}", settings, min(300, part.left()), "cpu", threads=THREADS)

    # Those that part 3 has not left behind.
    used = sorted({precision for _, _, precision, _ in runs})
    missing = [name for name in used if 3 not in GIVEN.parts or not lines(OUT / f"runs/cpu-{name}")[0]]
    with ThreadPoolExecutor(len(REFERENCES)) as pool:
        for precision, failure, seconds in pool.map(reference, missing):
            if failure:
                part.add(Result(f"reference: CPU, {precision}", failure, seconds))
    for name, ranks, precision, settings in runs:
        full, first, more = f"gpu-{ranks}-ranks-{name}", 1, []
        if name == "resumed":
            first, more = 11, ["--resume", OUT / f"runs/gpu-{ranks}-ranks-recompute/checkpoint-10"]
        failure, seconds = train(full, [*base, *NCCL, *settings], min(180, part.left()), ranks=ranks,
                                 threads=max(1, THREADS // ranks), more=more, env=env)
        figures = {}
        if not failure:
            found = lines(OUT / "runs" / full)[0]
            figures, failure = compared(found, lines(OUT / f"runs/cpu-{precision}")[0], precision, first=first)
            rates = [line["tokens_per_second"] for line in found.values()]
            figures["tokens_per_second"] = round(statistics.median(rates))
        part.add(Result(full, failure, seconds, **figures))
    part.add(killed(part, counts[0], env))
    if not GIVEN.cpu:
        part.add(out_of_memory(part))


def descendants(pid):
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, todo = [], [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def killed(part, ranks, ranks_env):
    """A rank is killed in the middle of training: the job ends with an error within the timeout."""
    name, timeout = f"SIGKILL of one of {ranks} ranks", 20
    folder = OUT / "runs/killed"
    shutil.rmtree(folder, ignore_errors=True)
    settings = [*quick_start(100000), *NCCL, f"comm.timeout_seconds={timeout}", f"output_dir={folder}",
                f"num_threads={max(1, THREADS // ranks)}"]
    began = time.monotonic()
    log, process = start("killed", [MPIRUN, "--oversubscribe", "-n", ranks, TRAINER, "train", *settings],
                         environment(**ranks_env))
    try:
        while not lines(folder)[0]:
            if process.poll() is not None or time.monotonic() - began > min(90, part.left()):
                return Result(name, f"it did not train: {tail(log.read_text(errors='replace'))}")
            time.sleep(0.2)

        def is_rank(pid):
            try:
                env = Path(f"/proc/{pid}/environ").read_bytes()
                return f"OMPI_COMM_WORLD_RANK={ranks - 1}\0".encode() in env and \
                    os.readlink(f"/proc/{pid}/exe").endswith("/trainer")
            except OSError:
                return False

        rank = [pid for pid in descendants(process.pid) if is_rank(pid)]
        if not rank:
            return Result(name, "no process of this rank was found")
        at = time.monotonic()
        os.kill(rank[0], signal.SIGKILL)
        try:
            code = process.wait(timeout=timeout + 30)
        except subprocess.TimeoutExpired:
            return Result(name, f"the job still ran {timeout + 30} s after a rank was killed", time.monotonic() - began)
        taken = round(time.monotonic() - at, 1)
        failure = None if code != 0 else "the job ended with exit 0"
        return Result(name, failure, time.monotonic() - began, exit_code=code, seconds_to_verdict=taken)
    finally:
        end(process)


def out_of_memory(part):
    """More activations than any GPU has: exit 6, and the memory by kind."""
    folder = OUT / "speed"
    speed_models(folder)
    size = SHAPES["llama"]["vocab_size"] - len(small_models.SPECIAL)
    rng = random.Random(2)
    texts = [" ".join(f"w{rng.randrange(size)}" for _ in range(8191)) for _ in range(4)]
    small_models.write_lines(folder / "llama/oom.jsonl", ({"text": text} for text in texts * 12))
    (folder / "empty.toml").write_text("")
    settings = [
        folder / "empty.toml", f"model.path={folder}/llama/model", "model.init=random", "task.kind=causal-lm",
        f"data.train={folder}/llama/oom.jsonl", f"data.cache_dir={OUT}/cache/data", "max_length=8192", "max_steps=1",
        "global_batch_size=48", "micro_batch_tokens=1000000", "parallel.precision=bf16", "save_strategy=no",
        "eval_strategy=no",
    ]
    failure, seconds = train("out-of-memory", settings, min(150, part.left()))
    message = failure or "it fitted"
    if not message.startswith("exit 6\n"):
        return Result("out of memory", message, seconds)
    wrong = None if "activations" in message else "the message does not tell memory by kind: " + message
    return Result("out of memory", wrong, seconds, message=message)


# ----------------------------------------------------------------------------------------------------------- all parts


def machine():
    facts = REPORT["machine"]
    facts |= {"cores": CORES, "device": DEVICE, "python": sys.version.split()[0]}
    for name in ("version", "libtorch-version"):
        if (ROOT / name).exists():
            facts[name] = (ROOT / name).read_text().strip()
    if GIVEN.cpu:
        return
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        facts["gpu"], facts["driver"], facts["memory"] = (word.strip() for word in text.splitlines()[0].split(","))
        facts["gpus"] = len(text.splitlines())
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            shown = [word for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if word.strip()]
            facts["gpus"] = min(facts["gpus"], len(shown))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        print(f"nvidia-smi: {error}", flush=True)


def table():
    print("\npart                        result                              status   seconds  figures")
    for part in PARTS:
        for result in part.results:
            shown = {k: v for k, v in result.figures.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
            figures = "  ".join(f"{k} {v:g}" for k, v in list(shown.items())[:5])
            status = "FAILED" if result.failure else "ok"
            title = f"{part.number} {TITLES[part.number]}"
            print(f"{title:<27} {result.name:<35} {status:<8} {result.seconds:6.1f}  {figures}")
        if not part.results:
            print(f"{part.number} {TITLES[part.number]:<25} {'-':<35} NOT RUN")
    failed = sum(bool(r.failure) for part in PARTS for r in part.results)
    print(f"{failed} failed, {time.monotonic() - BEGAN:.0f} s; {OUT}/report.json", flush=True)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    machine()
    print(json.dumps(REPORT["machine"]), flush=True)
    functions = {1: doctor, 2: correctness, 3: training, 4: faults, 5: performance}
    for i, number in enumerate(GIVEN.parts):
        left = GIVEN.seconds - (time.monotonic() - BEGAN)
        share = WEIGHTS[number] / sum(WEIGHTS[n] for n in GIVEN.parts[i:])
        part = Part(number, time.monotonic() + left * share)
        PARTS.append(part)
        print(f"part {number}, {TITLES[number]}: up to {left * share:.0f} s", flush=True)
        try:
            functions[number](part)
        except Exception:  # the other parts are worth running
            part.add(Result("the check itself", traceback.format_exc()))
        part.seconds = time.monotonic() - part.began
    write_report()
    table()
    passed = all(part.results and not any(r.failure for r in part.results) for part in PARTS)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
