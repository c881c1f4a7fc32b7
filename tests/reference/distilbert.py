"""DistilBERT in every role. Run by hand: see common.py."""

import torch
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
SMALL = dict(
    vocab_size=VOCAB, dim=16, n_layers=2, n_heads=4, hidden_dim=24, max_position_embeddings=32,
    dropout=0.0, attention_dropout=0.0, qa_dropout=0.0, seq_classif_dropout=0.0,
)  # fmt: skip
KEYS = ("k_lin.bias",)


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1)
    config = DistilBertConfig(**SMALL, num_labels=3)
    run = common.sequence_classification(batch, torch.tensor([2, 0, 1, 1, 0, 2]), segments=False)
    common.case("distilbert-classes", DistilBertForSequenceClassification(config), *run, tiny=KEYS)
    config = DistilBertConfig(**SMALL, num_labels=5, activation="relu")
    run = common.token_classification(batch, labels(LENGTHS, 5, 2), segments=False)
    common.case("distilbert-tokens", DistilBertForTokenClassification(config), *run, tiny=KEYS)
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    config = DistilBertConfig(**SMALL, sinusoidal_pos_embds=True)
    run = common.question_answering(batch, spans, segments=False)
    common.case("distilbert-answers", DistilBertForQuestionAnswering(config), *run,
                seed=2, tiny=(*KEYS, "qa_outputs.bias", "layer.1.output_layer_norm.bias"))
    run = common.multiple_choice(batch, 3, torch.tensor([2, 0]), segments=False)
    common.case("distilbert-choice", DistilBertForMultipleChoice(DistilBertConfig(**SMALL)), *run, seed=5, tiny=(*KEYS, "classifier.bias"))
    for name, options in (("masked", dict(activation="relu")), ("masked-untied", dict(tie_word_embeddings=False))):
        run = common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3), segments=False)
        common.case(f"distilbert-{name}", DistilBertForMaskedLM(DistilBertConfig(**SMALL, **options)), *run, tiny=KEYS)


if __name__ == "__main__":
    main()
