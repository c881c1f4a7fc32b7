"""Does transformers read a checkpoint of ours, and answer what `trainer predict` answered? Run by hand.

    trainer predict --model CHECKPOINT --input INPUT.jsonl --output PREDICTIONS.jsonl --scores
    python tests/reference/check_export.py CHECKPOINT INPUT.jsonl PREDICTIONS.jsonl     # torch 2.13, transformers 5.23

Loads CHECKPOINT with AutoModelForSequenceClassification and AutoTokenizer. Fails (exit 1) on a missing, unexpected or
misshapen weight, on another number of lines, on a logit further off than --tolerance, and on another label.
"""

import argparse
import json
import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def read(path):
    """The records of a JSONL file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder written by trainer: checkpoint-N or final")
    parser.add_argument("input", help="JSONL with text and, for pairs, text_pair")
    parser.add_argument("predictions", help="JSONL with logits, one line for each of the input's")
    parser.add_argument("--max-length", type=int, help="truncate here (default: the model's number of positions)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest absolute difference of a logit")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        args.checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        sys.exit(f"{args.checkpoint}: transformers does not read it cleanly: {wrong}")
    model.eval()
    config = model.config
    max_length = args.max_length or config.max_position_embeddings

    records, predictions = read(args.input), read(args.predictions)
    if not records or len(records) != len(predictions):
        sys.exit(f"{args.input} has {len(records)} records, {args.predictions} has {len(predictions)}")
    worst = worst_line = 0
    for line, (record, predicted) in enumerate(zip(records, predictions), 1):
        texts = [record[key] for key in ("text", "text_pair") if key in record]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            logits = model(**encoded).logits[0]
        ours = torch.tensor(predicted["logits"], dtype=torch.float64)
        if ours.shape != logits.shape:
            sys.exit(f"{args.predictions}, line {line}: {len(ours)} logits, transformers has {len(logits)}")
        off = (ours - logits.double()).abs().max().item()
        if not off <= args.tolerance:  # a NaN fails too
            print(f"line {line}: logits {predicted['logits']}, transformers {logits.tolist()}", file=sys.stderr)
        if not off <= worst:
            worst, worst_line = off, line
        if len(logits) > 1:
            label = config.id2label[int(ours.argmax())] if config.id2label else f"LABEL_{int(ours.argmax())}"
            if predicted["label"] != label:
                sys.exit(f"{args.predictions}, line {line}: label {predicted['label']!r}, its logits say {label!r}")
    print(f"{len(records)} records, largest absolute difference of a logit {worst:.3g} (line {worst_line})")
    sys.exit(0 if worst <= args.tolerance else 1)


if __name__ == "__main__":
    main()
