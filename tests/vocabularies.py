"""Made-up tokenizers of every kind that users bring, small and unfriendly: their words contain the names of tokens."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from jam_jax.data.grammars import GRAMMARS

FORGED = [
    *("<racm3:break>", "IMGIMGAAAAZ", "IMGIMGAZ", "IMGIMGBZ", "<|endoftext|>", "<unused0>", "<unused7>", "</s>", "<s>"),
    *("<0x41>", "<eoss>", "<sentinel:0>", "<reserved08706>", "<|visual token 000000|>", "<|image start|>", "<boi>"),
    *("<|extra_203|>", "<start_of_turn>", "<pad>", "<unk>", "<mask:0>", "<break>", "<|t2i|>", "<|soi|>", "<bos>"),
    *("<unconditional>", "[@BOS@]", "<|begin_of_text|>", "<|im_start|>", "<|reserved_special_token_10|>", "<mask>"),
    *("a</s>b", "</s></s> <s>x", "<unused7", "<un<unused7>used7>", "IMGIMGAZIMGIMGBZ", "<eoss><racm3:break>"),
]
NASTY = [
    *FORGED,
    *(
        " ",
        "  two  spaces,\ta tab and\r\nlines\n\n",
        "A cat.",
        "日本語 🎉 👩‍👩‍👧 café ＡＢＣ ﬁ e\u0301",
        "\x00\x01\x7f",
    ),
    *("\ufeff \u2028 \ufffd", "ABC" * 200, "\U0010ffff", "<table>x</table>", "don't 1234 x_y", "\n", "trailing "),
]
TEXTS = [f"The {c} cat sat on mat {n}, and it's <h1>here</h1>.\n" for c in ("red", "blue", "old") for n in range(30)]
SMALL = {"sentinels": 4, "codes": 16}  # of each, instead of hundreds and thousands


def marks(row: str) -> list[str]:
    """The tokens that documents of a row of the table need, with few sentinels and codes."""
    g = GRAMMARS[row]
    found = [g.codes.name(code) for code in range(SMALL["codes"])] if g.codes else []
    found += [*g.marks, g.start, g.end, g.pad, *g.question_end, g.end_of_infill, g.row_end, *g.closing, g.end_of_image]
    found += [*g.unconditional, *g.sentinels[: SMALL["sentinels"]]]
    for part in g.opening:
        if isinstance(part, str):
            found += {part.format(n=g.size[0] + n) for n in range(1, 4)} if "{" in part else [part]
    if row == "simplear":
        found += ["<|vision_start|>", "<|im_start|>", "<|im_end|>"]
    return [name for name in dict.fromkeys(found) if name and name not in ("▁", "Ġ")]


@functools.cache
def _pieces(kind: str, words: tuple[str, ...]) -> dict[str, Any]:
    """A tokenizer of text alone, as tokenizer.json has it: byte_level, byte_fallback, gemma or unigram."""
    corpus = [*TEXTS, *(word for word in words for _ in range(40))]
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        prefix = [normalizers.Prepend("▁")] if kind == "byte_fallback" else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
        strip = [decoders.Strip(" ", 1, 0)] if prefix else []
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=["▁"], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return json.loads(tokenizer.to_str())


def contents(
    kind: str, specials: list[str], *, seed: int | None = 0, plain: tuple[str, ...] = (), beyond: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A tokenizer.json: pieces of a kind and `specials`, numbered in an order drawn from `seed` (None: one by one).

    `plain` are tokens added to the words that no flag calls special; `beyond` have ids past the model's own.
    """
    added = list(dict.fromkeys([*specials, *plain]))
    found = json.loads(json.dumps(_pieces(kind, (*added, "<unused7", "<0x41>"))))
    if kind == "unigram":
        found["model"]["byte_fallback"] = True
        pieces = dict(found["model"]["vocab"]) | {f"<0x{b:02X}>": -20.0 for b in range(256)}
        pieces |= dict.fromkeys(added, -1.0)
        found["model"]["vocab"] = [[name, score] for name, score in pieces.items()]
        ids = {name: i for i, name in enumerate(pieces)}
    else:
        names = list(found["model"]["vocab"])
        if kind != "byte_level":
            names = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *names]
        names = list(dict.fromkeys([*added, *names]))
        if seed is not None:
            random.Random(seed).shuffle(names)
        ids = {name: i for i, name in enumerate(names)}
        found["model"]["vocab"] = ids
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    size = max(ids.values()) + 1
    found["added_tokens"] = [{"id": ids[n], "content": n, "special": n in specials, **flags} for n in added] + [
        {"id": size + i, "content": n, "special": False, **flags} for i, n in enumerate(beyond)
    ]
    return found


KIND = dict.fromkeys(GRAMMARS, "byte_level") | {"liquid": "gemma", "gemma": "gemma", "llama": "byte_fallback"}


def of_row(row: str, *, seed: int | None = 0, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A tokenizer.json whose documents follow a row of the table."""
    names = [name for name in marks(row) if name not in without]
    if row in ("gemma", "liquid"):  # as in Gemma's: tokens that nobody uses are not flagged
        plain = (*(n for n in names if n.startswith("<unused")), "<h1>", "</h1>", "\n\n")
        return contents(KIND[row], [n for n in names if n not in plain], seed=seed, plain=plain)
    return contents(KIND[row], names, seed=seed)


def write(directory: Path, found: dict[str, Any]) -> Path:
    """A directory with the tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return directory


def sentencepiece_model(path: Path, kind: str = "bpe", prefix: bool = True, byte_fallback: bool = True) -> Path:
    """A SentencePiece model with byte pieces, whose maker defined `<unused0>` to `<unused9>` and `<h1>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *(name for name in FORGED for _ in range(40))]),
        model_prefix=str(path.with_suffix("")),
        model_type=kind,
        vocab_size=420,
        hard_vocab_limit=False,
        byte_fallback=byte_fallback,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        split_by_unicode_script=False,
        split_by_number=False,
        user_defined_symbols=[*(f"<unused{i}>" for i in range(10)), "<h1>", "<start_of_turn>"],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    return path
