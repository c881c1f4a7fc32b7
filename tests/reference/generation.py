"""What transformers' generate writes on the models under `cases/`. Run by hand: see README.md.

    python tests/reference/generation.py [CASE ...]

A file `generation/CASE.json` holds prompts (sources, for an encoder-decoder), the numbers that tokens are drawn by, and
runs: settings with the tokens that follow each prompt, the end token included. The prompts run in one padded batch,
and alone; a case fails unless both give the same, and alone in float64 too.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

import common

OUT = Path(__file__).resolve().parent / "generation"
LENGTHS = (5, 1, 9, 3, 12, 4)
STEPS = 20
ENDS = dict(eos_token_id=[7, 13, 21, 34, 40, 55])
RUNS = [
    dict(),
    dict(max_new_tokens=15, **ENDS),
    dict(max_new_tokens=12, repetition_penalty=1.8, min_new_tokens=4, **ENDS),
    dict(max_length=14, min_length=7, **ENDS),
    dict(max_new_tokens=9, num_beams=3),
    dict(max_new_tokens=14, num_beams=4, length_penalty=2.0, early_stopping=True, **ENDS),
    dict(max_new_tokens=14, num_beams=3, length_penalty=0.5, early_stopping=False, **ENDS),
    dict(max_new_tokens=12, num_beams=2, early_stopping="never", **ENDS),
    dict(max_new_tokens=10, num_beams=3, length_penalty=-0.5, early_stopping="never", repetition_penalty=1.3, min_new_tokens=3, **ENDS),
    dict(max_new_tokens=14, do_sample=True, temperature=0.7, **ENDS),
    dict(max_new_tokens=14, do_sample=True, temperature=1.4, top_k=8, top_p=0.8, **ENDS),
    dict(max_new_tokens=14, do_sample=True, top_k=0, top_p=0.6, repetition_penalty=1.5, min_new_tokens=2, **ENDS),
    dict(max_new_tokens=16, no_repeat_ngram_size=2, forced_eos_token_id=7),
    dict(max_new_tokens=15, num_beams=4, length_penalty=2.0, early_stopping=True, no_repeat_ngram_size=3, min_new_tokens=4,
         forced_eos_token_id=13, **ENDS),
]  # fmt: skip
# A forced first token is an encoder-decoder's.
OF_DECODERS = [
    dict(max_new_tokens=12, no_repeat_ngram_size=1, forced_bos_token_id=9, **ENDS),
    dict(max_new_tokens=11, num_beams=3, no_repeat_ngram_size=2, forced_bos_token_id=9, forced_eos_token_id=[7, 13], **ENDS),
    dict(max_new_tokens=10, do_sample=True, temperature=1.2, forced_bos_token_id=9, forced_eos_token_id=7),
]  # fmt: skip


def inverse(uniforms):
    """A stand-in for torch.multinomial: the first token at which the added-up probabilities exceed the row's number."""
    position = iter(range(STEPS))

    def draw(probabilities, num_samples):
        assert num_samples == 1
        sums = probabilities.double().cumsum(-1)
        reached = uniforms[:, next(position), None] * sums[:, -1:]
        return (sums <= reached).sum(-1, keepdim=True)

    return draw


def generate(model, prompts, settings, uniforms):
    """The new tokens for each prompt, up to the first end token."""
    longest = max(len(prompt) for prompt in prompts)
    # What is generated follows a prompt immediately; a source has its positions from its first token on.
    pads = lambda p: (0, longest - len(p)) if model.config.is_encoder_decoder else (longest - len(p), 0)
    ids = torch.stack([torch.nn.functional.pad(p, pads(p)) for p in prompts])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(p), pads(p)) for p in prompts])
    with mock.patch("torch.multinomial", inverse(uniforms)):
        # The cache of an encoder-decoder has as many layers as the encoder, which may be too few.
        out = model.generate(ids, attention_mask=mask, use_cache=not model.config.is_encoder_decoder, **settings)
    first = 1 if model.config.is_encoder_decoder else longest
    eos = settings.get("eos_token_id", model.generation_config.eos_token_id)
    eos = eos if isinstance(eos, list) else [eos]
    texts = out[:, first:].tolist()
    ends = [next((i + 1 for i, token in enumerate(text) if token in eos), len(text)) for text in texts]
    return [text[:end] for text, end in zip(texts, ends)]


def runs_of(config):
    """The settings of each run, with end tokens that the model has."""
    ends = [token for token in ENDS["eos_token_id"] if token < config.vocab_size]
    runs = RUNS + (OF_DECODERS if config.is_encoder_decoder else [])
    return [run | dict(eos_token_id=ends) if "eos_token_id" in run else run for run in runs]


def answers(folder, dtype, prompts, uniforms):
    """Each run's texts; None where rounding makes a batch's others than those alone."""
    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    if not (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_model_config(config)
    runs = []
    for settings in runs_of(config):
        one = lambda i: generate(model, [prompts[i]], settings, uniforms[i : i + 1])[0]
        alone = [one(i) for i in range(len(prompts)) if config.is_encoder_decoder or len(prompts[i]) < settings.get("max_length", 99)]
        runs.append(alone)
        # In float64 the Llama class makes NaN of padding. `max_length` and n-grams count padding before a prompt too.
        counts = "max_length" in settings or "no_repeat_ngram_size" in settings and not config.is_encoder_decoder
        if dtype == torch.float32 and not counts and alone != generate(model, prompts, settings, uniforms):
            return None
    return runs


def main():
    OUT.mkdir(exist_ok=True)
    configs = {path.parent: json.loads(path.read_text()) for path in sorted(common.CASES.glob("*/config.json"))}
    is_lm = lambda config: config["architectures"][0].endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    chosen = [folder for folder, config in configs.items() if is_lm(config) and (len(sys.argv) == 1 or folder.name in sys.argv[1:])]
    for folder in chosen:
        vocab = configs[folder]["vocab_size"]
        # Prompts for which no choice hangs on rounding.
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            prompts = [torch.randint(5, vocab, (n,), generator=generator) for n in LENGTHS]
            uniforms = torch.rand(len(prompts), STEPS, generator=generator, dtype=torch.float64)
            single = answers(folder, torch.float32, prompts, uniforms)
            if single is not None and single == answers(folder, torch.float64, prompts, uniforms):
                break
        else:
            raise AssertionError(folder.name)
        print(folder.name, seed, [[len(text) for text in texts] for texts in single])
        runs = [dict(settings=settings, texts=texts) for settings, texts in zip(runs_of(AutoConfig.from_pretrained(folder)), single)]
        content = dict(prompts=[p.tolist() for p in prompts], uniforms=uniforms.tolist(), runs=runs)
        text = json.dumps(content, separators=(",", ":")).replace('{"settings"', '\n{"settings"')
        (OUT / f"{folder.name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
