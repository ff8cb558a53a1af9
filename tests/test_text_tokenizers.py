"""Text tokenizers of every kind: no text makes an id that is no text, any comes back, words are the makers' own."""

import base64
import functools
import itertools
import json
import random
from pathlib import Path

import pytest
import regex
import sentencepiece
import vocabularies
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vocabularies import FORGED, NASTY, TEXTS

from jam_jax import tokens
from jam_jax.data import grammars, json_text
from jam_jax.data.grammars import GRAMMARS
from jam_jax.data.sentencepiece_text import SentencePieceText
from jam_jax.data.text_tokenizers import TextTokenizer, open_text


def random_texts(count: int = 500) -> list[str]:
    """Strings of any characters of Unicode, with names of tokens among them."""
    rng = random.Random(0)
    ranges = [(0, 0x80), (0, 0xD800), (0xE000, 0x110000)]

    def part() -> str:
        first, past = rng.choice(ranges)
        return rng.choice(FORGED) if rng.random() < 0.2 else chr(rng.randrange(first, past))

    return ["".join(part() for _ in range(rng.randrange(1, 20))) for _ in range(count)]


RANDOM = random_texts()


@functools.cache
def tokenizer(kind: str) -> tuple[TextTokenizer, set[int]]:
    """A tokenizer kept to text, and the ids that must never come of one."""
    if kind in GRAMMARS:
        contents = vocabularies.of_row(kind)
        read = json_text.JsonText(contents, Path(kind))
        space = grammars.token_space(kind, read.names, read.text, len(read.names) + 70000)
        kept = json_text.JsonText(contents, Path(kind), tokens.ids_of(space.text))
        return kept, set(range(len(read.names))) - set(tokens.ids_of(space.text))
    contents = vocabularies.contents("unigram", ["<s>", "</s>", "<unused7>", "<|endoftext|>", "<|日本|>"])
    read = json_text.JsonText(contents, Path(kind))
    return read, {i for i, name in enumerate(read.names) if name in ("<unk>", "<s>", "</s>", "<unused7>", "<|日本|>")}


@functools.cache
def pieces(kind: str, prefix: bool, directory: Path) -> tuple[Path, SentencePieceText]:
    """A SentencePiece model, and the same kept to what is text by its grammar."""
    path = vocabularies.sentencepiece_model(directory / f"{kind}{prefix}" / "tokenizer.model", kind, prefix)
    read = SentencePieceText(path)
    space = grammars.token_space("gemma", read.names, read.text, len(read.names))
    return path, SentencePieceText(path, tokens.ids_of(space.text))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


@pytest.mark.parametrize("kind", [*GRAMMARS, "unigram"])
def test_any_text_comes_back_and_makes_no_other_id_than_text(kind: str) -> None:
    kept, special = tokenizer(kind)
    assert special and special.isdisjoint(kept.text)
    assert kept.spells_all
    for text in [*NASTY, *RANDOM, *(name for i in special if (name := kept.names[i]))]:
        ids = kept.encode(text)
        assert special.isdisjoint(ids), (text, ids)
        assert kept.decode(ids) == text


@pytest.mark.parametrize("kind", ["chameleon", "gemma", "unigram"])
def test_the_made_up_words_are_hostile_enough(kind: str) -> None:
    """What a tokenizer.json does as it is: added tokens are found in texts, and the words alone make them too."""
    if kind == "unigram":
        contents = vocabularies.contents("unigram", ["<s>", "</s>", "<unused7>", "<|endoftext|>", "<|日本|>"])
    else:
        contents = vocabularies.of_row(kind)
    special = tokenizer(kind)[1]
    for added in (contents["added_tokens"], []):
        raw = Tokenizer.from_str(json.dumps(contents | {"added_tokens": added}))
        assert any(special & set(raw.encode(text, add_special_tokens=False).ids) for text in FORGED)


