"""Reference ids of tokenizers as `transformers` loads them: `tokenizers/`, read by `src/text/pretrained/tests.rs`.

    python tests/reference/tokenizers_reference.py

`tokenizers/bases` has small vocabularies of each kind, as `tokenizer.json` and as the files of slow tokenizers.
`tokenizers/cases.json` has folders made of them: a `config.json`, files of a base, and JSON files with one setting each.
`crc` has the last five hexadecimal digits of the CRC-32 of the ids of each text of `tokenizers/texts.json` (little-endian
32-bit integers), `pair` is the CRC-32 of some pairs with their segments, `cut` that of texts and pairs truncated to
`CUT` tokens, `full` has the ids of a few texts. The committed files: transformers 5.24.0, tokenizers 0.23.3,
sentencepiece 0.2.3, protobuf 7.36.
"""

import base64
import io
import json
import shutil
import sys
import tempfile
import zlib
from array import array
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

FOLDER = Path(__file__).resolve().parent / "tokenizers"
BASES = FOLDER / "bases"
FULL = [0, 4, 5]
CUT = 12

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "It's 12,345.67 dollars (or 1 000 000 €) -- isn't it? They'll say we've won, I'd bet.",
    "Ümläute, Çédilles, naïve café, Ångström, Straße, İstanbul, ﬁne ﬂow Ⅷ ½",
    "<s>special</s> tokens <pad> <mask> [MASK] [CLS] [SEP] <|endoftext|> <unk> [UNK] <extra_id_0> inside",
    "the [ENT] and <name>, [ENT][ENT] <name>x, x[ENT] y <NAME> [ent]",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0644\u063a\u0629 \u062c\u0645\u064a\u0644\u0629\u060c \u0648\u0627\u0644\u0646\u0635 \u0645\u0646 \u0627\u0644\u064a\u0645\u064a\u0646",
    "\u4e2d\u6587\u5206\u8bcd\u4e0d\u7528\u7a7a\u683c\uff0c\u6bcf\u4e2a\u5b57\u90fd\u662f\u4e00\u4e2a\u8bcd\u3002",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\u3072\u3089\u304c\u306a\u30ab\u30bf\u30ab\u30ca",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5\uc785\ub2c8\ub2e4.",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442, \u0451\u043b\u043a\u0430 \u0438 \u0439\u043e\u0434",
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u05e2\u05dd \u05e0\u05d9\u05e7\u05d5\u05d3: \u05e9\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0935\u093e\u0915\u094d\u092f \u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f",
    "\U0001f600\U0001f389 emoji \U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f44d\U0001f3fd flags \U0001f1e9\U0001f1ea\u2764\ufe0f",
    "def f(x, *args):\n    if x >= 0:\n\treturn {'a': x**2, \"b\": [1, 2]}  # comment\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] && b->c; } // done\r\n",
    "https://example.org/path?query=1&other=%20#frag user@example.com /usr/local/bin",
    "``quoted'' and \"plain\" and \u201ccurly\u201d \u2018single\u2019 \u00abguillemets\u00bb \u2026 \u2014 \u2013",
    "e\u0301 combining, A\u030a ring, \u1e9b\u0323 long, \ufb01 ligature, \uff21\uff22\uff23 wide, \u2460\u2461",
    "zero\u200bwidth non\u00a0breaking \u3000ideographic\u2003em \ufeffbom soft\u00adhyphen \u0085next",
]


