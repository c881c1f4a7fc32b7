"""T5 1.0 and 1.1 and mT5. Run by hand: see common.py."""

import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

import common

VOCAB = 40
SMALL = dict(
    vocab_size=VOCAB, d_model=12, d_kv=5, d_ff=16, num_layers=2, num_heads=3, dropout_rate=0.0, decoder_start_token_id=0,
    relative_attention_num_buckets=8, relative_attention_max_distance=12,
)  # fmt: skip
# Some go past the largest distance on either side.
SOURCES, TARGETS = (9, 3, 29, 2, 14), (4, 21, 7, 1, 16)


def batch(start=0):
    return common.seq2seq(common.sequences(SOURCES, VOCAB, 1), common.sequences(TARGETS, VOCAB, 2), start)


def own_head(model):
    """A head that is not the table of embeddings: as transformers 5 saves version 1.1."""
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    return model


def main():
    common.case("t5-tied-relu", T5ForConditionalGeneration(T5Config(**SMALL)), *batch())
    config = T5Config(**SMALL, feed_forward_proj="gated-gelu", num_decoder_layers=1, tie_word_embeddings=False, layer_norm_epsilon=1e-5)
    common.case("t5-gated-gelu", own_head(T5ForConditionalGeneration(config)), *batch())
    config = MT5Config(**SMALL | dict(num_layers=1, num_decoder_layers=2, decoder_start_token_id=3), feed_forward_proj="gated-silu")
    common.case("mt5-gated-silu", MT5ForConditionalGeneration(config), *batch(3))


if __name__ == "__main__":
    main()