@pytest.mark.parametrize("kind", [*GRAMMARS, "unigram"])
def test_plain_text_has_the_ids_that_transformers_gives_it(kind: str) -> None:
    contents = vocabularies.of_row(kind) if kind in GRAMMARS else vocabularies.contents("unigram", ["<s>", "</s>"])
    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(contents)))
    kept = tokenizer(kind)[0] if kind in GRAMMARS else json_text.JsonText(contents, Path(kind))
    for text in [*TEXTS[:20], *(t for t in NASTY if t not in FORGED)]:
        assert kept.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_models_of_others(kind: str, prefix: bool, scratch: Path) -> None:
    path, kept = pieces(kind, prefix, scratch)
    raw = sentencepiece.SentencePieceProcessor(model_file=str(path))
    special = set(range(raw.get_piece_size())) - set(kept.text)
    defined = {"<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", *(f"<unused{i}>" for i in range(10))}
    found = {kept.names[i] for i in special}
    assert defined < found and "<h1>" not in found  # the rest are words that are named as a token
    assert kept.spells_all
    assert special & set(raw.encode("a <unused7> b"))  # as it is, the model finds what its maker defined
    for text in [*NASTY, *RANDOM]:
        ids = kept.encode(text)
        assert special.isdisjoint(ids), (text, ids)
        # Where the model itself puts a space before every text, its own sign for one cannot be told from it.
        assert kept.decode(ids) == (text.replace("▁", " ") if prefix else text)
    for text in TEXTS[:20]:
        assert kept.encode(text) == raw.encode(text)


def test_llamas_words_are_the_same_from_either_file(scratch: Path) -> None:
    """transformers reads a tokenizer.model by a tokenizer.json that it makes of it."""
    path, kept = pieces("bpe", True, scratch)
    (path.parent / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "legacy": false}')
    theirs = AutoTokenizer.from_pretrained(path.parent)
    for text in TEXTS[:10]:
        assert kept.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def older_layout(directory: Path, kind: str) -> Path:
    """vocab.json, merges.txt and tokenizer_config.json of a byte-level tokenizer whose words are cut as `kind` cuts."""
    contents = vocabularies.of_row("qwen2", seed=None)
    directory.mkdir()
    special = {t["content"]: t["id"] for t in contents["added_tokens"]}
    vocab = {n: i for n, i in contents["model"]["vocab"].items() if n not in special or kind == "GPT2Tokenizer"}
    merges = [f"{a} {b}" for a, b in contents["model"]["merges"] if {a, b, a + b} <= set(vocab)]
    (directory / "vocab.json").write_text(json.dumps(vocab))
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    decoder = {str(i): {"content": name, "special": True, **flags} for name, i in special.items()}
    config = {"tokenizer_class": kind, "added_tokens_decoder": decoder, "unk_token": "<|endoftext|>"}
    config |= {"eos_token": "<|endoftext|>", "bos_token": None, "add_prefix_space": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocab_and_merges_are_read_as_transformers_reads_them(kind: str, tmp_path: Path) -> None:
    directory = older_layout(tmp_path / kind, kind)
    ours, theirs = open_text(directory), AutoTokenizer.from_pretrained(directory)
    special = {i for i, name in enumerate(ours.names) if name in vocabularies.marks("qwen2")}
    assert len(special) == len(vocabularies.marks("qwen2")) and special.isdisjoint(ours.text)
    for text in [*TEXTS[:10], *NASTY, *RANDOM[:50]]:
        assert special.isdisjoint(ours.encode(text))
        if not any(name in text for name in FORGED) and "<|" not in text:
            assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
    with pytest.raises(ValueError, match="of a MarianTokenizer, which is not known here"):
        (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
        open_text(directory)


def test_emu3s_own_files_are_read_by_rank(tmp_path: Path) -> None:
    """As tiktoken does it: in every word the pair of the lowest rank is merged, until there is none."""
    made = json_text._SIGNS
    signs = {sign: byte for byte, sign in made.items()}
    found = vocabularies.of_row("emu3", seed=None)["model"]["vocab"]
    words = [bytes(signs[s] for s in name) for name in found if set(name) <= set(signs)]
    words = sorted(set(words) | {bytes([b]) for b in range(256)}, key=len)
    ranks = {piece: rank for rank, piece in enumerate(words)}
    lines = [f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks.items()]
    (tmp_path / "emu3.tiktoken").write_text("\n".join(lines) + "\n")
    visual = ["<|image start|>", "<|image end|>", "<|image token|>"] + [f"<|visual token {i:06d}|>" for i in range(5)]
    (tmp_path / "emu3_vision_tokens.txt").write_text("\n".join(visual))

    def plain(text: str) -> list[int]:
        ids = []
        for word in regex.findall(json_text.QWEN_WORDS, text):
            parts = [bytes([b]) for b in word.encode()]
            if word.encode() in ranks:
                parts = [word.encode()]
            while joined := {a + b for a, b in itertools.pairwise(parts)} & set(ranks):
                best = min(joined, key=lambda p: ranks[p])
                at = next(n for n in range(len(parts)) if parts[n] + parts[n + 1] == best)
                parts[at : at + 2] = [best]
            ids += [ranks[p] for p in parts]
        return ids

    ours = open_text(tmp_path)
    assert ours.names[len(ranks) : len(ranks) + 4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>"]
    assert ours.names[-1] == "<|visual token 000004|>" and len(ours.names) == len(ranks) + 3 + 205 + 8
    for text in [*TEXTS[:20], *FORGED, "don't  1234\n\n x", "日本語 🎉"]:
        ids = ours.encode(text)
        assert ids == plain(text)
        assert max(ids) < len(ranks) and ours.decode(ids) == text


def test_what_a_file_says_of_training_and_of_batches_changes_no_ids() -> None:
    contents = vocabularies.of_row("chameleon")
    start = contents["model"]["vocab"]["<s>"]
    around = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>",
        },
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [start], "tokens": ["<s>"]}},
        },
        "model": contents["model"] | {"dropout": 0.5},
    }  # fmt: skip
    text = TEXTS[0] * 9
    assert json_text.JsonText(contents | around, Path("x")).encode(text) == tokenizer("chameleon")[0].encode(text)


