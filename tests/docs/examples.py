"""Runs the marked examples of a page, in order, in a folder of their own.

usage: examples.py PAGE FOLDER

In the page, `<!-- file: NAME -->` before a code block writes it to NAME, and `<!-- run -->` runs it by bash. FOLDER gets
links to target/ and models/, and three small files of real data, made of BBC News (launch/fetch.sh): reviews/train.csv,
reviews/eval.csv and new.csv. Standard library only.
"""

import csv
import json
import os
import subprocess
import sys
import time


def blocks(page):
    """(mark, text) of each marked code block: the mark is `run` or `file: NAME`."""
    mark, inside, text = None, False, []
    for line in open(page, encoding="utf-8"):
        if line.startswith("```"):
            if inside and mark:
                yield mark, "".join(text)
                mark = None
            inside, text = not inside, []
        elif inside:
            text.append(line)
        elif line.startswith("<!-- ") and line.strip().endswith(" -->"):
            mark = line.strip()[5:-4]
        elif line.strip():
            mark = None


def records(name, count):
    """The first records of a file of BBC News, texts cut to 300 characters."""
    with open(name, encoding="utf-8") as lines:
        for index, line in zip(range(count), lines):
            record = json.loads(line)
            yield {"id": index, "text": record["text"][:300], "label": record["label"]}


def write_csv(name, columns, rows):
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main(page, folder):
    root, marked = os.getcwd(), list(blocks(page))
    os.makedirs(folder, exist_ok=True)
    train, held_out = list(records("data/bbc/train.jsonl", 40)), list(records("data/bbc/eval.jsonl", 16))
    os.chdir(folder)
    for name in ("target", "models"):
        if not os.path.islink(name):
            os.symlink(os.path.join(root, name), name)
    columns = ["id", "text", "label"]
    write_csv("reviews/train.csv", columns, train)
    write_csv("reviews/eval.csv", columns, held_out)
    write_csv("new.csv", columns[:2], held_out)
    start, ran = time.monotonic(), 0
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                       OMPI_MCA_rmaps_base_oversubscribe="1")
    for mark, text in marked:
        if mark.startswith("file: "):
            os.makedirs(os.path.dirname(mark[6:]) or ".", exist_ok=True)
            with open(mark[6:], "w", encoding="utf-8") as out:
                out.write(text)
        elif mark == "run":
            print(text, end="", flush=True)
            subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, env=environment)
            ran += 1
    with open("reviews/head.csv", encoding="utf-8") as head:
        shown = head.readline().strip().split(",")
    if shown != columns:
        sys.exit(f"{page} shows data with the columns {shown}, and the test has {columns}")
    with open("predictions.csv", encoding="utf-8", newline="") as lines:
        predictions = list(csv.DictReader(lines))
    if len(predictions) != len(held_out) or list(predictions[0]) != ["id", "text", "label", "score"]:
        sys.exit(f"predictions.csv has {len(predictions)} records with the columns {list(predictions[0])}")
    if ran == 0:
        sys.exit(f"{page} has no block that is marked to be run")
    print(f"{page}: {ran} marked blocks ran in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
