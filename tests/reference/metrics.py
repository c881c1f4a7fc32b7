"""Makes the values that the unit tests of `src/metrics` compare with. Run by hand, never by a test.

    pip install seqeval==1.2.2 sacrebleu==2.6.0 rouge-score==0.1.2 scikit-learn==1.9.1 scipy==1.17.1
    python tests/reference/metrics.py DIR      # DIR holds the official evaluate-v1.1.py and evaluate-v2.0.py of SQuAD

Rewrites the JSON files in `metrics/` beside this file. The inputs are made up from a fixed seed, many of them to be
awkward: malformed tag sequences, empty texts, marks and entities, labels that never occur.
"""

import importlib.util
import json
import random
import sys
import warnings
from pathlib import Path

import sacrebleu
from rouge_score import rouge_scorer, tokenize
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import sequence_labeling as lenient
from seqeval.metrics import v1 as strictly
from seqeval.scheme import IOB2, IOBES, Entities
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    mean_squared_error,
    roc_auc_score,
)

HERE = Path(__file__).resolve().parent / "metrics"
WORDS = (
    "the a an of on cat dog bird tree house red small sleeps runs , . ; in with two 3 1,000 x-ray it's New York".split()
)
warnings.filterwarnings("ignore")  # seqeval and scikit-learn warn of every division by zero; 0 is what we want


def write(name, value):
    # One case a line: a change shows as such.
    lists = ",\n".join(f" {json.dumps(k)}: [\n  " + ",\n  ".join(map(dump, v)) + "\n ]" for k, v in value.items())
    (HERE / f"{name}.json").write_text("{\n" + lists + "\n}\n")


