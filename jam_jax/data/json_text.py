"""Text to ids by Hugging Face's `tokenizer.json`, or what older layouts spread over several files, kept to text.

Layouts are read into the contents that a `tokenizer.json` would have. What is no text is then taken out of them: added
tokens, which are found in a text before all else, and the entries by which the model itself could make such an id.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# How Qwen (and Emu3, whose text pieces are Qwen's) cuts a text into words.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_CUT: dict[str, Any] = {
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
}
QWEN_CUT: dict[str, Any] = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    },
}
# How a vocab.json is meant, by tokenizer_config.json's `tokenizer_class`; "" where there is none.
CUTS = dict.fromkeys(("", "GPT2Tokenizer", "GPT2TokenizerFast"), GPT2_CUT)
CUTS |= dict.fromkeys(("Qwen2Tokenizer", "Qwen2TokenizerFast"), QWEN_CUT)
# Emu3's special tokens before those of its file (tokenization_emu3.py of baaivision/Emu3).
EMU3_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))


class JsonText:
    """A tokenizer of the library `tokenizers` that makes nothing but text of a text; see `TextTokenizer`."""

    def __init__(self, contents: dict[str, Any], where: Path, text: Sequence[int] | None = None) -> None:
        """`contents` as in a tokenizer.json; `where` they come from, for messages.

        No text makes another id than those of `text`; without it, than those that the contents take for text.
        ValueError if the contents are damaged, or of a kind that the library does not know.
        """
        from tokenizers import Tokenizer

        try:
            entries, added = _entries(contents["model"]), contents.get("added_tokens") or []
            names = entries | {t["content"]: t["id"] for t in added}
            self.names: list[str | None] = [None] * (max(names.values()) + 1)
            for name, i in names.items():
                self.names[i] = name
            special = {t["id"] for t in added if t["special"] or t["content"] not in entries}
            self._unknown = entries.get(contents["model"].get("unk_token") or "")
            if contents["model"].get("unk_id") is not None:
                self._unknown = contents["model"]["unk_id"]
            self.text = sorted(set(entries.values()) - special - {self._unknown}) if text is None else list(text)
            self._ids = set(self.text)
            kept = _kept_to_text(contents, self._ids, self._unknown)
            self.spells_all = _spells_all(contents, self._ids)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{where} is damaged: {type(error).__name__} {error}") from error
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(kept))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{where} cannot be read: {str(error).splitlines()[0][:200]}") from error

    def encode(self, text: str) -> list[int]:
        """Text → ids; ValueError names what the vocabulary cannot spell."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Many texts → the ids of each; see `encode`."""
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found: list[list[int]] = [of_one.ids for of_one in encoded]
        for text, ids in zip(texts, found, strict=True):
            if not self._ids.issuperset(ids):
                odd = next(n for n, i in enumerate(ids) if i not in self._ids)
                start, end = self._tokenizer.encode(text, add_special_tokens=False).offsets[odd]
                raise ValueError(f"the text tokenizer cannot spell {text[start:end]!r}")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Inverse of `encode`, up to what the tokenizer normalises; broken UTF-8 becomes U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def _entries(model: dict[str, Any]) -> dict[str, int]:
    """Name → id of a model's own vocabulary, which Unigram keeps as a list of (piece, score)."""
    vocab = model["vocab"]
    return {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)


def _spells_all(contents: dict[str, Any], text: set[int]) -> bool:
    """Whether texts are put into bytes where need be, and `text` has an entry for each of the 256."""
    cut = contents.get("pre_tokenizer") or {}
    if contents["model"].get("byte_fallback"):
        names = [f"<0x{b:02X}>" for b in range(256)]
    elif any(step.get("type") == "ByteLevel" for step in (cut, *cut.get("pretokenizers", ()))):
        names = list(_SIGNS.values())
    else:
        return False
    return text.issuperset(map(_entries(contents["model"]).get, names))


def _kept_to_text(contents: dict[str, Any], text: set[int], unknown: int | None) -> dict[str, Any]:
    """The contents without what makes other ids than those of `text` (and the id that says "unknown")."""
    model = dict(contents["model"])
    entries = _entries(model)
    kept = {name: i for name, i in entries.items() if i in text or i == unknown}
    if isinstance(model["vocab"], list):
        # An entry's place is its id, so it must stay; an empty piece is found in no text.
        model["vocab"] = [[piece if i in text else "", score] for i, (piece, score) in enumerate(model["vocab"])]
    else:
        model["vocab"] = kept
    if "merges" in model:
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        prefix = model.get("continuing_subword_prefix") or ""
        spelt = {name for name, i in kept.items() if i in text}
        if model.get("byte_fallback"):
            spelt -= {f"<0x{b:02X}>" for b in range(256)}  # they stand for bytes, not for their names
        model["merges"] = [[a, b] for a, b in pairs if {a, b, a + b.removeprefix(prefix)} <= spelt]
    if "dropout" in model:
        model["dropout"] = None  # of training: the same text has the same ids
    added = [t for t in contents.get("added_tokens") or [] if t["id"] in text]
    no = dict.fromkeys(("truncation", "padding", "post_processor"))  # they cut texts, and put tokens around them
    return contents | no | {"model": model, "added_tokens": added}


