"""BART in every role. Run by hand: see common.py."""

import torch
from transformers import BartConfig, BartForConditionalGeneration, BartForQuestionAnswering, BartForSequenceClassification

import common

VOCAB, LENGTHS, TARGETS = 50, (9, 3, 17, 2, 12, 6), (4, 21, 7, 1, 16, 5)
EOS = 2
SMALL = dict(
    vocab_size=VOCAB, d_model=12, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3, decoder_attention_heads=3,
    encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=128, dropout=0.0, classifier_dropout=0.0,
)  # fmt: skip
# Encoder and decoder differ, and so do their embeddings.
APART = SMALL | dict(
    encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=20,
    scale_embedding=True, activation_function="relu", tie_word_embeddings=False,
)  # fmt: skip
TINY = ("k_proj.bias",)
OPTIONS = dict(segments=False, pad_id=1)


def seq2seq(start=EOS):
    return common.seq2seq(common.sequences(LENGTHS, VOCAB, 1), common.sequences(TARGETS, VOCAB, 2), start, pad_id=1)


def texts():
    """Texts that end with an EOS token, and have another if there is room: the classifier uses the last."""
    batch = common.sequences(LENGTHS, VOCAB, 3)
    ends = batch["lengths"].cumsum(0)
    batch["input_ids"][ends - 1] = EOS
    batch["input_ids"][ends - batch["lengths"]] = EOS
    return batch


def with_bias(model):
    """A bias of the logits that is not zero."""
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(7))
    return model


def main():
    common.case("bart-seq2seq", with_bias(BartForConditionalGeneration(BartConfig(**SMALL))), *seq2seq(), tiny=TINY)
    config = BartConfig(**APART, decoder_start_token_id=3, forced_eos_token_id=None)
    common.case("bart-seq2seq-apart", BartForConditionalGeneration(config), *seq2seq(3), tiny=TINY)
    run = common.sequence_classification(texts(), torch.tensor([2, 0, 1, 1, 0, 2]), **OPTIONS)
    common.case("bart-classes", BartForSequenceClassification(BartConfig(**SMALL)), *run, tiny=TINY)
    run = common.sequence_classification(texts(), torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5]), **OPTIONS)
    config = BartConfig(**APART, decoder_start_token_id=3, num_labels=1)
    common.case("bart-number", BartForSequenceClassification(config), *run, tiny=TINY)
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    run = common.question_answering(texts(), spans, **OPTIONS)
    tiny = (*TINY, "qa_outputs.bias", "decoder.layers.0.final_layer_norm.bias")
    common.case("bart-answers", BartForQuestionAnswering(BartConfig(**SMALL)), *run, seed=2, tiny=tiny)
    tiny = (*TINY, "qa_outputs.bias", "decoder.layers.2.final_layer_norm.bias")
    common.case("bart-answers-apart", BartForQuestionAnswering(BartConfig(**APART)), *run, seed=3, tiny=tiny)


if __name__ == "__main__":
    main()