def dump(case):
    return json.dumps(case, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------------ entities


def well_formed(rng, types, bioes):
    """Tags of random entities, some of them side by side."""
    tags = []
    for _ in range(rng.randint(0, 5)):
        kind, length = rng.choice(types), rng.randint(1, 3)
        if bioes:
            entity = ["S"] if length == 1 else ["B"] + ["I"] * (length - 2) + ["E"]
        else:
            entity = ["B"] + ["I"] * (length - 1)
        tags += [f"{p}-{kind}" for p in entity] + ["O"] * rng.choice([0, 0, 1, 2])
    return tags or ["O"]


def disturbed(rng, tags, everything, share):
    return [rng.choice(everything) if rng.random() < share else tag for tag in tags]


def scores(gold, found, **how):
    def four(average):
        module = strictly if how else lenient
        values = module.precision_recall_fscore_support(gold, found, average=average, **how)
        return values if average else list(zip(*(column.tolist() for column in values)))

    names = sorted({name for name, *_ in spans(gold, how) + spans(found, how)})
    types = dict(zip(names, four(None))) if names else {}
    precision, recall, f1, _ = four("micro")
    return {"micro": [float(precision), float(recall), float(f1)], "types": types}


def spans(sequences, how):
    """(type, first word, one past the last word)"""
    if "scheme" not in how:
        return [(kind, start, end + 1) for kind, start, end in lenient.get_entities(sequences)]
    return [e.to_tuple()[1:] for s in Entities(sequences, how["scheme"]).entities for e in s]


def reading(tags, sequence, bioes):
    strict = dict(scheme=IOBES if bioes else IOB2)
    both = {"default": spans([sequence], {}), "strict": spans([sequence], strict)}
    return {"tags": " ".join(tags), "sequence": " ".join(sequence)} | both


def entities(rng):
    cases, readings = [], []
    for number in range(40):
        bioes = number % 2 == 1
        types = [["person", "creative-work", "place"], ["X"], ["a", "b"]][number % 3]
        everything = ["O"] + [f"{p}-{t}" for p in ("BIES" if bioes else "BI") for t in types]
        share = [0.0, 0.2, 1.0][number // 2 % 3]
        gold = [disturbed(rng, well_formed(rng, types, bioes), everything, share / 4) for _ in range(rng.randint(1, 4))]
        found = [disturbed(rng, tags, everything, share) for tags in gold]
        cases.append(
            {
                "tags": everything,
                "gold": [" ".join(s) for s in gold],
                "found": [" ".join(s) for s in found],
                "default": scores(gold, found),
                "strict": scores(gold, found, scheme=IOBES if bioes else IOB2),
            }
        )
    # Every sequence of three tags over two types, or one in six of them: all ways in which one can be malformed.
    for bioes in False, True:
        everything = ["O"] + [f"{p}-{t}" for p in ("BIES" if bioes else "BI") for t in "XY"]
        every = [[a, b, c] for a in everything for b in everything for c in everything]
        readings += [reading(everything, s, bioes) for s in every if not bioes or rng.random() < 1 / 6]
    for sequence in [["B", "I", "O", "S", "E", "E"], ["I", "I", "O"], ["O", "B", "B", "I"]]:
        readings.append(reading(list("OBIES"), sequence, True))
    write("entities", {"cases": cases, "readings": readings})


# --------------------------------------------------------------------------------------------------------------- SQuAD


def official(folder, version):
    spec = importlib.util.spec_from_file_location(f"squad{version[0]}", Path(folder) / f"evaluate-v{version}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def squad(rng, folder):
    v1, v2 = official(folder, "1.1"), official(folder, "2.0")
    texts = [
        "The Cat",
        "cat",
        "a cat,  the dog!",
        "",
        "the",
        "An",
        "the\u2013end",
        "U.S.",
        "us",
        "Ärger IST",
        "ärger ist",
        "$5.00",
        "500",
        "a-b",
        "_the_ cat",
        "café\u00a0noir",
        "café noir",
        "theatre an other",
        "1\x1c2\x1d3\x1e4\x1f5",
        "ΌΔΟΣ",
        "όδος",
        "don't",
        "dont",
        "the\u2019s",
        "a\u0301",
        "「the」 cat",
        "\u2014",
    ]
    normalised = [[t, v1.normalize_answer(t)] for t in texts]
    letters = "aanthe AT.,'-_\t\u00a0é\u2013"
    for _ in range(120):
        text = "".join(rng.choice(letters) for _ in range(rng.randint(0, 12)))
        normalised.append([text, v1.normalize_answer(text)])
    assert all(v2.normalize_answer(t) == n for t, n in normalised)

    def phrase():
        return (
            rng.choice(texts) if rng.random() < 0.4 else " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
        )

    answers, qas, predictions = [], [], {}
    for i in range(80):
        golds = [phrase() for _ in range(rng.randint(1, 3))] if rng.random() < 0.8 else []
        kind = rng.random()
        found = rng.choice(golds) if golds and kind < 0.3 else "" if kind < 0.5 else phrase()
        if golds and kind > 0.8:
            found = rng.choice(golds) + " " + phrase()
        qa = {"id": str(i), "answers": [{"text": g} for g in golds]}
        one = [{"paragraphs": [{"qas": [qa]}]}]
        exact, f1 = v2.get_raw_scores(one, {qa["id"]: found})
        of_v1 = v1.evaluate(one, {qa["id"]: found}) if golds else None
        answers.append(
            {
                "found": found,
                "golds": golds,
                "v1": of_v1 and [of_v1["exact_match"] / 100, of_v1["f1"] / 100],
                "v2": [exact[qa["id"]], f1[qa["id"]]],
            }
        )
        qas.append(qa)
        predictions[qa["id"]] = found
    whole = [{"paragraphs": [{"qas": qas}]}]
    exact, f1 = v2.get_raw_scores(whole, predictions)
    has = [q["id"] for q in qas if q["answers"]]
    no = [q["id"] for q in qas if not q["answers"]]
    of_v2 = v2.make_eval_dict(exact, f1)
    v2.merge_eval(of_v2, v2.make_eval_dict(exact, f1, has), "HasAns")
    v2.merge_eval(of_v2, v2.make_eval_dict(exact, f1, no), "NoAns")
    of_v1 = v1.evaluate([{"paragraphs": [{"qas": [q for q in qas if q["answers"]]}]}], predictions)
    write("squad", {"normalised": normalised, "answers": answers, "totals": [of_v1, of_v2]})


# -------------------------------------------------------------------------------------------------------- BLEU, ROUGE


def sentence(rng, longest=14):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, longest)))


