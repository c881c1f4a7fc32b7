"""Longformer in every role, twice each. Run by hand: see common.py."""

import torch
from transformers import (
    LongformerConfig,
    LongformerForMaskedLM,
    LongformerForMultipleChoice,
    LongformerForQuestionAnswering,
    LongformerForSequenceClassification,
    LongformerForTokenClassification,
)

import common
from bert import labels

# Far longer than a window, shorter, and of one token. Longest positions: 2 to 36.
VOCAB, LENGTHS, SEPARATOR = 60, (9, 3, 35, 1, 20, 20), 4
# The windows of transformers divide the longest of them.
NARROW = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=37,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, layer_norm_eps=1e-5, attention_window=[4, 8],
    sep_token_id=SEPARATOR,
)  # fmt: skip
# One window, which some sequences do not fill; two segments; positions begin after another padding id.
WIDE = NARROW | dict(num_attention_heads=2, attention_window=24, type_vocab_size=2, pad_token_id=3, max_position_embeddings=40)
TINY = ("key.bias", "key_global.bias")


def own_softmax(softmax):
    """Longformer's softmax is float32 whatever its model: of a float64 model it would be no more exact."""
    return lambda x, dim, dtype=None: softmax(x, dim, dtype=torch.float64 if x.dtype == torch.float64 else dtype)


def pairs(lengths, starts, seed=1):
    """Sequences of two texts with two separators between them, of which the first is at `starts`, and one behind."""
    batch = common.sequences(lengths, VOCAB, seed, pairs=[start + 2 for start in starts])
    for ids, start in zip(common.rows(batch["input_ids"], batch["lengths"]), starts, strict=True):
        ids[[start, start + 1, -1]] = SEPARATOR
    return batch


def main():
    torch.nn.functional.softmax = own_softmax(torch.nn.functional.softmax)
    narrow, wide = (lambda **more: LongformerConfig(**NARROW, **more)), (lambda **more: LongformerConfig(**WIDE, **more))
    # Of single texts: the second batch has segments. Of the last layer, only the first token is used, which is global.
    single = common.sequences(LENGTHS, VOCAB, 1)
    halves = common.sequences(LENGTHS, VOCAB, 2, pairs=(4, None, 11, None, 5, 3))
    local = tuple(f"layer.1.attention.self.{name}." for name in ("query", "key", "value"))
    run = common.sequence_classification(single, torch.tensor([2, 0, 1, 1, 0, 2]), pad_id=1)
    common.case("longformer-classes", LongformerForSequenceClassification(narrow(num_labels=3)), *run, tiny=TINY + local)
    run = common.sequence_classification(halves, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5]), pad_id=3)
    common.case("longformer-number", LongformerForSequenceClassification(wide(num_labels=1)), *run, tiny=TINY + local)

    # No token is global.
    run = common.token_classification(single, labels(LENGTHS, 5, 2), pad_id=1)
    common.case("longformer-tokens", LongformerForTokenClassification(narrow(num_labels=5)), *run)
    run = common.token_classification(halves, labels(LENGTHS, 4, 3), pad_id=3)
    common.case("longformer-tokens-wide", LongformerForTokenClassification(wide(num_labels=4)), *run)
    run = common.masked_lm(single, labels(LENGTHS, VOCAB, 3, 0.3), pad_id=1)
    common.case("longformer-masked", LongformerForMaskedLM(narrow(hidden_act="relu")), *run)
    run = common.masked_lm(halves, labels(LENGTHS, VOCAB, 4, 0.3), pad_id=3)
    common.case("longformer-masked-wide", LongformerForMaskedLM(wide()), *run)

    # Questions of one token to more than a window.
    lengths, starts = (9, 6, 35, 5, 20, 20), (3, 2, 12, 1, 2, 2)
    spans = torch.tensor([[5, 6], [0, 0], [14, 33], [3, 3], [4, 9], [0, 0]])
    tiny = TINY + ("qa_outputs.bias", "layer.1.output.LayerNorm.bias")
    run = common.question_answering(pairs(lengths, starts), spans, pad_id=1, segments=False)
    common.case("longformer-answers", LongformerForQuestionAnswering(narrow()), *run, tiny=tiny)
    run = common.question_answering(pairs(lengths, starts, 2), spans, pad_id=3)
    common.case("longformer-answers-wide", LongformerForQuestionAnswering(wide()), *run, tiny=tiny)

    # Choices are global; of the last layer the first token is used, which is not.
    starts = (4, 2, 8, 1, 15, 11)
    tiny = TINY + ("classifier.bias",) + tuple(f"layer.1.attention.self.{name}_global." for name in ("query", "key", "value"))
    run = common.multiple_choice(pairs(lengths, starts), 3, torch.tensor([2, 0]), pad_id=1, segments=False)
    common.case("longformer-choice", LongformerForMultipleChoice(narrow()), *run, seed=4, tiny=tiny)
    run = common.multiple_choice(pairs(lengths, starts, 2), 2, torch.tensor([1, 0, 1]), pad_id=3)
    common.case("longformer-choice-wide", LongformerForMultipleChoice(wide()), *run, seed=2, tiny=tiny)


if __name__ == "__main__":
    main()
