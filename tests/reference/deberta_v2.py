"""DeBERTa v2 and v3 in every role. Run by hand: see common.py."""

import torch
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForMultipleChoice,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
SMALL = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, relative_attention=True,
)  # fmt: skip
# As the published v3: distances above 4 share logarithmic buckets, positions use the projections of the content.
V3 = SMALL | dict(
    position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm", pos_att_type=["p2c", "c2p"], position_biased_input=False,
)  # fmt: skip
# Projections of their own, an embedding for each distance up to 6, position and segment embeddings, a convolution.
V2 = SMALL | dict(
    max_relative_positions=6, pos_att_type=["c2p"], type_vocab_size=2, embedding_size=12, conv_kernel_size=3, conv_act="gelu",
)  # fmt: skip
# A key's bias shifts all scores of a query alike, except where positions look at keys.
TINY = ("key_proj.bias",)


def classification(name, config, batch, values):
    batch, run = common.sequence_classification(batch, values)

    def rows(model, dtype):
        (logits,), loss = run(model, dtype)
        # transformers returns the numbers of a regression without their dimension.
        return [logits.view(len(values), -1)], loss

    model = DebertaV2ForSequenceClassification(DebertaV2Config(**config))
    common.case(name, model, batch, rows, tiny=TINY)


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1, pairs=(4, None, 11, None, 5, 3))
    classes = torch.tensor([2, 0, 1, 1, 0, 2])
    classification("deberta-v3-classes", V3 | dict(num_labels=3), batch, classes)
    numbers = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5])
    classification("deberta-v2-number", V2 | dict(num_labels=1, pooler_hidden_act="tanh"), batch, numbers)
    # Positions of queries alone; no relative positions at all, whose scores are scaled as if there were.
    for name, config in [
        ("deberta-v3-tokens", V3 | dict(pos_att_type=["p2c"])),
        ("deberta-v2-tokens", V2 | dict(relative_attention=False, conv_kernel_size=0)),
    ]:
        model = DebertaV2ForTokenClassification(DebertaV2Config(**config, num_labels=5))
        common.case(name, model, *common.token_classification(batch, labels(LENGTHS, 5, 2)), tiny=TINY)
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    for name, config in [("deberta-v3-answers", V3), ("deberta-v2-answers", V2 | dict(pos_att_type=["p2c", "c2p"], position_buckets=4))]:
        model = DebertaV2ForQuestionAnswering(DebertaV2Config(**config))
        common.case(name, model, *common.question_answering(batch, spans), seed=4,
                    tiny=(*TINY, "qa_outputs.bias", "layer.1.output.LayerNorm.bias"))
    v2 = V2 | dict(conv_kernel_size=5, conv_act="tanh")
    for name, config, seed in [("deberta-v3-choice", V3, 1), ("deberta-v2-choice", v2, 3)]:
        model = DebertaV2ForMultipleChoice(DebertaV2Config(**config))
        run = common.multiple_choice(batch, 3, torch.tensor([2, 0]))
        common.case(name, model, *run, seed=seed, tiny=(*TINY, "classifier.bias"))
    run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3))
    for name, config in [
        ("deberta-v3-masked", V3 | dict(legacy=False)),
        ("deberta-v2-masked", V2 | dict(conv_kernel_size=0)),
    ]:
        common.case(name, DebertaV2ForMaskedLM(DebertaV2Config(**config)), *run, tiny=TINY)


if __name__ == "__main__":
    main()