def edited(rng, text):
    words = [rng.choice(WORDS) if rng.random() < 0.25 else w for w in text.split() if rng.random() > 0.1]
    return " ".join(words)


def bleu(rng):
    lines = [
        "Hello, world!",
        "1,000.50 and .5 or 5.",
        "a..b",
        "...",
        "3-4 x-ray -5 5- 1-2-3",
        "don't stop",
        "&quot;A&amp;B&quot; &lt;3 &gt;",
        "&amp;lt;",
        "<skipped>now",
        "end-\nof line\nnext",
        "tail-\n",
        "e.g., i.e. U.S.",
        "$5.00/€4,50",
        "äöü – “quoted”",
        "a,b,c 1,2,3",
        "100%.",
        "\u00a0x\u3000y\x1cz",
        "[a]{b}(c)\\d^e_f`g|h~i",
        "@user #tag",
        ",5,",
        "5.,5",
        ".,.",
        "٣.٤ １．２ ²,",
        "",
    ]
    letters = "ab12.,-&; \n'é<$"
    lines += ["".join(rng.choice(letters) for _ in range(rng.randint(1, 14))) for _ in range(150)]
    tokenise = Tokenizer13a()
    tokens = [[line, tokenise(line).split()] for line in lines]
    corpora = []
    for number in range(24):
        size, n_refs = rng.randint(1, 6), rng.choice([1, 1, 1, 2, 3])
        longest = [3, 14, 30][number % 3]
        first = [sentence(rng, longest) for _ in range(size)]
        refs = [first] + [[edited(rng, s) for s in first] for _ in range(n_refs - 1)]
        found = [edited(rng, s) if number % 5 else s for s in first]
        if number == 7:
            found = [""] * size
        if number == 8:
            found, refs = ["entirely other words stand here"], [["none of them is shared by us"]]
        if number == 9:
            found, refs = ["The cat SAT on the mat today"], [["the cat sat on the mat today"]]
        if number == 10:  # two references equally near in length
            found, refs = ["a b c d e f"], [["a b c d e f g"], ["a b c d e"]]
        score = sacrebleu.corpus_bleu(found, refs)
        corpora.append(
            {
                "found": found,
                "references": [list(r) for r in zip(*refs)],
                "score": score.score,
                "counts": score.counts,
                "totals": score.totals,
                "precisions": score.precisions,
                "bp": score.bp,
                "lengths": [score.sys_len, score.ref_len],
            }
        )
    write("bleu", {"tokens": tokens, "corpora": corpora})


def rouge(rng):
    lines = [
        "Hello, World!",
        "don't U.S. 3.5",
        "für Äpfel",
        "",
        "...",
        "K\u212aelvin İx",
        "a_b",
        "東京 tower",
        "tab\tand\nline",
    ]
    lines += ["".join(rng.choice("abZ1.-_ é\n") for _ in range(rng.randint(1, 14))) for _ in range(40)]
    tokens = [[line, tokenize.tokenize(line, None)] for line in lines]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    texts = []
    for number in range(60):
        target = sentence(rng)
        found = edited(rng, target) if number % 4 else sentence(rng)
        others = [edited(rng, target) for _ in range(number % 3)]
        best = scorer.score_multi([target] + others, found)["rougeL"]
        texts.append({"found": found, "references": [target] + others, "scores": list(best)})
    write("rouge", {"tokens": tokens, "texts": texts})


# ------------------------------------------------------------------------------------------------- classes and numbers


