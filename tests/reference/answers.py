"""Makes the answers that the unit tests of `src/tasks/answers.rs` compare with. Run by hand, never by a test.

    pip install numpy
    python tests/reference/answers.py      # rewrites answers.json beside this file

Scores are made up from a fixed seed; the answers are those of `postprocess_qa_predictions` in the question-answering
example of transformers 5.23 (examples/pytorch/question-answering/utils_qa.py), whose steps `choose` follows, in float32 as
there. Where that example would answer with the word "empty", because there is no candidate, the file has no answer.
"""

import json
import random
from pathlib import Path

import numpy as np

WORDS = "the caf\u00e9 on Main Street \u2014 opened in 1999 , Zo\u00eb says : \u201ccoffee\u201d and 3\u00bd cakes \U0001f370 cost \u20ac 5 today".split()


def context(rng):
    """A text, and where its tokens are, in characters; some words are two tokens."""
    text, tokens = "", []
    for _ in range(rng.randint(8, 22)):
        word = rng.choice(WORDS)
        text += " " * (len(text) > 0)
        start, end = len(text), len(text) + len(word)
        middle = start + len(word) // 2 if len(word) > 5 else end
        tokens += [(start, middle)] + [(middle, end)] * (middle < end)
        text += word
    return text, tokens


def windows(rng, tokens, bonus):
    """(place of the first context token, which token that is, how many) of windows that overlap, with random scores;
    `bonus` is added to those of no answer."""
    question, room, stride = rng.randint(1, 4), rng.choice([6, 9, 40]), rng.choice([1, 3])
    found = []
    for first in range(0, len(tokens), room - stride):
        count = min(room, len(tokens) - first)
        n = 1 + question + 1 + count + 1
        # In thousandths, and all different, so that no order is left to chance.
        scores = [[value / 1000 for value in rng.sample(range(-4000, 6000), n)] for _ in range(2)]
        for end in scores:
            end[0] = round(end[0] + bonus, 3)
        found.append({"place": [2 + question, first, count], "scores": [list(pair) for pair in zip(*scores)]})
        if first + count == len(tokens):
            return found


def choose(text, tokens, windows, rules):
    """The answer, the difference to no answer, and the best candidates: (text, first score, last score, probability)."""
    with_none, size, longest = rules["version_2_with_negative"], rules["n_best_size"], rules["max_answer_length"]
    none, candidates = None, []
    for window in windows:
        (start, first, count), scores = window["place"], np.array(window["scores"], dtype=np.float32)
        offsets = {start + i: tokens[first + i] for i in range(count)}
        here = (scores[0, 0] + scores[0, 1], None, scores[0, 0], scores[0, 1])
        if none is None or none[0] > here[0]:
            none = here
        firsts, lasts = (np.argsort(scores[:, end])[::-1][:size].tolist() for end in (0, 1))
        for i in firsts:
            for j in lasts:
                if i in offsets and j in offsets and i <= j and j - i + 1 <= longest:
                    span = (offsets[i][0], offsets[j][1])
                    candidates.append((scores[i, 0] + scores[j, 1], span, scores[i, 0], scores[j, 1]))
    candidates = sorted(candidates + [none] * with_none, key=lambda c: c[0], reverse=True)[:size]
    if with_none and all(span is not None for _, span, _, _ in candidates):
        candidates.append(none)
    exps = np.exp(np.array([c[0] for c in candidates], dtype=np.float64) - max([c[0] for c in candidates], default=0))
    best = [
        (text[slice(*span)] if span else "", float(a), float(b), float(p))
        for (_, span, a, b), p in zip(candidates, exps / exps.sum())
    ]
    answers = [c for c in candidates if c[1]]
    if not answers:
        return "", None, best
    answer = text[slice(*answers[0][1])]
    if not with_none:
        return answer, None, best
    difference = none[0] - answers[0][2] - answers[0][3]
    return "" if difference > rules["null_score_diff_threshold"] else answer, float(difference), best


def case(rng, bonus, **rules):
    text, tokens = context(rng)
    parts = windows(rng, tokens, bonus)
    answer, difference, best = choose(text, tokens, parts, rules)
    size = lambda at: len(text[:at].encode())
    return {
        "rules": rules,
        "text": text,
        "offsets": [size(at) for token in tokens for at in token],
        "windows": parts,
        "answer": answer,
        "null_score_diff": difference,
        "n_best": best,
    }


def main():
    rng = random.Random(7)
    cases = []
    for with_none in (False, True):
        for size, longest, threshold in ((20, 30, 0.0), (5, 3, -1.0), (3, 1, -2.5), (2, 30, 6.0), (1, 1, 0.0), (20, 2, 1.5)):
            for bonus in (0, 7):
                cases.append(
                    case(
                        rng,
                        bonus,
                        n_best_size=size,
                        max_answer_length=longest,
                        null_score_diff_threshold=threshold,
                        version_2_with_negative=with_none,
                    )
                )
    # What the cases are meant to hold.
    of = lambda with_none: [c for c in cases if c["rules"]["version_2_with_negative"] == with_none]
    assert any(c["answer"] for c in of(True)) and any(c["answer"] == "" and c["null_score_diff"] for c in of(True))
    assert any(not c["n_best"] for c in of(False)) and any(c["null_score_diff"] is None for c in of(True))
    assert any(len(c["windows"]) > 2 for c in cases) and any(len(c["n_best"]) == 21 for c in of(True))
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    (Path(__file__).resolve().parent / "answers.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
