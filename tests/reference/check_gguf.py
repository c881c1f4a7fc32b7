"""Does llama.cpp get the tokens and the greedy texts of `trainer predict` from an exported GGUF file? Run by hand.

    pip install gguf llama-cpp-python transformers safetensors
    cargo build --release
    python tests/reference/check_gguf.py target/release/trainer [--folder FOLDER] [--only NAME ...]

Makes small models with random weights: GPT-2, Qwen2, Qwen3, Llama and Mistral, with tokenizers that they usually have.
Exports each in fp32, and compares:

- what the package gguf reads with the folder: names, shapes, types and values of the tensors, tokens, types, merges;
- the ids of prompts in llama.cpp with those in transformers;
- the greedy texts that llama.cpp continues prompts and conversations with, and those of `trainer predict`;
- for one model, the bytes of the types f16, bf16 and q8_0 with those that gguf makes of the weights.

Prints the counts for each model. Exit code 1 on a difference that docs/export.md does not explain, or that the export
did not tell. The KV cache is in fp32: llama.cpp's default of fp16 is enough to choose other tokens here.
Checked with gguf 0.19.0, llama-cpp-python 0.3.36 and transformers 5.24.0.
"""

import argparse
import ctypes
import json
import re
import subprocess
import sys
import tempfile
import unicodedata
import warnings
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
TEXTS = json.loads((HERE / "tokenizers/texts.json").read_text(encoding="utf-8"))["texts"]
TOKENS = 32
SEED = 2
SILENT = llama_cpp.llama_log_callback(lambda *_: None)
PROMPTS = [
    "The quick brown fox jumps over", "To be, or not to be", " one space in front", "  two spaces in front",
    "   three spaces in front", "a space at the end ", "two spaces at the end  ", "many   inner    spaces", " ",
    "one line\nand another\n\nand a third", "\n\nnewlines in front", "newlines at the end\n\n",
    "\ta tab\tand\t\tmore", " \n mixed \t blanks \r\n ", "emoji 😀🎉 and 👍🏽 and 👨‍👩‍👧", "空格，每个字都是一个词。",
    "العربية لغة جميلة، والنص", "हिन्दी वाक्य", "naïve café, e\u0301 combining", "It's what THEY'LL say", "▁a letter",
    "def f(x, *args):\n    if x >= 0:\n\treturn {'a': x**2}\n", "In 2024, 12345.67 or 1 000 000 €; ½", "x" * 50,
    "the tokens <s>of</s> other <s> models", "<s>", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "an end<|endoftext|> and more", "<|begin_of_text|>twice", "",
]
CONVERSATIONS = [
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "12 <c>"}],
]
WORDS, SPACES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = WORDS + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
LLAMA3 = WORDS + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + SPACES
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, SPACE]}