def read(directory: Path) -> dict[str, Any]:
    """The contents of the tokenizer.json in a directory, or what other files there amount to; ValueError if none."""
    if (directory / "tokenizer.json").is_file():
        return _load(directory / "tokenizer.json")
    if (directory / "vocab.json").is_file():
        return _from_vocab(directory)
    if (directory / "emu3.tiktoken").is_file():
        return _from_tiktoken(directory)
    raise ValueError(f"{directory} holds no tokenizer.json, no vocab.json with merges.txt and no emu3.tiktoken")


def _from_vocab(directory: Path) -> dict[str, Any]:
    """GPT-2's layout, which OPT has too, and Qwen's old one: vocab.json, merges.txt, and what may be beside them."""
    settings = _load(directory / "tokenizer_config.json", missing={})
    kind = settings.get("tokenizer_class") or ""
    if kind not in CUTS:
        raise ValueError(
            f"{directory / 'vocab.json'} is of a {kind}, which is not known here: save it as a tokenizer.json "
            "with transformers (AutoTokenizer, save_pretrained)"
        )
    vocab = _load(directory / "vocab.json")
    special = {int(i): t for i, t in settings.get("added_tokens_decoder", {}).items()}
    beside = {i: name for name, i in _load(directory / "added_tokens.json", missing={}).items()}
    added = [
        {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        | special.get(i, {})
        | {"special": special.get(i, {}).get("special", i not in vocab.values())}
        for i, name in sorted((beside | {i: t["content"] for i, t in special.items()}).items())
    ]
    lines = _text(directory / "merges.txt").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _byte_level(vocab, pairs, added, CUTS[kind])


def _from_tiktoken(directory: Path) -> dict[str, Any]:
    """BAAI's own layout of Emu3: pieces in base64 with their ranks, and the names of the visual tokens.

    A pair is merged in the order of what it makes, so every way to put a piece together of two others is a merge.
    """
    ranks: dict[bytes, int] = {}
    for line in _text(directory / "emu3.tiktoken").splitlines():
        encoded, _, rank = line.partition(" ")
        try:
            ranks[base64.b64decode(encoded, validate=True)] = int(rank)
        except ValueError as error:
            raise ValueError(f"{directory / 'emu3.tiktoken'} is damaged at {line[:40]!r}: {error}") from error
    names = {piece: "".join(map(_SIGNS.__getitem__, piece)) for piece in ranks}
    pairs = []
    for piece in sorted(ranks, key=lambda p: ranks[p]):
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        whole = [(a, b) for a, b in halves if a in ranks and b in ranks]
        pairs += [[names[a], names[b]] for a, b in sorted(whole, key=lambda h: (ranks[h[0]], ranks[h[1]]))]
    visual = [line.strip() for line in _text(directory / "emu3_vision_tokens.txt").splitlines() if line.strip()]
    first = max(ranks.values()) + 1
    special = {name: first + i for i, name in enumerate((*EMU3_SPECIALS, *visual))}
    added = [
        {"id": i, "content": name, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for name, i in special.items()
    ]
    vocab = {names[piece]: rank for piece, rank in ranks.items()} | special
    contents = _byte_level(vocab, pairs, added, QWEN_CUT)
    contents["model"]["ignore_merges"] = True  # a word that is a piece is that piece
    return contents


def _byte_level(
    vocab: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]], cut: dict[str, Any]
) -> dict[str, Any]:
    """The contents of a byte-level BPE tokenizer's tokenizer.json."""
    model = {"type": "BPE", "unk_token": None, "byte_fallback": False, "vocab": vocab, "merges": merges}
    decoder = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {"version": "1.0", **empty, **cut, "decoder": decoder, "added_tokens": added, "model": model}


def _signs() -> Iterable[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself if printable, else one past 255."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = iter(range(256, 512))
    return (chr(b if b in shown else next(hidden)) for b in range(256))


_SIGNS = dict(enumerate(_signs()))


def _load(path: Path, missing: dict | None = None) -> dict[str, Any]:
    """A JSON object, or `missing` if there is no such file; ValueError if it is damaged, or not there and must be."""
    if missing is not None and not path.is_file():
        return missing
    try:
        values = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: expected an object")
    return values


def _text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"there is no {path}, which belongs to the files beside it")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
