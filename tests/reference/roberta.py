"""RoBERTa, XLM-RoBERTa and CamemBERT. Run by hand: see common.py."""

import torch
from transformers import (
    CamembertConfig,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForMultipleChoice,
    XLMRobertaForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
SMALL = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=32,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, layer_norm_eps=1e-5,
)  # fmt: skip


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1)
    pairs = common.sequences(LENGTHS, VOCAB, 1, pairs=(4, None, 11, None, 5, 3))
    classes = torch.tensor([2, 0, 1, 1, 0, 2])
    # The longest text has the last of the positions 2 to 18. A pair's segments are not told apart, whatever a tokenizer says.
    config = RobertaConfig(**SMALL | dict(max_position_embeddings=19), num_labels=3)
    _, run = common.sequence_classification(batch, classes, pad_id=1)
    common.case("roberta-classes", RobertaForSequenceClassification(config), pairs | {"labels": classes}, run)
    # The head's activation stays gelu.
    config = RobertaConfig(**SMALL, hidden_act="relu")
    run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3), pad_id=1)
    common.case("roberta-masked", RobertaForMaskedLM(config), *run)
    config = XLMRobertaConfig(**SMALL, num_labels=5)
    run = common.token_classification(batch, labels(LENGTHS, 5, 2), pad_id=1)
    common.case("xlm-roberta-tokens", XLMRobertaForTokenClassification(config), *run)
    # Positions begin behind another padding, and segments are told apart.
    config = XLMRobertaConfig(**SMALL | dict(type_vocab_size=2), pad_token_id=3)
    run = common.multiple_choice(pairs, 3, torch.tensor([2, 0]), pad_id=3)
    common.case("xlm-roberta-choice", XLMRobertaForMultipleChoice(config), *run, seed=6, tiny=("key.bias", "classifier.bias"))
    config = CamembertConfig(**SMALL | dict(num_hidden_layers=3))
    run = common.question_answering(batch, torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]]), pad_id=1)
    common.case("camembert-answers", CamembertForQuestionAnswering(config), *run,
                seed=3, tiny=("key.bias", "qa_outputs.bias", "layer.2.output.LayerNorm.bias"))
    config = CamembertConfig(**SMALL, num_labels=1)
    run = common.sequence_classification(batch, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5]), pad_id=1)
    common.case("camembert-number", CamembertForSequenceClassification(config), *run)


if __name__ == "__main__":
    main()
