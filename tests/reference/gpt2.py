"""GPT-2 in every role. Run by hand: see common.py."""

import torch
from transformers import (
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
)

import common
from bert import labels

VOCAB = 60
LENGTHS = (9, 3, 17, 2, 12, 6)
SPANS = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
CLASSES = torch.tensor([2, 0, 1, 1, 0, 2])
SMALL = dict(
    vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=32, n_inner=24, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    classifier_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1)
    options = dict(segments=False)
    common.case("gpt2-causal", GPT2LMHeadModel(GPT2Config(**SMALL)), *common.causal_lm(batch, **options))
    config = GPT2Config(**SMALL | dict(n_inner=None), tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, activation_function="gelu",
                        layer_norm_epsilon=1e-6)  # fmt: skip
    common.case("gpt2-untied", GPT2LMHeadModel(config), *common.causal_lm(batch, **options))
    config = GPT2Config(**SMALL, num_labels=3, activation_function="relu")
    common.case("gpt2-classes", GPT2ForSequenceClassification(config), *common.sequence_classification(batch, CLASSES, **options))
    config = GPT2Config(**SMALL, num_labels=5, scale_attn_weights=False)
    tags = labels(LENGTHS, 5, 2)
    common.case("gpt2-tokens", GPT2ForTokenClassification(config), *common.token_classification(batch, tags, **options), scale=0.15)
    config = GPT2Config(**SMALL, activation_function="silu")
    common.case("gpt2-answers", GPT2ForQuestionAnswering(config), *common.question_answering(batch, SPANS, **options),
                tiny=("qa_outputs.bias", "ln_f.bias"))


if __name__ == "__main__":
    main()
