"""ModernBERT in every role. Run by hand: see common.py."""

import json

import torch
from transformers import (
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForMultipleChoice,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
)

import common
from bert import labels

VOCAB, LENGTHS = 60, (9, 3, 17, 2, 12, 6)
# As published: no biases but the decoder's. The window is 7 tokens wide; of three layers the second and third have one.
PLAIN = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24, max_position_embeddings=32,
    local_attention=6, classifier_pooling="mean", pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
)  # fmt: skip
# Everything else: all biases but the decoder's, other activations, other layers with a window, of 5 tokens, an odd number.
OTHER = PLAIN | dict(
    num_hidden_layers=4, layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
    local_attention=5, attention_bias=True, mlp_bias=True, norm_bias=True, classifier_bias=True, decoder_bias=False, norm_eps=1e-6,
    hidden_activation="silu", classifier_activation="gelu_new", classifier_pooling="cls",
    rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=2.0, rope_theta=500.0),
        sliding_attention=dict(rope_type="default", rope_theta=50.0),
    ),
)  # fmt: skip
EVERY_SECOND = PLAIN | dict(global_attn_every_n_layers=2, classifier_pooling="cls")


def as_by_transformers_4(name):
    """Rewrites a case's config.json in the form that most models on the Hub have."""
    path = common.CASES / name / "config.json"
    new = ModernBertConfig.from_pretrained(path.parent)
    config = json.loads(path.read_text())
    del config["layer_types"], config["rope_parameters"]
    thetas = [new.rope_parameters[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")]
    config |= dict(global_rope_theta=thetas[0], local_rope_theta=thetas[1], reference_compile=True, position_embedding_type="absolute")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    old = ModernBertConfig.from_pretrained(path.parent)
    assert (old.layer_types, old.rope_parameters) == (new.layer_types, new.rope_parameters)


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1)
    options = dict(segments=False)
    classes = common.sequence_classification(batch, torch.tensor([2, 0, 1, 1, 0, 2]), **options)
    numbers = common.sequence_classification(batch, torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5]), **options)
    tokens = common.token_classification(batch, labels(LENGTHS, 5, 2), **options)
    spans = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
    answers = common.question_answering(batch, spans, **options)
    choices = common.multiple_choice(batch, 3, torch.tensor([2, 0]), **options)
    masked = common.masked_lm(batch, labels(LENGTHS, VOCAB, 3, 0.3), **options)
    # A shift of all scores changes no softmax.
    no_shift = ("classifier.bias", "head.norm.bias")

    def case(name, cls, config, run, tiny=(), seed=1, **more):
        # Eager attention takes the softmax in float32, where the mask of padding without a token in its window is NaN.
        common.case(name, cls(ModernBertConfig(**config, **more)), *run, tiny=tiny, seed=seed, exact="sdpa")

    case("modernbert-classes", ModernBertForSequenceClassification, PLAIN, classes, num_labels=3)
    case("modernbert-number", ModernBertForSequenceClassification, OTHER, numbers, num_labels=1)
    case("modernbert-tokens", ModernBertForTokenClassification, EVERY_SECOND, tokens, num_labels=5)
    case("modernbert-tokens-biased", ModernBertForTokenClassification, OTHER, tokens, num_labels=5)
    case("modernbert-answers", ModernBertForQuestionAnswering, PLAIN, answers, no_shift)
    case("modernbert-answers-biased", ModernBertForQuestionAnswering, OTHER, answers, no_shift)
    case("modernbert-choice", ModernBertForMultipleChoice, PLAIN, choices, no_shift)
    case("modernbert-choice-biased", ModernBertForMultipleChoice, OTHER, choices, no_shift, seed=2)
    case("modernbert-masked", ModernBertForMaskedLM, EVERY_SECOND, masked)
    for name in ("modernbert-tokens", "modernbert-masked"):
        as_by_transformers_4(name)
    case("modernbert-masked-untied", ModernBertForMaskedLM, OTHER, masked, tie_word_embeddings=False)


if __name__ == "__main__":
    main()