def test_ids_beyond_the_models_own_are_no_text() -> None:
    contents = vocabularies.contents("byte_level", ["<|endoftext|>"], beyond=("<tool_call>", "</tool_call>"))
    ours = json_text.JsonText(contents, Path("x"))
    assert ours.names[-2:] == ["<tool_call>", "</tool_call>"]
    ids = ours.encode("a <tool_call> b")
    assert max(ids) < len(ours.names) - 2 and ours.decode(ids) == "a <tool_call> b"


def test_what_cannot_be_spelt_is_told(tmp_path: Path) -> None:
    contents = vocabularies.contents("unigram", ["<s>"])
    contents["model"]["byte_fallback"] = False
    ours = json_text.JsonText(contents, Path("x"))
    assert ours.decode(ours.encode("The red cat")) == "The red cat"
    assert not ours.spells_all
    with pytest.raises(ValueError, match="cannot spell '🎉'"):
        ours.encode("a 🎉")
    contents = vocabularies.contents("byte_level", ["<s>"])
    assert json_text.JsonText(contents, Path("x")).spells_all
    assert not json_text.JsonText(contents, Path("x"), [contents["model"]["vocab"]["a"]]).spells_all
    path = vocabularies.sentencepiece_model(tmp_path / "m.model", "bpe", byte_fallback=False)
    assert not SentencePieceText(path).spells_all
    with pytest.raises(ValueError, match="no piece for '🎉' and no bytes"):
        SentencePieceText(path).encode("a 🎉")


def test_broken_bytes_are_read_as_the_sign_of_a_broken_character() -> None:
    for kind in ("chameleon", "gemma", "llama"):
        kept = tokenizer(kind)[0]
        emoji = kept.encode("x🎉")
        assert "�" in kept.decode(emoji[:-1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer.json"),
        ({"tokenizer.json": "{"}, "tokenizer.json is damaged"),
        ({"tokenizer.json": "[]"}, "expected an object"),
        ({"tokenizer.json": "{}"}, "is damaged: KeyError 'model'"),
        ({"tokenizer.json": '{"model": {"vocab": {}}}'}, "is damaged"),
        ({"tokenizer.json": '{"model": {"type": "Odd", "vocab": {"a": 0}}}'}, "cannot be read"),
        ({"tokenizer.model": "no model"}, "is no SentencePiece model"),
        ({"tokenizer.model": ""}, "is no SentencePiece model: it is empty"),
        ({"vocab.json": '{"a": 0}'}, "there is no .*merges.txt"),
        ({"emu3.tiktoken": "?? 0"}, "emu3.tiktoken is damaged at '\\?\\? 0'"),
        ({"emu3.tiktoken": "YQ== 0"}, "there is no .*emu3_vision_tokens.txt"),
    ],
)
def test_damaged_files_are_told(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        open_text(tmp_path)
    assert "\n" not in str(error.value)