def all_texts():
    """200 texts: sentences, parts, edges, repetitions, one of 10,000 characters."""
    edges = ["", " ", "  ", "\n", "\t", "\r\n", " a", "a ", "  a  b  ", "a\n\nb", "\u2581", "\u2581a \u2581", "A", "\u0130", "\u00df"]
    edges += ["\x00control\x07", "\ufffd", "\U0010ffff", "\ue000", "0", "007", "1,2,3,", "3.14,", "...", "!?", "''", "``", "<", "</s>"]
    edges += ["<s>", "[MASK]", "x<mask>y", "x <mask> y", "[ENT]", "<name>", "##a", "\u0120the", "a" * 120, "\u4e2d" * 40]
    texts = SENTENCES + edges
    texts += [s.upper() for s in SENTENCES[:6]] + [s.lower() for s in SENTENCES[:6]] + [" " + s for s in SENTENCES[:4]]
    texts += [s[::-1] for s in SENTENCES] + [s[len(s) // 3 :] for s in SENTENCES] + [s[: len(s) // 2] for s in SENTENCES]
    state = 12345
    while len(texts) < 199:
        parts = []
        for _ in range(3):
            state = (state * 1103515245 + 12345) % 2**31
            words = SENTENCES[(state >> 8) % len(SENTENCES)].split(" ")
            parts.append(words[(state >> 16) % len(words)])
        texts.append((" ", "", "  ", "\n")[state % 4].join(parts))
    long = " ".join(SENTENCES) + "\n"
    texts.append((long * (10_000 // len(long) + 1))[:10_000])
    return texts


TEXTS = all_texts()
PAIRS = [(TEXTS[i], TEXTS[j]) for i, j in [(0, 1), (3, 14), (4, 5), (20, 0), (35, 21), (7, 13)]]


def crc(numbers):
    values = array("I", numbers)
    assert values.itemsize == 4 and sys.byteorder == "little"
    return zlib.crc32(values.tobytes())


def save(base, name, content):
    path = BASES / base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_bert():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    more = [s.lower() for s in SENTENCES] + ["cafe naive angstrom cedilles ümläute"]
    tokenizer.train_from_iterator(
        SENTENCES + more, trainers.WordPieceTrainer(vocab_size=620, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    save("bert", "tokenizer.json", tokenizer.to_str())
    vocab = tokenizer.get_vocab()
    save("bert", "vocab.txt", "\n".join(sorted(vocab, key=vocab.get)) + "\n")


def write_bytes():
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    save("bytes", "tokenizer.json", tokenizer.to_str())
    model = json.loads(tokenizer.to_str())["model"]
    save("bytes", "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    save("bytes", "merges.txt", "#version: 0.2\n" + "\n".join(lines) + "\n")
    # As Llama 3's: a template with BOS, no class of its own.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)]
    )
    save("bytes-bos", "tokenizer.json", tokenizer.to_str())
    return model["vocab"]


def write_tiktoken():
    """A byte-pair vocabulary by rank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    vocab = tokenizer.get_vocab()
    lines = [
        f"{base64.b64encode(bytes(letters[c] for c in token)).decode()} {rank}"
        for rank, token in enumerate(sorted(vocab, key=vocab.get))
    ]
    save("tiktoken", "tokenizer.model", "\n".join(lines) + "\n")


def sentencepiece_model(base, name, kind, size, **options):
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("".join(f"{a:X}\t{b}\n" for a, b in [(0xFB01, "66 69"), (0xFF21, "41"), (0x2026, "2E 2E 2E")]))
        model = io.BytesIO()
        normal = {} if "normalization_rule_name" in options else {"normalization_rule_tsv": str(rules)}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([s for s in SENTENCES for _ in range(3)]), model_writer=model, model_type=kind,
            vocab_size=size, hard_vocab_limit=False, minloglevel=2, num_threads=1, **normal, **options,
        )
    save(base, name, model.getvalue())


def write_sentencepiece():
    t5 = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    sentencepiece_model("t5", "spiece.model", "unigram", 420, **t5)
    albert = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"])
    sentencepiece_model("albert", "spiece.model", "unigram", 420, pad_piece="<pad>", **albert)
    deberta = dict(pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")
    sentencepiece_model("deberta", "spm.model", "unigram", 420, **deberta)
    xlnet = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    sentencepiece_model("xlnet", "spiece.model", "unigram", 420, control_symbols=xlnet)
    sentencepiece_model("xlmr", "sentencepiece.bpe.model", "unigram", 420)
    llama = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)
    sentencepiece_model("llama", "tokenizer.model", "bpe", 640, **llama)
    own = dict(user_defined_symbols=["[ENT]", "of"])
    sentencepiece_model("llama-own", "tokenizer.model", "bpe", 640, **llama | own)
    sentencepiece_model("plain-unigram", "tokenizer.model", "unigram", 420, byte_fallback=False)
    # The same vocabularies as `tokenizer.json`.
    for base, model_type, file in [
        ("t5", "t5", "spiece.model"),
        ("albert", "albert", "spiece.model"),
        ("deberta", "deberta-v2", "spm.model"),
        ("xlnet", "xlnet", "spiece.model"),
        ("xlmr", "xlm-roberta", "sentencepiece.bpe.model"),
        ("llama", "llama", "tokenizer.model"),
    ]:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            shutil.copy(BASES / base / file, folder)
            (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
            if base == "llama":
                (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
            out = folder / "out"
            AutoTokenizer.from_pretrained(folder).save_pretrained(out)
            save(base, "tokenizer.json", (out / "tokenizer.json").read_bytes())


def cases():
    """Yields name, base, files of the base, `model_type`, and the JSON files."""
    token = dict(content="[ENT]", single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    entity = {"700": token}
    strip = {"700": token | {"lstrip": True, "rstrip": True, "special": False, "normalized": True}}
    word = {"700": token | {"content": "the", "single_word": True, "special": False}}

    def settings(**values):
        return {"tokenizer_config.json": values}

    bert = [
        ("plain", {}),
        ("cased", settings(do_lower_case=False)),
        ("accents", settings(strip_accents=True, do_lower_case=False)),
        ("keeps accents", settings(strip_accents=False, do_lower_case=True)),
        ("no chinese", settings(tokenize_chinese_chars=False)),
        ("decoder", settings(added_tokens_decoder=entity)),
        ("decoder strips", settings(added_tokens_decoder=strip)),
        ("decoder word", settings(added_tokens_decoder=word)),
        ("additional", settings(additional_special_tokens=["[ENT]", "<name>"])),
        ("extra", settings(extra_special_tokens=["[ENT]"], additional_special_tokens=["<name>"])),
        ("extra by name", settings(extra_special_tokens={"entity_token": "[ENT]"})),
        ("own role", settings(entity_token="[ENT]")),
        ("added file", {"added_tokens.json": {"[ENT]": 700, "<name>": 701}}),
        ("map", {"special_tokens_map.json": {"additional_special_tokens": ["[ENT]"], "mask_token": "<name>"}}),
        ("map full", {"special_tokens_map.json": {"mask_token": token | {"content": "<mask>", "lstrip": True}}}),
        ("mask lstrip", settings(mask_token={"__type": "AddedToken", **token, "content": "[MASK]", "lstrip": True})),
        ("other roles", settings(cls_token="[SEP]", sep_token="[CLS]")),
        ("splits special", settings(split_special_tokens=True)),
        ("left, max length", settings(truncation_side="left", model_max_length=64)),
        ("class", settings(tokenizer_class="BertTokenizerFast", do_lower_case=False)),
        ("as it is", settings(tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False)),
        ("as it is, added", settings(tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder=strip)),
        ("unknown class", settings(tokenizer_class="NoSuchTokenizer", do_lower_case=False)),
        ("alias", settings(tokenizer_class="ElectraTokenizerFast", do_lower_case=False)),
        ("bos is ignored", settings(add_bos_token=True, bos_token="[CLS]")),
    ]
    for files in (["tokenizer.json"], ["vocab.txt"]):
        for name, more in bert:
            if files == ["vocab.txt"] and name in ("as it is", "as it is, added", "unknown class"):
                continue
            yield f"bert {files[0]}: {name}", "bert", files, "bert", more
    yield "distilbert: class", "bert", ["vocab.txt"], "distilbert", settings(tokenizer_class="DistilBertTokenizer")
    yield "both files", "bert", ["tokenizer.json", "vocab.txt"], "bert", settings(do_lower_case=False)

    gpt2 = [
        ("plain", {}),
        ("prefix", settings(add_prefix_space=True)),
        ("bos", settings(add_bos_token=True, bos_token="<s>")),
        ("bos and eos", settings(add_bos_token=True, add_eos_token=True, bos_token="<s>", eos_token="</s>")),
        ("eos only", settings(add_eos_token=True)),
        ("roles", settings(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")),
        ("decoder", settings(added_tokens_decoder=entity)),
        ("decoder strips", settings(added_tokens_decoder=strip)),
        ("added file", {"added_tokens.json": {"[ENT]": 700}}),
        ("as it is", settings(tokenizer_class="PreTrainedTokenizerFast", add_prefix_space=True)),
    ]
    slow = ["vocab.json", "merges.txt"]
    for files in (["tokenizer.json"], slow):
        for name, more in gpt2:
            if files == slow and name == "as it is":
                continue
            yield f"gpt2 {files[0]}: {name}", "bytes", files, "gpt2", more
        for name, more in [
            ("plain", {}),
            ("prefix", settings(add_prefix_space=True)),
            ("trim", settings(trim_offsets=False)),
            ("mask", settings(mask_token={"__type": "AddedToken", **token, "content": "<mask>", "lstrip": True})),
            ("decoder", settings(added_tokens_decoder={"4": token | {"content": "<mask>", "lstrip": True}})),
            ("bart", settings(tokenizer_class="BartTokenizer")),
            ("bos is ignored", settings(add_bos_token=False, add_eos_token=True)),
        ]:
            yield f"roberta {files[0]}: {name}", "bytes", files, "roberta", more
        for name, model_type, more in [
            ("plain", "qwen2", {}),
            ("class is ignored", "qwen2", settings(tokenizer_class="PreTrainedTokenizerFast")),
            ("qwen3", "qwen3", settings(additional_special_tokens=["[ENT]"], add_bos_token=True)),
            ("decoder", "qwen2", settings(added_tokens_decoder=strip, eos_token="</s>", add_prefix_space=True)),
            ("bos", "qwen3", settings(add_bos_token=True, bos_token="<s>")),
        ]:
            yield f"qwen {files[0]}: {name}", "bytes", files, model_type, more
        yield f"neox {files[0]}", "bytes", files, "llama", settings(tokenizer_class="GPTNeoXTokenizerFast", add_eos_token=True)
    yield "llama: bytes of no class", "bytes-bos", ["tokenizer.json"], "llama", settings(bos_token="<s>")
    yield "llama: bytes named otherwise", "bytes-bos", ["tokenizer.json"], "llama", settings(tokenizer_class="LlamaTokenizer")
    yield "llama: bytes, settings are ignored", "bytes-bos", ["tokenizer.json"], "llama", settings(
        tokenizer_class="LlamaTokenizerFast", add_bos_token=False, add_prefix_space=True
    )
    yield "gpt2: template in the file", "bytes-bos", ["tokenizer.json"], "gpt2", settings(add_bos_token=False)

    for base, model_type, file, own in [
        ("t5", "t5", "spiece.model", [
            ("plain", {}),
            ("mt5", {}),
            ("extra ids", settings(extra_ids=0, additional_special_tokens=[])),
            ("extra ids in the file", settings(extra_ids=3, additional_special_tokens=[f"<extra_id_{i}>" for i in range(3)])),
            ("decoder", settings(added_tokens_decoder=entity)),
        ]),
        ("albert", "albert", "spiece.model", [
            ("plain", {}),
            ("cased", settings(do_lower_case=False, keep_accents=True)),
            ("no prefix", settings(add_prefix_space=False)),
            ("added file", {"added_tokens.json": {"[ENT]": 700}}),
        ]),
        ("deberta", "deberta-v2", "spm.model", [
            ("plain", settings(do_lower_case=False, vocab_type="spm")),
            ("lower", settings(do_lower_case=True)),
            ("no prefix", settings(add_prefix_space=False)),
            ("punctuation", settings(split_by_punct=True, tokenizer_class="DebertaV2TokenizerFast")),
            ("mask in the file", {"added_tokens.json": {"[MASK]": 420}}),
            ("decoder", settings(added_tokens_decoder=strip)),
        ]),
        ("xlnet", "xlnet", "spiece.model", [
            ("plain", {}),
            ("lower", settings(do_lower_case=True)),
            ("mask", settings(mask_token="<mask>", additional_special_tokens=["<eop>", "<eod>", "[ENT]"])),
        ]),
        ("xlmr", "xlm-roberta", "sentencepiece.bpe.model", [
            ("plain", {}),
            ("no prefix", settings(add_prefix_space=False)),
            ("decoder", settings(added_tokens_decoder=strip)),
            ("class for roberta", settings(tokenizer_class="XLMRobertaTokenizer")),
        ]),
        ("llama", "llama", "tokenizer.model", [
            ("plain", settings(tokenizer_class="LlamaTokenizer")),
            ("legacy", settings(tokenizer_class="LlamaTokenizer", legacy=True)),
            ("not legacy", settings(tokenizer_class="LlamaTokenizer", legacy=False)),
            ("no prefix", settings(tokenizer_class="LlamaTokenizerFast", add_prefix_space=False)),
            ("bos", settings(tokenizer_class="LlamaTokenizer", add_bos_token=True)),
            ("eos", settings(tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=True)),
            ("decoder", settings(tokenizer_class="LlamaTokenizer", added_tokens_decoder=entity)),
            ("pad", settings(tokenizer_class="LlamaTokenizer", pad_token="[PAD]")),
            ("no class", {}),
            ("no class, bos", settings(add_bos_token=True)),
            ("no class, not legacy", settings(legacy=False, added_tokens_decoder=strip)),
        ]),
    ]:
        for files in ([file], ["tokenizer.json"]):
            for name, more in own:
                kind = {"mt5": "mt5", "class for roberta": "roberta"}.get(name, model_type)
                yield f"{base} {files[0]}: {name}", base, files, kind, more
    for name, more in [("plain", {}), ("mask", settings(mask_token="<mask>"))]:
        yield f"camembert: {name}", "xlmr", ["sentencepiece.bpe.model"], "camembert", more
    own = settings(tokenizer_class="LlamaTokenizer")
    yield "llama, own pieces: class", "llama-own", ["tokenizer.model"], "llama", own
    yield "llama, own pieces: no class", "llama-own", ["tokenizer.model"], "llama", {}
    names = settings(added_tokens_decoder={"5": token | {"content": "<renamed>"}, "0": token | {"content": "<unk>"}})
    yield "llama, own pieces: names", "llama-own", ["tokenizer.model"], "mistral", names
    yield "mistral: unigram", "plain-unigram", ["tokenizer.model"], "mistral", {}
    for name, more in [
        ("plain", {}),
        ("extra", settings(extra_special_tokens=["<s>", "[ENT]"], bos_token="<s>", add_bos_token=True)),
        ("decoder", settings(added_tokens_decoder={"402": token})),
    ]:
        yield f"tiktoken, llama: {name}", "tiktoken", ["tokenizer.model"], "llama", more
        yield f"tiktoken, qwen2: {name}", "tiktoken", ["tokenizer.model"], "qwen2", more


def make(folder, base, files, model_type, more):
    for file in files:
        shutil.copy(BASES / base / file, folder)
    for name, value in {"config.json": {"model_type": model_type}, **more}.items():
        (folder / name).write_text(json.dumps(value, ensure_ascii=False))


def values(tokenizer):
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    pair = [tokenizer(a, b, return_token_type_ids=True) for a, b in PAIRS]
    pair = [number for encoded in pair for part in ("input_ids", "token_type_ids") for number in encoded[part]]
    cut = [tokenizer(*texts, truncation=True, max_length=CUT)["input_ids"] for texts in [(t,) for t in TEXTS[:20]] + PAIRS]
    cut = [number for ids in cut for number in ids]
    words = "".join(f"{crc(each) & 0xFFFFF:05x}" for each in ids)
    return {"crc": words, "pair": crc(pair), "cut": crc(cut), "full": {str(i): ids[i] for i in FULL}}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_bert()
    write_bytes()
    write_tiktoken()
    write_sentencepiece()
    texts = json.dumps({"texts": TEXTS, "pairs": PAIRS}, indent=0)
    (FOLDER / "texts.json").write_text(texts + "\n")
    found = []
    for name, base, files, model_type, more in cases():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), base, files, model_type, more)
            try:
                tokenizer = AutoTokenizer.from_pretrained(folder)
            except Exception as e:  # noqa: BLE001
                print("left out:", name, "|", repr(e)[:150])
                continue
            found.append({"name": name, "base": base, "files": files, "model_type": model_type, "json": more, **values(tokenizer)})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in found)
    (FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(len(found), "cases,", len(TEXTS), "texts")


if __name__ == "__main__":
    main()
