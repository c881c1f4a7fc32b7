"""The Llama class in every role. Run by hand: see common.py."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    MistralForQuestionAnswering,
    MistralForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForQuestionAnswering,
    Qwen2ForTokenClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
)

import common
from bert import labels

VOCAB = 60
LENGTHS = (9, 3, 17, 2, 12, 6)
SPANS = torch.tensor([[4, 6], [0, 0], [11, 16], [1, 1], [3, 3], [2, 5]])
CLASSES = torch.tensor([2, 0, 1, 1, 0, 2])
FLAGS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], dtype=torch.float32)
SCORES = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5, -0.5])
SMALL = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
    max_position_embeddings=64, classifier_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
# Of four frequencies one is kept, one is between, two are divided.
LLAMA3 = dict(rope_type="llama3", rope_theta=100.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = dict(rope_type="yarn", rope_theta=50.0, factor=2.0, beta_fast=4, beta_slow=1)
SCALED = [dict(head_dim=8, rope_parameters=rope | dict(original_max_position_embeddings=32)) for rope in (LLAMA3, YARN)]


def main():
    batch = common.sequences(LENGTHS, VOCAB, 1)
    options = dict(segments=False)
    causal = common.causal_lm(batch, **options)
    answers = common.question_answering(batch, SPANS, **options)

    def classes(targets):
        return common.sequence_classification(batch, targets, **options)

    def tokens(seed):
        return common.token_classification(batch, labels(LENGTHS, 5, seed), **options)

    def case(name, model, run, tiny=("k_proj.bias",)):
        # Eager attention takes the softmax in float32, where the mask of a padded query that sees nothing is NaN.
        common.case(name, model, *run, tiny=tiny, exact="sdpa")

    no_shift = ("k_proj.bias", "qa_outputs.bias")
    case("llama-causal", LlamaForCausalLM(LlamaConfig(**SMALL, **SCALED[0])), causal)
    biased = dict(attention_bias=True, mlp_bias=True, rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=500.0))
    case("llama-biased", LlamaForCausalLM(LlamaConfig(**SMALL, **biased, rms_norm_eps=1e-5)), causal)
    case("llama-classes", LlamaForSequenceClassification(LlamaConfig(**SMALL, num_labels=3)), classes(CLASSES))
    case("llama-tokens", LlamaForTokenClassification(LlamaConfig(**SMALL, **SCALED[1], num_labels=5)), tokens(2))
    case("llama-answers", LlamaForQuestionAnswering(LlamaConfig(**SMALL)), answers, no_shift)

    near = dict(sliding_window=5)
    case("mistral-causal", MistralForCausalLM(MistralConfig(**SMALL, **near)), causal)
    case("mistral-score", MistralForSequenceClassification(MistralConfig(**SMALL, **near, num_labels=1)), classes(SCORES))
    case("mistral-answers", MistralForQuestionAnswering(MistralConfig(**SMALL, sliding_window=None)), answers, no_shift)

    some = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    case("qwen2-causal", Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True)), causal)
    case("qwen2-tokens", Qwen2ForTokenClassification(Qwen2Config(**SMALL, **some, num_labels=5)), tokens(3))
    case("qwen2-answers", Qwen2ForQuestionAnswering(Qwen2Config(**SMALL)), answers, no_shift)

    wide = dict(head_dim=6)
    case("qwen3-causal", Qwen3ForCausalLM(Qwen3Config(**SMALL, **wide, tie_word_embeddings=True)), causal)
    flags = dict(num_labels=3, problem_type="multi_label_classification")
    case("qwen3-flags", Qwen3ForSequenceClassification(Qwen3Config(**SMALL, **wide, **flags, attention_bias=True)), classes(FLAGS))
    case("qwen3-tokens", Qwen3ForTokenClassification(Qwen3Config(**SMALL, **wide, num_labels=5)), tokens(4))


if __name__ == "__main__":
    main()