def around(bos, eos=None):
    """The post-processor that puts BOS before and EOS after a text: (token, id) each."""
    parts = [bos and {"SpecialToken": {"id": bos[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             eos and {"SpecialToken": {"id": eos[0], "type_id": 0}}]
    special = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in filter(None, (bos, eos))}
    both = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {"type": "TemplateProcessing", "single": [*filter(None, parts)], "pair": both, "special_tokens": special}


def byte_level(split, special, ignore_merges=False, nfc=False, bos=None):
    """A byte-level BPE tokenizer with the words of a regular expression, or of a pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if isinstance(split, str):
        steps = [pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        split = pre_tokenizers.Sequence(steps)
    tokenizer.pre_tokenizer = split
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=900, max_token_length=12, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    found = json.loads(tokenizer.to_str())
    if bos:
        found["post_processor"] = around((bos, tokenizer.token_to_id(bos)))
    return found


def pieces(normalizer, scheme, eos=None):
    """The committed SentencePiece BPE with BOS in front, and another way to put spaces in front of texts."""
    tokenizer = json.loads((HERE / "tokenizers/bases/llama/tokenizer.json").read_text(encoding="utf-8"))
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False} if scheme else None
    return tokenizer | {"normalizer": normalizer, "pre_tokenizer": spaces, "post_processor": around(("<s>", 1), eos)}


QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA = ["<|begin_of_text|>", "<|end_of_text|>"]
AS_IS = "PreTrainedTokenizerFast"
PIECES = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
GPT = dict.fromkeys(("bos_token", "eos_token", "unk_token"), QWEN[0])
LLAMAS = dict(bos_token=LLAMA[0], eos_token=LLAMA[1])
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), BYTES])
# By name: configuration, tokenizer, tokenizer_config.json.
KINDS = {
    "gpt2": ("gpt2", lambda: byte_level(BYTES, QWEN[:1]), dict(tokenizer_class="GPT2Tokenizer", **GPT)),
    "qwen2": ("qwen2", lambda: byte_level(QWEN2, QWEN, nfc=True),
              dict(tokenizer_class="Qwen2Tokenizer", eos_token=QWEN[2], pad_token=QWEN[0], chat_template=CHATML)),
    "qwen3": ("qwen3", lambda: byte_level(QWEN2, QWEN, nfc=True),
              dict(tokenizer_class="Qwen2Tokenizer", eos_token=QWEN[2], pad_token=QWEN[0], chat_template=CHATML)),
    "llama-3": ("llama", lambda: byte_level(LLAMA3, LLAMA, True, bos=LLAMA[0]), dict(tokenizer_class=AS_IS, **LLAMAS)),
    "llama-3-scaled": ("scaled", lambda: byte_level(LLAMA3, LLAMA, bos=LLAMA[0]),
                       dict(tokenizer_class=AS_IS, **LLAMAS)),
    "smollm": ("llama", lambda: byte_level(DIGITS, QWEN), dict(tokenizer_class=AS_IS, chat_template=CHATML, **GPT)),
    "tekken": ("mistral", lambda: byte_level(TEKKEN, ["<s>", "</s>"], True, bos="<s>"),
               dict(tokenizer_class=AS_IS, bos_token="<s>", eos_token="</s>")),
    "llama-2": ("llama", lambda: pieces(PREPEND, None, ("</s>", 2)),
                dict(tokenizer_class=AS_IS, chat_template=INST, **PIECES)),
    "llama-2-first": ("llama", lambda: pieces(None, "first"), dict(tokenizer_class="LlamaTokenizer", **PIECES)),
    "llama-2-chat": ("llama", lambda: pieces(None, "first"),
                     dict(tokenizer_class="LlamaTokenizer", chat_template=INST, **PIECES)),
    "mistral-always": ("mistral", lambda: pieces(None, "always"), dict(tokenizer_class=AS_IS, **PIECES)),
    "llama-2-never": ("llama", lambda: pieces(None, "never"), dict(tokenizer_class=AS_IS, **PIECES)),
}
H, INNER, KV, HEAD, LAYERS = 64, 96, 32, 16, 2
DECODER = dict(hidden_size=H, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2, head_dim=HEAD,
               intermediate_size=INNER, hidden_act="silu", max_position_embeddings=16384, rms_norm_eps=1e-5)
LLAMA_MODEL = DECODER | dict(architectures=["LlamaForCausalLM"], model_type="llama", tie_word_embeddings=False)
ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16)
CONFIGS = {
    "gpt2": dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", n_embd=H, n_layer=LAYERS, n_head=4,
                 n_positions=8192),
    "qwen2": DECODER | dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=True),
    "qwen3": LLAMA_MODEL | dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3"),
    "llama": LLAMA_MODEL,
    "scaled": LLAMA_MODEL | dict(attention_bias=True, mlp_bias=True, rope_scaling=ROPE),
    "mistral": LLAMA_MODEL | dict(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=None),
}


def shapes(config, rows):
    """The names and shapes of the weights."""
    if config["model_type"] == "gpt2":
        found = {"transformer.wte.weight": (rows, H), "transformer.wpe.weight": (config["n_positions"], H)}
        layers = {"attn.c_attn": (H, 3 * H), "attn.c_proj": (H, H), "mlp.c_fc": (H, 4 * H), "mlp.c_proj": (4 * H, H)}
        norms = {f"transformer.h.{i}.ln_{n}": (H,) for i in range(LAYERS) for n in (1, 2)}
        modules = {f"transformer.h.{i}.{name}": shape for i in range(LAYERS) for name, shape in layers.items()}
        for name, shape in (norms | modules | {"transformer.ln_f": (H,)}).items():
            found |= {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}
        return found
    found = {"model.embed_tokens.weight": (rows, H), "model.norm.weight": (H,)}
    layers = {"self_attn.q_proj": (H, H), "self_attn.k_proj": (KV, H), "self_attn.v_proj": (KV, H),
              "self_attn.o_proj": (H, H), "mlp.gate_proj": (INNER, H), "mlp.up_proj": (INNER, H),
              "mlp.down_proj": (H, INNER), "input_layernorm": (H,), "post_attention_layernorm": (H,)}
    biased = tuple(layers)[:7] if "mlp_bias" in config else tuple(layers)[:3] if config["model_type"] == "qwen2" else ()
    if config["model_type"] == "qwen3":
        layers |= {"self_attn.q_norm": (HEAD,), "self_attn.k_norm": (HEAD,)}
    for i in range(LAYERS):
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layers.items()}
        found |= {f"model.layers.{i}.{name}.bias": layers[name][:1] for name in biased}
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": (rows, H)}


def is_text(token):
    """Whether a token of any tokenizer is whole characters, which programs do not differ in decoding."""
    if token.startswith("<0x"):
        return False
    decoder = decoders.ByteLevel()
    return "\ufffd" not in decoder.decode([token]) and token.isprintable()


def is_tekken_only(letter):
    """Whether llama.cpp may see another part of a word than Tekken in a character: a mark, or a letter with case."""
    category = unicodedata.category(letter)
    return category[0] == "M" or (category in ("Lu", "Ll", "Lt") and not letter.isascii())


def make(folder, name):
    """Writes a model with clear logits, which generates whole characters only."""
    config, tokenizer, settings = KINDS[name]
    tokenizer = tokenizer()
    ids = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    rows = max(ids.values()) + 1 + 5
    config = CONFIGS[config] | dict(
        vocab_size=rows, dtype="float32", bos_token_id=None, eos_token_id=ids[settings["eos_token"]])
    rng = np.random.default_rng(SEED)
    weights = {}
    for weight, shape in shapes(config, rows).items():
        mean = int(weight.endswith("weight") and len(shape) == 1)
        weights[weight] = rng.normal(mean, 0.2, shape).astype(np.float32)
    head = next(weights[name] for name in ("lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight")
                if name in weights)
    silent = set(range(rows)) - {i for token, i in ids.items() if is_text(token)}
    head[sorted(silent)] *= 0.01
    folder.mkdir(parents=True)
    for file, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings), ("config.json", config)):
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def run(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"FAILED: {' '.join(map(str, command))}: {done.stderr}")
    return done.stderr


def export(trainer, folder, kind):
    """Exports a model; returns the file and what the command told."""
    file = folder / f"model-{kind}.gguf"
    file.unlink(missing_ok=True)
    return file, run(trainer, "export", folder, "--to", "gguf", "--type", kind)


class Model:
    """A model folder with its GGUF file, and what differs between them."""

    def __init__(self, trainer, folder, name):
        if not folder.exists():
            make(folder, name)
        self.trainer, self.folder, self.name = trainer, folder, name
        self.file, self.told = export(trainer, folder, "f32")
        self.own = AutoTokenizer.from_pretrained(folder)
        config, _, self.settings = KINDS[name]
        self.config = CONFIGS[config]
        cache = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)
        self.llama = llama_cpp.Llama(str(self.file), n_ctx=2048, verbose=False, logits_all=True, **cache)
        self.explained, self.failures = {}, []

    def differs(self, what, text, generated=()):
        """Notes a difference: as explained, if docs/export.md explains it and the export has told it."""
        special = "|".join(re.escape(token) for token in self.own.all_special_tokens)
        parts = start, *others = re.split(special, text)
        blank = lambda part: part.startswith((" ", "▁"))
        bos = self.own.bos_token
        known = re.search("also ends a text at (.*): it knows", self.told)
        tokens = self.own.convert_ids_to_tokens(generated)
        for holds, note, why in [
            (self.name in ("qwen2", "qwen3") and unicodedata.normalize("NFC", text) != text, "to NFC", "not in NFC"),
            (self.name == "tekken" and any(map(is_tekken_only, text)), "at combining marks", "marks and case"),
            (self.name == "llama-2-first" and (blank(start) or any(others)), "puts a space in", "a space in front"),
            (self.name == "mistral-always" and any(map(blank, parts)), "puts a space in", "a space in front"),
            (self.name == "llama-2-chat" and start and not blank(start), "puts no space in", "no space in front"),
            (what == "text" and bos and text.startswith(bos), "", "BOS twice"),
            (known and any(json.dumps(token) in known[1] for token in tokens), "", "ended at a token by its name"),
            (self.name == "gpt2" and generated and self.is_close(text, generated), "", "close logits"),
        ]:
            if holds and note in self.told:
                self.explained[why] = self.explained.get(why, 0) + 1
                return
        self.failures.append(f"{what} of {text[:60]!r}")

    def is_close(self, text, generated):
        """Whether the first token that llama.cpp chooses otherwise is one of nearly the same logit."""
        ids = self.llama.tokenize(text.encode(), add_bos=True, special=True)
        self.llama.reset()
        self.llama.eval(ids + generated)
        logits = self.llama.scores[len(ids) - 1:len(ids) + len(generated) - 1]
        gaps = logits.max(1) - logits[range(len(generated)), generated]
        return 0 < gaps[gaps > 0][:1].sum() < 0.005

    def check_file(self):
        """Compares what the package gguf reads with the folder."""
        reader = gguf.GGUFReader(self.file)
        architecture = text_of(reader, "general.architecture")
        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        names = gguf.get_tensor_name_map(arch, LAYERS)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        weights = load_file(self.folder / "model.safetensors")
        for name, weight in weights.items():
            tensor = tensors.pop(names.get_name(name, (".weight", ".bias")), None)
            weight = weight.T if arch == gguf.MODEL_ARCH.GPT2 and ".h." in name else weight
            if arch == gguf.MODEL_ARCH.LLAMA and (".q_proj." in name or ".k_proj." in name):
                # Pairs of neighbors are rotated instead of halves.
                heads = weight.reshape(-1, 2, HEAD // 2, *weight.shape[1:])
                weight = heads.swapaxes(1, 2).reshape(weight.shape)
            same = tensor is not None and list(tensor.shape) == list(weight.shape[::-1])
            if not same or tensor.tensor_type != gguf.GGMLQuantizationType.F32 or (tensor.data != weight).any():
                self.failures.append(f"tensor {name}")
        if set(tensors) != ({"rope_freqs.weight"} if "rope_scaling" in self.config else set()):
            self.failures.append(f"tensors {', '.join(tensors)} of the file")
        tokenizer = json.loads((self.folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids = {i: token for token, i in self.own.get_vocab().items()}
        tokens = reader.fields["tokenizer.ggml.tokens"].contents()
        if len(tokens) != max(ids) + 1 + 5 or any(tokens[i] != token for i, token in ids.items()):
            self.failures.append("tokens")
        types = reader.fields["tokenizer.ggml.token_type"].contents()
        if not {types[i] for i in self.own.all_special_ids} <= {gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN}:
            self.failures.append("types of tokens")
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
        is_bytes = text_of(reader, "tokenizer.ggml.model") == "gpt2"
        if is_bytes and reader.fields["tokenizer.ggml.merges"].contents() != merges:
            self.failures.append("merges")
        if reader.fields["tokenizer.ggml.eos_token_id"].contents() != self.own.eos_token_id:
            self.failures.append("EOS")

    def check_ids(self):
        """Compares ids; returns how many are equal, and of how many."""
        equal = 0
        for text in PROMPTS + TEXTS:
            ids = self.own(text).input_ids
            if self.name == "llama-2":
                ids = ids[:-1]  # EOS, which a prompt does not have
            if self.llama.tokenize(text.encode(), add_bos=True, special=True) == ids:
                equal += 1
            else:
                self.differs("ids", text)
        return equal, len(PROMPTS + TEXTS)

    def check_texts(self):
        """Compares greedy texts; returns how many are equal, and of how many."""
        asked = [{"text": text} for text in PROMPTS if text]
        if "chat_template" in self.settings:
            asked += [{"messages": messages} for messages in CONVERSATIONS]
        source, target = self.folder / "prompts.jsonl", self.folder / "texts.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in asked), encoding="utf-8")
        run(self.trainer, "predict", "--model", self.folder, "--input", source, "--output", target,
            "--max-new-tokens", TOKENS, "--scores")
        with open(target, encoding="utf-8") as lines:
            answers = [json.loads(line) for line in lines]
        greedy = dict(max_tokens=TOKENS, temperature=0.0, top_k=1, repeat_penalty=1.0)
        equal = 0
        for record, answer in zip(asked, answers, strict=True):
            if "text" in record:
                found = self.llama.create_completion(record["text"], **greedy)["choices"][0]["text"]
            else:
                found = self.llama.create_chat_completion(record["messages"], **greedy)
                found = found["choices"][0]["message"]["content"]
            # SentencePiece's tokenizers remove the space before the first word of what they decode.
            if answer["text"] in (found, found.removeprefix(" ")):
                equal += 1
            else:
                self.differs("text", record.get("text") or "a conversation", answer["token_ids"])
        return equal, len(asked)


def text_of(reader, key):
    return reader.fields[key].contents()


def check_types(trainer, folder):
    """Compares the bytes of other types with those that the package gguf makes of the weights."""
    weights = load_file(folder / "model.safetensors")
    for kind in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.Q8_0):
        file, _ = export(trainer, folder, kind.name.lower())
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
        for ours, theirs in (("token_embd.weight", "model.embed_tokens.weight"), ("output.weight", "lm_head.weight"),
                             ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight")):
            wanted, tensor = gguf.quants.quantize(weights[theirs], kind), tensors[ours]
            if tensor.tensor_type != kind or tensor.data.tobytes() != wanted.tobytes():
                return [f"{ours} in {kind.name}"]
    return []


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trainer", type=Path)
    p.add_argument("--folder", type=Path, help="keep the models here")
    p.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    a = p.parse_args()
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
    warnings.filterwarnings("ignore", "Detected duplicate leading")
    failures = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in a.only:
            folder = (a.folder or Path(temporary)) / name
            model = Model(a.trainer.resolve(), folder, name)
            model.check_file()
            ids, texts = model.check_ids(), model.check_texts()
            if name == "llama-3":
                model.failures += check_types(model.trainer, folder)
            told = "".join(f"; {count} differ as documented: {why}" for why, count in model.explained.items())
            print(f"{name}: ids of {ids[0]} of {ids[1]} prompts equal, {texts[0]} of {texts[1]} texts equal{told}")
            failures += [f"{name}: {failure}" for failure in model.failures]
            model.llama.close()
    if failures:
        sys.exit("FAILED:\n" + "\n".join(failures))


main()
