"""ALBERT in every role. Run by hand: see common.py."""

import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
SMALL = dict(
    vocab_size=VOCAB, embedding_size=12, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
    max_position_embeddings=32, classifier_dropout_prob=0.0,
)  # fmt: skip


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1, pairs=(4, None, 11, None, 5, 3))
    config = AlbertConfig(**SMALL, num_labels=3)
    run = common.sequence_classification(batch, torch.tensor([2, 0, 1, 1, 0, 2]))
    common.case("albert-classes", AlbertForSequenceClassification(config), *run)
    # Layers 0 and 1 are of group 0, layer 2 is of group 1.
    config = AlbertConfig(**SMALL, num_labels=5, num_hidden_groups=2, hidden_act="gelu")
    common.case("albert-tokens", AlbertForTokenClassification(config), *common.token_classification(batch, labels(LENGTHS, 5, 2)))
    # Each of two groups has two blocks; the embeddings are as wide as the layers and are mapped all the same.
    config = AlbertConfig(**SMALL | dict(embedding_size=16), num_hidden_groups=2, inner_group_num=2)
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    common.case("albert-answers", AlbertForQuestionAnswering(config), *common.question_answering(batch, spans),
                seed=4, tiny=("key.bias", "qa_outputs.bias", "groups.1.albert_layers.1.full_layer_layer_norm.bias"))
    config = AlbertConfig(**SMALL, inner_group_num=2)
    common.case("albert-choice", AlbertForMultipleChoice(config), *common.multiple_choice(batch, 3, torch.tensor([2, 0])),
                tiny=("key.bias", "classifier.bias"))
    config = AlbertConfig(**SMALL | dict(num_hidden_layers=2), layer_norm_eps=1e-6)
    common.case("albert-masked", AlbertForMaskedLM(config), *common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3)))
    run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 4, 0.3), torch.tensor([0, 1, 1, 0, 1, 0]), ("sentence_order_label", "sop_logits"))
    common.case("albert-pretraining", AlbertForPreTraining(AlbertConfig(**SMALL)), *run)


if __name__ == "__main__":
    main()
