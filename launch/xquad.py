"""XQuAD for question answering: 1,190 questions on 240 paragraphs, divided into 1,000 to train on and 190 held out.

usage: xquad.py XQUAD.json FOLDER      writes FOLDER/train.json and FOLDER/test.json, in SQuAD's form
Standard library only. XQUAD.json is xquad.en.json of https://github.com/google-deepmind/xquad.
"""

import json
import os
import sys

TRAIN = 1000


def split(articles):
    """In the file's order a paragraph goes to training while it fits, with all of its questions: no text is on both sides."""
    train, test, left = [], [], TRAIN
    for article in articles:
        sides = {"train": [], "test": []}
        for paragraph in article["paragraphs"]:
            fits = len(paragraph["qas"]) <= left
            left -= len(paragraph["qas"]) if fits else 0
            sides["train" if fits else "test"].append(paragraph)
        for side, paragraphs in ((train, sides["train"]), (test, sides["test"])):
            if paragraphs:
                side.append({"title": article["title"], "paragraphs": paragraphs})
    return train, test


def main(path, folder):
    with open(path, encoding="utf-8") as file:
        xquad = json.load(file)
    os.makedirs(folder, exist_ok=True)
    for name, articles in zip(("train", "test"), split(xquad["data"])):
        out = os.path.join(folder, name + ".json")
        with open(out + ".partial", "w", encoding="utf-8") as file:
            json.dump({"version": xquad["version"], "data": articles}, file, ensure_ascii=False, indent=1)
        os.replace(out + ".partial", out)
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        questions = sum(len(paragraph["qas"]) for paragraph in paragraphs)
        print(f"{out}: {questions} questions on {len(paragraphs)} paragraphs")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
