"""Makes the files that the trials' configurations name, below data/, from public data sets.

    python tests/trials/prepare.py FOLDER [NAME...]

FOLDER holds the data sets in the forms in which they are published: mctest/mc500.{train,dev}.{tsv,ans}, multi30k/*.gz,
self-instruct/seed_tasks.jsonl, shakespeare/tinyshakespeare.txt, sts/*.tsv, wnut17/*.conll, xquad/xquad.en.json. NAME
chooses among them. Standard library only.
"""

import json
import shutil
import sys
from pathlib import Path

OUT = Path("data")


def sts(folder, out):
    """Pairs of 2012 to 2015 to train on; the images of 2014 are held out, and those of 2015 that repeat one of them."""
    held = (folder / "2014-images.test.tsv").read_text(encoding="utf-8").splitlines()
    known = {tuple(line.split("\t")[1:]) for line in held}
    files = ["2012-MSRpar.train.tsv", "2014-headlines.test.tsv", "2015-headlines.test.tsv", "2015-images.test.tsv"]
    rows = [line for name in files for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    # In 2015 some pairs were never scored.
    rows = [line for line in rows if line.split("\t")[0] and tuple(line.split("\t")[1:]) not in known]
    (out / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (out / "eval.tsv").write_text("\n".join(held) + "\n", encoding="utf-8")


def shakespeare(folder, out):
    """The first nine tenths to train on, as nanoGPT has it."""
    text = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    (out / "train.txt").write_text(text[:cut], encoding="utf-8")
    (out / "eval.txt").write_text(text[cut:], encoding="utf-8")


def self_instruct(folder, out):
    """Instruction and input as the user's message, the output as the answer; every eighth task is held out."""
    tasks = [json.loads(line) for line in (folder / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    parts = {"train": [], "eval": []}
    for i, task in enumerate(tasks):
        for instance in task["instances"]:
            asked = "\n\n".join(part for part in (task["instruction"], instance["input"]) if part)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": instance["output"]}]
            parts["eval" if i % 8 == 7 else "train"].append({"messages": messages})
    for name, records in parts.items():
        write(out / f"{name}.jsonl", records)
    # For the tokenizer.
    texts = [message["content"] for record in parts["train"] for message in record["messages"]]
    (out / "train.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def mctest(folder, out):
    """A record a question: the story as its context, four choices."""
    for part, name in (("train", "train"), ("dev", "eval")):
        stories = (folder / f"mc500.{part}.tsv").read_text(encoding="utf-8").splitlines()
        answers = (folder / f"mc500.{part}.ans").read_text(encoding="utf-8").splitlines()
        records = []
        for story, letters in zip(stories, answers, strict=True):
            cells = story.split("\t")
            context = cells[2].replace("\\newline", " ").replace("\\tab", " ")
            for i, letter in enumerate(letters.split("\t")):
                question, *choices = cells[3 + 5 * i : 8 + 5 * i]
                question = question.removeprefix("multiple: ").removeprefix("one: ")
                records.append({"context": " ".join(context.split()), "question": question, "choices": choices, "label": "ABCD".index(letter)})
        write(out / f"{name}.jsonl", records)


def xquad(folder, out):
    """1,000 questions to train on and 190 to answer; the questions of a paragraph stay together."""
    squad = json.loads((folder / "xquad.en.json").read_text(encoding="utf-8"))
    parts, count = {"train": [], "eval": []}, 0
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            name = "train" if count + len(paragraph["qas"]) <= 1000 else "eval"
            count += len(paragraph["qas"]) if name == "train" else 0
            if not parts[name] or parts[name][-1]["title"] != article["title"]:
                parts[name].append({"title": article["title"], "paragraphs": []})
            parts[name][-1]["paragraphs"].append(paragraph)
    for name, data in parts.items():
        (out / f"{name}.json").write_text(json.dumps({"version": "1.1", "data": data}, ensure_ascii=False) + "\n", encoding="utf-8")


def copy(folder, out):
    for file in folder.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


SETS = {
    "mctest": mctest, "multi30k": copy, "self-instruct": self_instruct, "shakespeare": shakespeare, "sst2": copy, "sts": sts,
    "wnut17": copy, "xquad": xquad,
}  # fmt: skip


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    for name in sys.argv[2:] or SETS:
        out = OUT / name
        out.mkdir(parents=True, exist_ok=True)
        SETS[name](source / name, out)
        print(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")


if __name__ == "__main__":
    main()
