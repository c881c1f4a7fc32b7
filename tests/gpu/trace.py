"""Summarizes what train.profile recorded, per step: trace.py TRACE.json [--json OUT.json]

TRACE.json is the trace-rank0.json of a run. Of several steps the first is left out, because the recording starts in it;
what is measured then reaches from its end to the end of the last step, with all that lies between steps. A kernel
belongs to the range of the training thread in which it was launched, from whatever thread: backward runs on a thread of
autograd's while the training thread waits. On a CPU the time on the device is that of the range itself.
"""

import argparse
import bisect
import itertools
import json
import re
import sys
from collections import defaultdict

STEP = re.compile(r"step \d+")
RANGE = re.compile(r"(forward|backward) .+|optimizer")
OUTSIDE = "outside of ranges"
WORK = {"kernel", "gpu_memcpy", "gpu_memset"}
CALLS = {"cuda_runtime", "cuda_driver"}
# Calls in which the host waits for the GPU. cudaFree does so as well.
WAITS = re.compile(r"cu(da)?(\w*Synchronize|Memcpy(?!\w*Async)\w*)|cudaFree")
SHOWN = 10


class Event:
    """Something that took time; times are in milliseconds."""

    __slots__ = ("kind", "name", "thread", "start", "end", "args")

    def __init__(self, entry):
        self.kind, self.name = entry.get("cat", ""), str(entry.get("name", ""))
        self.thread = entry.get("pid"), entry.get("tid")
        self.start = float(entry["ts"]) / 1e3
        self.end = self.start + float(entry.get("dur", 0)) / 1e3
        self.args = entry.get("args") or {}

    def ms(self):
        return self.end - self.start