def classes(rng):
    multi, single = [], []
    for number in range(24):
        n, size = rng.randint(1, 6), rng.randint(1, 20)
        # The last label of every third case never occurs, neither in truth nor in prediction.
        share = [0.5] * (n - 1) + [0.0 if number % 3 == 0 else 0.2]
        gold = [[int(rng.random() < p) for p in share] for _ in range(size)]
        scores = [
            [round(min(1.0, max(0.0, rng.gauss(0.3 + 0.4 * y, 0.25))) * (p > 0), 3) for y, p in zip(row, share)]
            for row in gold
        ]
        threshold = [0.5, 0.3, scores[0][0] or 0.7][number % 3]
        found = [[int(s >= threshold) for s in row] for row in scores]
        # A column of zeros keeps a single label from looking like a list of two classes; its F1 is left out below.
        wide, wide_found = [row + [0] for row in gold], [row + [0] for row in found]
        f1 = f1_score(wide, wide_found, average=None, zero_division=0)[:n]
        multi.append(
            {
                "gold": gold,
                "scores": scores,
                "threshold": threshold,
                "accuracy": float(accuracy_score(wide, wide_found)),
                "micro_f1": float(f1_score(wide, wide_found, average="micro", zero_division=0)),
                "macro_f1": float(f1.mean()),
                "f1": f1.tolist(),
            }
        )
        if n > 1:
            assert multi[-1]["macro_f1"] == f1_score(gold, found, average="macro", zero_division=0)
        labels = [rng.randrange(n + 1) for _ in range(size)]
        predictions = [y if rng.random() < 0.6 else rng.randrange(n + 1) for y in labels]
        single.append(
            {
                "n_labels": n + 1,
                "labels": labels,
                "predictions": predictions,
                "accuracy": float(accuracy_score(labels, predictions)),
                "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
                "micro_f1": float(f1_score(labels, predictions, average="micro", zero_division=0)),
                "matthews": float(matthews_corrcoef(labels, predictions)),
            }
        )
    write("classes", {"multi_label": multi, "single": single})


def numbers(rng):
    cases = []
    for number in range(20):
        size = rng.randint(3, 25)
        y = [round(rng.uniform(0, 5), 1 if number % 2 else 4) for _ in range(size)]
        x = [round(v + rng.gauss(0, 1.5), 0 if number % 4 == 1 else 3) for v in y]
        if len(set(x)) > 1 and len(set(y)) > 1:
            cases.append(
                {
                    "x": x,
                    "y": y,
                    "pearson": float(pearsonr(x, y)[0]),
                    "spearman": float(spearmanr(x, y)[0]),
                    "mse": float(mean_squared_error(y, x)),
                }
            )
    write("numbers", {"cases": cases})


def ranking(rng):
    """Two classes: scores of the positive one, many of them equal. Without both classes ROC-AUC is not defined, and without
    a positive example average precision is not."""
    cases = []
    for number in range(40):
        size = rng.randint(2, 30)
        share = [0.5, 0.1, 0.9, 0.5][number % 4]
        labels = [int(rng.random() < share) for _ in range(size)]
        if number in (5, 6):
            labels = [number % 2] * size
        digits = [1, 4, 0, 2][number // 4 % 4]
        scores = [round(rng.gauss(0.8 * y, 1.0), digits) for y in labels]
        predictions = [int(s > 0) for s in scores]
        positive = sum(labels)
        cases.append(
            {
                "labels": labels,
                "scores": scores,
                "predictions": predictions,
                "binary_f1": float(f1_score(labels, predictions, average="binary", zero_division=0)),
                "roc_auc": float(roc_auc_score(labels, scores)) if 0 < positive < size else None,
                "average_precision": float(average_precision_score(labels, scores)) if positive else None,
            }
        )
    write("ranking", {"cases": cases})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    HERE.mkdir(exist_ok=True)
    entities(random.Random(1))
    squad(random.Random(2), sys.argv[1])
    bleu(random.Random(3))
    rouge(random.Random(4))
    classes(random.Random(5))
    numbers(random.Random(6))
    ranking(random.Random(7))
