"""ELECTRA in every role. Run by hand: see common.py."""

import torch
from transformers import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForMultipleChoice,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
SMALL = dict(
    vocab_size=VOCAB, embedding_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
    max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, summary_last_dropout=0.0,
)  # fmt: skip
# As wide as the layers: the base and large models have no projection.
WIDE = SMALL | dict(embedding_size=16)


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1, pairs=(4, None, 11, None, 5, 3))
    classes = torch.tensor([2, 0, 1, 1, 0, 2])
    run = common.sequence_classification(batch, classes)
    common.case("electra-classes", ElectraForSequenceClassification(ElectraConfig(**SMALL, num_labels=3)), *run)
    numbers = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5])
    # The head's activation stays gelu.
    config = ElectraConfig(**WIDE, hidden_act="relu", num_labels=1)
    common.case("electra-number", ElectraForSequenceClassification(config), *common.sequence_classification(batch, numbers))
    config = ElectraConfig(**WIDE, num_labels=5)
    common.case("electra-tokens", ElectraForTokenClassification(config), *common.token_classification(batch, labels(LENGTHS, 5, 2)))
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    common.case("electra-answers", ElectraForQuestionAnswering(ElectraConfig(**SMALL)), *common.question_answering(batch, spans),
                seed=4, tiny=("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias"))
    run = common.multiple_choice(batch, 3, torch.tensor([2, 0]))
    common.case("electra-choice", ElectraForMultipleChoice(ElectraConfig(**SMALL)), *run, tiny=("key.bias", "classifier.bias"))
    run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3))
    common.case("electra-masked", ElectraForMaskedLM(ElectraConfig(**SMALL)), *run)
    config = ElectraConfig(**WIDE, tie_word_embeddings=False)
    common.case("electra-masked-untied", ElectraForMaskedLM(config), *run)


if __name__ == "__main__":
    main()