def read(path):
    """The events of a trace by kind, each in the order of their starts."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            entries = json.load(file, strict=False)["traceEvents"]
        events = [Event(entry) for entry in entries if entry.get("ph") == "X"]
    except OSError as error:
        sys.exit(f"trace.py: {error}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        sys.exit(f"trace.py: {path} is not a trace in Chrome's format: {type(error).__name__}: {error}")
    kinds = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.start, -event.end)):
        kinds[event.kind].append(event)
    return kinds


class Ranges:
    """The ranges of the training thread, one of which was open at a time."""

    def __init__(self, ranges):
        self.ranges, self.starts = ranges, [r.start for r in ranges]
        self.last_ends = list(itertools.accumulate((r.end for r in ranges), max))

    def name_at(self, time):
        at = bisect.bisect_right(self.starts, time) - 1
        while at >= 0 and self.last_ends[at] > time:
            if self.ranges[at].end > time:
                return self.ranges[at].name
            at -= 1
        return OUTSIDE


def union(events):
    """Milliseconds in which at least one of these was under way."""
    total, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(event.start, until))
        until = max(until, event.end)
    return total


def self_times(ops):
    """Pairs of an operation and its time without that of the operations inside it."""
    inner, open_ops = defaultdict(float), defaultdict(list)
    for op in ops:
        stack = open_ops[op.thread]
        while stack and stack[-1].end <= op.start:
            stack.pop()
        if stack:
            inner[stack[-1]] += op.ms()
        stack.append(op)
    return [(op, op.ms() - inner[op]) for op in ops]


def summarize(kinds, path):
    """The figures, all of them of one step on average."""
    annotations = kinds["user_annotation"]
    steps = [event for event in annotations if STEP.fullmatch(event.name)]
    if not steps:
        sys.exit(f"trace.py: {path} has no ranges named after steps: not a trace of train.profile")
    count = max(1, len(steps) - 1)
    begin, end = (steps[0].end if len(steps) > 1 else steps[0].start), steps[-1].end
    measured = lambda time: begin <= time < end
    ranges = [r for r in annotations if r.thread == steps[0].thread and RANGE.fullmatch(r.name) and measured(r.start)]
    on_gpu = any(kinds[kind] for kind in WORK)

    calls = [call for kind in CALLS for call in kinds[kind] if measured(call.start)]
    launched = {call.args.get("correlation"): call.start for kind in CALLS for call in kinds[kind]}
    by_id = {op.args["External id"]: op.start for op in kinds["cpu_op"] if "External id" in op.args}

    def launch(event):
        """When the host asked for this work of the GPU."""
        by_op = by_id.get(event.args.get("External id"), event.start)
        return launched.get(event.args.get("correlation", "none"), by_op)

    rows = {r.name: {"name": r.name, "device_ms": 0.0, "host_ms": 0.0, "launches": 0} for r in ranges}
    rows[OUTSIDE] = {"name": OUTSIDE, "device_ms": 0.0, "host_ms": end - begin - union(ranges), "launches": 0}
    for r in ranges:
        rows[r.name]["host_ms"] += r.ms()
    work, copies, longest = [], {"HtoD": 0, "DtoH": 0}, defaultdict(lambda: [0.0, 0])
    place = Ranges(ranges)
    for event in (event for kind in WORK for event in kinds[kind]):
        at = launch(event)
        if not measured(at):
            continue
        way = next((way for way in copies if event.kind == "gpu_memcpy" and way in event.name), None)
        if way:  # on the copy engines, beside the kernels
            copies[way] += 1
            continue
        work.append(event)
        row = rows[place.name_at(at)]
        row["device_ms"] += event.ms()
        row["launches"] += event.kind == "kernel"
    if not on_gpu:
        for row in rows.values():
            row["device_ms"] = row["host_ms"]
    ops = [(op, ms) for op, ms in self_times(kinds["cpu_op"]) if measured(op.start)]
    for event, ms in [(event, event.ms()) for event in work] if on_gpu else ops:
        longest[event.name][0] += ms
        longest[event.name][1] += 1
    waits = defaultdict(int)
    for call in calls:
        if WAITS.fullmatch(call.name):
            waits[call.name] += 1

    each = lambda number: round(number / count, 4)
    step_ms, busy = each(end - begin), each(union(work)) if on_gpu else None
    of_all = sum(ms for ms, _ in longest.values()) or 1.0
    return {
        "steps": count,
        "step_ms": step_ms,
        "busy_ms": busy,
        "idle_share": round(max(0.0, 1 - busy / step_ms), 4) if on_gpu else None,
        "launches": each(sum(row["launches"] for row in rows.values())),
        "synchronizations": each(sum(waits.values())),
        "synchronizations_by_name": {name: each(n) for name, n in sorted(waits.items(), key=lambda item: -item[1])},
        "copies_to_device": each(copies["HtoD"]),
        "copies_from_device": each(copies["DtoH"]),
        "ranges": [{key: x if key == "name" else each(x) for key, x in row.items()} for row in rows.values()],
        "kernels": [
            {"name": name, "ms": each(ms), "count": each(n), "share": round(ms / of_all, 4)}
            for name, (ms, n) in sorted(longest.items(), key=lambda item: -item[1][0])[:SHOWN]
        ],
    }


def show(path, found):
    steps = f"{found['steps']} step{'s' if found['steps'] > 1 else ''}"
    print(f"{path}: a step of {found['step_ms']:.3f} ms, the mean of {steps}\n")
    width = max(len(row["name"]) for row in found["ranges"])
    print(f"{'range':<{width}}  {'device ms':>10}  {'host ms':>10}  {'launches':>9}")
    for row in found["ranges"]:
        print(f"{row['name']:<{width}}  {row['device_ms']:>10.3f}  {row['host_ms']:>10.3f}  {row['launches']:>9g}")
    if found["busy_ms"] is None:
        print("\nno GPU in this trace; the operations that take the longest, without those inside them:")
    else:
        waits = ", ".join(f"{name} {n:g}" for name, n in found["synchronizations_by_name"].items())
        print(f"\nGPU busy          {found['busy_ms']:.3f} ms, idle {found['idle_share']:.1%}")
        print(f"kernel launches   {found['launches']:g}")
        print(f"host waits        {found['synchronizations']:g}{' (' + waits + ')' if waits else ''}")
        print(f"copies            {found['copies_to_device']:g} to the device, {found['copies_from_device']:g} from it")
        print("\nkernels that take the longest:")
    print(f"{'ms':>10}  {'share':>6}  {'count':>8}  name")
    for kernel in found["kernels"]:
        print(f"{kernel['ms']:>10.3f}  {kernel['share']:>6.1%}  {kernel['count']:>8g}  {kernel['name'][:120]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", help="trace-rank0.json of a run with train.profile")
    parser.add_argument("--json", metavar="OUT.json", help="write the same figures as JSON")
    given = parser.parse_args()
    found = summarize(read(given.trace), given.trace)
    show(given.trace, found)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
