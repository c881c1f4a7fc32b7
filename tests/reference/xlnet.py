"""XLNet in every role. Run by hand: see common.py."""

import torch
from transformers import (
    XLNetConfig,
    XLNetForMultipleChoice,
    XLNetForQuestionAnsweringSimple,
    XLNetForSequenceClassification,
    XLNetForTokenClassification,
)

import common

VOCAB = 60
SMALL = dict(vocab_size=VOCAB, d_model=16, n_layer=2, n_head=4, d_inner=24, dropout=0.0, summary_last_dropout=0.0, mem_len=None)
LENGTHS = (9, 3, 17, 2, 12, 6)
PAIRS = (4, None, 11, None, 5, 3)


def texts(seed):
    """Texts and pairs as XLNet's tokenizer ends them: the last token is of a segment of its own."""
    batch = common.sequences(LENGTHS, VOCAB, seed, pairs=PAIRS)
    batch["token_type_ids"][batch["lengths"].cumsum(0) - 1] = 2
    return batch


def token_labels(classes, seed, share=0.6):
    """A class for about `share` of the tokens, IGNORED for the others."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, classes, (sum(LENGTHS),), generator=generator)
    return drawn.masked_fill(torch.rand(sum(LENGTHS), generator=generator) > share, common.IGNORED)


def one_by_one(batch, labels):
    """Sequence classification of each text alone: in a batch transformers' mean is over the padding too."""
    parts = [common.rows(batch[name], batch["lengths"]) for name in ("input_ids", "token_type_ids")]
    alone = [
        {"input_ids": ids, "token_type_ids": types, "lengths": torch.tensor([len(ids)])} for ids, types in zip(*parts, strict=True)
    ]
    runs = [common.sequence_classification(text, labels[i : i + 1])[1] for i, text in enumerate(alone)]

    def run(model, dtype):
        answers = [one(model, dtype) for one in runs]
        return [torch.cat([logits[0] for logits, _ in answers])], sum(loss for _, loss in answers) / len(answers)

    return batch | {"labels": labels}, run


def main():
    # transformers takes the last place of an array for the last token: padding goes before.
    config = XLNetConfig(**SMALL, num_labels=3, untie_r=True)
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    run = common.sequence_classification(texts(1), labels, left=True)
    common.case("xlnet-classes", XLNetForSequenceClassification(config), *run)

    config = XLNetConfig(**SMALL, num_labels=1, summary_type="first", summary_use_proj=False, summary_activation="", clamp_len=5)
    values = torch.tensor([0.3, -1.2, 0.8, 0.1, 2.0, -0.4])
    common.case("xlnet-number", XLNetForSequenceClassification(config), *common.sequence_classification(texts(2), values))

    config = XLNetConfig(**SMALL, num_labels=3, problem_type="multi_label_classification", summary_type="mean", ff_activation="relu")
    flags = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=torch.float32)
    common.case("xlnet-mean", XLNetForSequenceClassification(config), *one_by_one(texts(3), flags))

    config = XLNetConfig(**SMALL, num_labels=5, ff_activation="gelu_new", layer_norm_eps=1e-6)
    run = common.token_classification(texts(4), token_labels(5, 5))
    common.case("xlnet-tokens", XLNetForTokenClassification(config), *run)

    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    config = XLNetConfig(**SMALL, ff_activation="silu", clamp_len=3)
    run = common.question_answering(texts(6), spans)
    common.case("xlnet-answers", XLNetForQuestionAnsweringSimple(config), *run, tiny=("qa_outputs.bias", "layer.1.ff.layer_norm.bias"))

    config = XLNetConfig(**SMALL | dict(n_head=2), d_head=8, summary_activation="gelu", untie_r=False)
    run = common.multiple_choice(texts(7), 3, torch.tensor([2, 0]), left=True)
    common.case("xlnet-choice", XLNetForMultipleChoice(config), *run, tiny=("logits_proj.bias",))


if __name__ == "__main__":
    main()
