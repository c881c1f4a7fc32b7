"""Checks the traces of a run with train.profile: the format, and that their ranges account for the time of the steps.

    mpirun -n 2 trainer train run.toml profile=3..5 max_steps=6 logging_steps=1
    python3 tests/reference/check_trace.py OUTPUT_DIR

The format is that of Chrome's "Trace Event Format": each event has the fields that its phase requires, no duration is
negative, complete events nest within their thread, and flows that end have begun. The ranges within a recorded step
must add up to 95 % of it, and a step (with its wait for the numbers of targets) be within 5 % of its time in
metrics.jsonl: compute_seconds + wait_seconds of the next line, or on one rank the tokens of a step divided by
tokens_per_second. So log each step, and on one rank let all steps have equally many tokens: texts that are all
truncated to data.max_length, or packed. Uses the standard library only; fails with exit code 1.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

ALWAYS = {"ph": str, "pid": (int, str), "name": str}
TIMED = {"ts": (int, float), "tid": (int, str)}
FIELDS = {
    "X": TIMED | {"dur": (int, float)},
    "B": TIMED,
    "E": TIMED,
    "i": TIMED,
    "C": TIMED | {"args": dict},
    "M": {"args": dict},
    "s": TIMED | {"id": (int, str), "cat": str},
    "t": TIMED | {"id": (int, str), "cat": str},
    "f": TIMED | {"id": (int, str), "cat": str},
}
METADATA = {"process_name", "process_labels", "process_sort_index", "thread_name", "thread_sort_index"}
# Times are microseconds since the system's start, as doubles with three decimals.
ROUNDING = 0.01
STEP = re.compile(r"step (\d+)")
TARGETS = "wait for targets of a step"
WITHIN = 0.05


def wrong_events(events):
    for event in events:
        fields = FIELDS.get(event.get("ph"))
        if fields is None:
            yield f"unknown phase: {event}"
            continue
        for name, kind in (ALWAYS | fields).items():
            if not isinstance(event.get(name), kind) or isinstance(event.get(name), bool):
                yield f"no valid {name}: {event}"
        if event.get("dur", 0) < 0 or event.get("ts", 0) < 0:
            yield f"negative time: {event}"
        if event["ph"] == "M" and event.get("name") not in METADATA:
            yield f"unknown metadata: {event}"
        if event["ph"] == "i" and event.get("s", "t") not in ("g", "p", "t"):
            yield f"unknown scope: {event}"


def wrong_flows(events):
    begun = {(event["cat"], event["id"]) for event in events if event["ph"] == "s"}
    for event in events:
        if event["ph"] in "tf" and (event["cat"], event["id"]) not in begun:
            yield f"a flow without a beginning: {event}"


def wrong_nesting(events):
    threads = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(event)
    for own in threads.values():
        own.sort(key=lambda event: (event["ts"], -event["dur"]))
        open_until = []
        for event in own:
            start, end = event["ts"], event["ts"] + event["dur"]
            while open_until and open_until[-1] <= start + ROUNDING:
                open_until.pop()
            if open_until and end > open_until[-1] + ROUNDING:
                yield f"reaches {end - open_until[-1]} us beyond the event around it: {event}"
            open_until.append(end)


def step_seconds(lines, rank):
    """The time of each step by metrics.jsonl."""
    steps = {line["step"]: line for line in lines if "event" not in line and "tokens_per_second" in line}
    if any("compute_seconds" in line for line in steps.values()):
        own = lambda line: line["compute_seconds"][rank] + line["wait_seconds"][rank]
        return {step - 1: own(line) for step, line in steps.items() if "compute_seconds" in line}
    (summary,) = [line for line in lines if line.get("event") == "summary"][-1:] or sys.exit("the run is not finished")
    tokens = summary["train_tokens"] / len(steps)
    return {step: tokens / line["tokens_per_second"] for step, line in steps.items()}


def wrong_times(events, seconds):
    ranges = [event for event in events if event["ph"] == "X" and event.get("cat") == "user_annotation"]
    steps = [event for event in ranges if STEP.fullmatch(event["name"])]
    if not steps:
        yield "no step is recorded"
    for step in steps:
        number, start, end = int(step["name"][5:]), step["ts"], step["ts"] + step["dur"]
        inner = [
            event
            for event in ranges
            if event is not step and event["tid"] == step["tid"] and start <= event["ts"] + ROUNDING < end
        ]
        inner.sort(key=lambda event: (event["ts"], -event["dur"]))
        total, until = 0.0, start
        for event in inner:
            # The outermost ones.
            if event["ts"] + ROUNDING >= until:
                total, until = total + event["dur"], event["ts"] + event["dur"]
        before = [e for e in ranges if e["name"] == TARGETS and e["ts"] < start]
        waited = max(before, key=lambda event: event["ts"])["dur"] if before else 0.0
        known = seconds.get(number)
        parts, took = total / step["dur"], (step["dur"] + waited) / 1e6
        print(f"  step {number}: {took:.4f} s, ranges {100 * parts:.1f} %, metrics.jsonl {known or 0.0:.4f} s")
        if not 1 - WITHIN <= parts <= 1 + 1e-6:
            yield f"the ranges of step {number} are {100 * parts:.1f} % of it"
        if known is None:
            yield f"metrics.jsonl has no time of step {number}: log each step, and record before the last step"
        elif abs(took - known) > WITHIN * known:
            yield f"step {number} takes {took:.4f} s in the trace and {known:.4f} s in metrics.jsonl"


folder = Path(sys.argv[1])
lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
traces = sorted(folder.glob("trace-rank*.json"))
problems = [] if traces else [f"{folder} has no trace-rank*.json"]
for path in traces:
    rank = int(path.stem.removeprefix("trace-rank"))
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    found = list(wrong_events(events))
    print(f"{path.name}: {len(events)} events")
    if not found:
        found = [*wrong_flows(events), *wrong_nesting(events), *wrong_times(events, step_seconds(lines, rank))]
    problems += [f"{path.name}: {problem}" for problem in found]
for problem in problems[:20]:
    print(problem)
print(len(problems), "problems in", len(traces), "traces")
sys.exit(bool(problems))
