"""BERT in every role. Run by hand: see common.py."""

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

import common

VOCAB = 60
SMALL = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.0,
)  # fmt: skip
LENGTHS = (9, 3, 17, 2, 12, 6)
PAIRS = (4, None, 11, None, 5, 3)


def labels(lengths, classes, seed, share=0.6):
    """A class for about `share` of the tokens, IGNORED for the others."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, classes, (sum(lengths),), generator=generator)
    drawn[torch.rand(sum(lengths), generator=generator) > share] = common.IGNORED
    drawn[0] = 1
    return drawn


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1, pairs=PAIRS)
    flags = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=torch.float32)
    config = BertConfig(**SMALL, num_labels=3, problem_type="multi_label_classification")
    common.case("bert-multi-label", BertForSequenceClassification(config), *common.sequence_classification(batch, flags))
    config = BertConfig(**SMALL, num_labels=5, hidden_act="gelu_new")
    common.case("bert-tokens", BertForTokenClassification(config), *common.token_classification(batch, labels(LENGTHS, 5, 2)))
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    common.case("bert-answers", BertForQuestionAnswering(BertConfig(**SMALL)), *common.question_answering(batch, spans),
                tiny=("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias"))
    common.case("bert-choice", BertForMultipleChoice(BertConfig(**SMALL)), *common.multiple_choice(batch, 3, torch.tensor([2, 0])),
                tiny=("key.bias", "classifier.bias"))
    common.case("bert-masked", BertForMaskedLM(BertConfig(**SMALL)), *common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3)))
    following = torch.tensor([0, 1, 1, 0, 1, 0])
    config = BertConfig(**SMALL, hidden_act="relu", layer_norm_eps=1e-6)
    run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 4, 0.3), following)
    common.case("bert-pretraining", BertForPreTraining(config), *run)


if __name__ == "__main__":
    main()
