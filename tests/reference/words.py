"""Reference values for texts that are divided into words: `words/*.json`, read by the unit tests of `src/text/words.rs`.

    python tests/reference/words.py

Each file holds a small tokenizer, as `tokenizer.json` has it, and what `transformers` makes of lists of words with
`is_split_into_words=True`, as its `run_ner` does. The committed files: transformers 5.23.0, tokenizers 0.23.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

FOLDER = Path(__file__).resolve().parent / "words"
TEXTS = ["the lowest newest widest towers", "Empire State of mind, isn't it?", "low lower lowest, new newer newest"] * 4
SENTENCES = [
    ["the", "lowest", "tower"],
    ["Empire", "State", "isn't", "n't", ",", "unseen-word"],
    ["a", "\u200b", "b"],
    ["two words", " padded ", "caf\u00e9", "\u4e2d\u6587"],
    ["<mask>", "[MASK]", "new"],
    ["lowest"] * 12,
]
LENGTHS = [64, 9]


def word_piece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer, PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_level():
    """As GPT-2's and RoBERTa's files have it, without a space in front; `run_ner` asks for one."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return tokenizer, RobertaTokenizer(vocab=model["vocab"], merges=merges, add_prefix_space=True)


def unigram():
    """As XLM-R's and T5's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)])
    return tokenizer, PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, make in {"wordpiece": word_piece, "bytes": byte_level, "unigram": unigram}.items():
        tokenizer, hf = make()
        # Before transformers changes its padding and truncation.
        saved = json.loads(tokenizer.to_str())
        cases = []
        for words in SENTENCES:
            for length in LENGTHS:
                found = hf(words, is_split_into_words=True, truncation=True, max_length=length)
                owners = found.word_ids()
                firsts = [owners.index(i) if i in owners else None for i in range(len(words))]
                cases.append({"words": words, "max_length": length, "ids": found["input_ids"], "firsts": firsts})
        with open(FOLDER / f"{name}.json", "w", encoding="utf-8") as out:
            json.dump({"tokenizer": saved, "cases": cases}, out, separators=(",", ":"))
            out.write("\n")


main()
