"""CLIP's text tokenizer gives the ids of transformers, from each of the forms in which it is published."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from jam_jax.data import clip_text
from jam_jax.data.clip_text import ClipTokenizer

MERGES = ["t h", "th e</w>", "c a", "ca t</w>", "i n", "in g</w>", "Ã ©</w>", "' s</w>", "d o", "do g</w>", "a b"]
VOCABULARY = 2 * 256 + len(MERGES) + 2
ODD = [
    *("The cat's doing things", "", "  \n\t x\u3000y\u00a0 z ", "don't I'LL we've they're dog", "word " * 100),
    *("CAFÉ cafe\u0301 ÅÅ ǅ İstanbul ﬁ ΣΑΣ ß ẞ", "日本語 テスト１２３ ½ Ⅷ ٣", "مرحبا שלום नमस्ते", "_a_b--c!!??"),
    *("👩‍👩‍👧 🏳️‍🌈 e\u0301\u0327 \U000e0001", "a\x00b \x7f \u200b\u2028z \ufeffy \uffff", "&amp; <br>"),
    *("<|endoftext|> foo <|startoftext|>", "<|ENDOFTEXT|>", "<|endoftext|", "the the\u0300"),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer as OpenAI publishes its own, and in both of Hugging Face's forms."""
    root = tmp_path_factory.mktemp("clip_text")
    for name in ("openai", "pieces", "whole"):
        (root / name).mkdir()
    with gzip.open(root / "openai" / clip_text.OPENAI, "wt", encoding="utf-8") as file:
        file.write("\n".join(["a version", *MERGES, ""]))
    clip_text.copy_tokenizer(root / "openai", root / "pieces")
    CLIPTokenizer.from_pretrained(root / "pieces").save_pretrained(root / "whole")
    assert (root / "whole" / "tokenizer.json").is_file() and not (root / "whole" / "vocab.json").exists()
    return root


@pytest.mark.parametrize("form", ["openai", "pieces", "whole"])
def test_ids_are_those_of_transformers(published: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    ranges = [(32, 127), (32, 0x500), (0x2000, 0x3000), (0x1F300, 0x1FAFF), (0xE000, 0x10FFFF)]
    noise = [[int(rng.integers(*ranges[i])) for i in rng.integers(0, 5, 20)] for _ in range(200)]
    texts = [*ODD, *("".join(map(chr, codes)) for codes in noise)]
    theirs = CLIPTokenizer.from_pretrained(published / ("pieces" if form == "openai" else form))
    expected = theirs(texts, padding="max_length", truncation=True, max_length=31)["input_ids"]
    ours = ClipTokenizer(published / form)
    found = ours.encode(texts, 31)
    assert found.dtype == np.int32 and ours.vocab_size == VOCABULARY == ours.end + 1
    np.testing.assert_array_equal(found, expected)


def test_openais_vocabulary_is_in_its_published_order(published: Path) -> None:
    pieces = json.loads((published / "pieces" / "vocab.json").read_text())
    assert [pieces[p] for p in ("!", "~", "¡", "ÿ", "Ā", "Ń", "!</w>", "Ń</w>")] == [0, 93, 94, 187, 188, 255, 256, 511]
    assert [pieces[p] for p in ("th", "the</w>", clip_text.START)] == [512, 513, VOCABULARY - 2]
    assert clip_text.OPENAI_MERGES + 514 == 49408  # ViT-B/32's rows
    lines = (published / "pieces" / "merges.txt").read_text().splitlines()
    assert lines == ["#version: 0.2", *MERGES]


def test_a_text_too_long_keeps_its_end_and_half_a_pair_is_no_text(published: Path) -> None:
    ours = ClipTokenizer(published / "pieces")
    row = ours.encode(["the " * 9], 6)[0].tolist()
    assert row == [ours.start, 513, 513, 513, 513, ours.end]
    assert ours.encode(["\ud83d the"])[0].tolist() == ours.encode(["\ufffd the"])[0].tolist()
    assert ours.encode([]).shape == (0, 77)


def test_damaged_and_foreign_tokenizers_are_one_line(published: Path, tmp_path: Path) -> None:
    def fails(message: str, files: dict[str, bytes]) -> None:
        shutil.rmtree(tmp_path / "it", ignore_errors=True)
        (tmp_path / "it").mkdir()
        for name, content in files.items():
            (tmp_path / "it" / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            ClipTokenizer(tmp_path / "it")
        assert "\n" not in str(caught.value)

    vocabulary, merges = ((published / "pieces" / n).read_bytes() for n in ("vocab.json", "merges.txt"))
    whole = json.loads((published / "whole" / "tokenizer.json").read_text())
    fails("holds no tokenizer of CLIP: expected tokenizer.json, vocab.json and merges.txt", {"vocab.json": vocabulary})
    fails("vocab.json is damaged", {"vocab.json": vocabulary[:-9], "merges.txt": merges})
    fails("should give ids to pieces", {"vocab.json": b'{"a": 0}', "merges.txt": merges})
    fails("vocab.json is damaged", {"vocab.json": vocabulary.replace(b": 3,", b': "3",'), "merges.txt": merges})
    fails("a merge is two pieces, got 'x y z'", {"vocab.json": vocabulary, "merges.txt": merges + b"x y z\n"})
    fails("xx", {"vocab.json": vocabulary, "merges.txt": merges + b"x x\n"})  # not in the vocabulary
    fails("tokenizer.json is damaged", {"tokenizer.json": b"{}"})
    changed = json.dumps(whole).replace("<|startoftext|>", "<s>").encode()
    fails("it has no <|startoftext|> and <|endoftext|>", {"tokenizer.json": changed})
    packed = (published / "openai" / clip_text.OPENAI).read_bytes()
    fails("is damaged", {clip_text.OPENAI: packed[: len(packed) // 2]})
    fails("is damaged", {clip_text.OPENAI: b"not packed"})


def test_a_tokenizer_that_is_learned_is_read_by_transformers_and_knows_its_words(tmp_path: Path) -> None:
    texts = ["a big red circle", "a little red square", "a big blue circle beside a red one"] * 5
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clip_text.train_clip_tokenizer(iter(texts), tmp_path / name, 560)
    assert (tmp_path / "one/merges.txt").read_text() == (tmp_path / "two/merges.txt").read_text()
    ours = ClipTokenizer(tmp_path / "one")
    assert 514 < ours.vocab_size <= 560 and ours.end == ours.vocab_size - 1
    rows = ours.encode(["a red circle", *ODD], 31)
    assert (rows[0] == ours.end).argmax() == 4  # every word is one id
    theirs = CLIPTokenizer.from_pretrained(tmp_path / "one")
    expected = theirs(["a red circle", *ODD], padding="max_length", truncation=True, max_length=31)["input_ids"]
    np.testing.assert_array_equal(rows, expected)
    with pytest.raises(ValueError, match="vocab 500 is too few"):
        clip_text.train_clip_tokenizer(texts, tmp_path, 500)
    with pytest.raises(ValueError, match="there is no text"):
        clip_text.train_clip_tokenizer([], tmp_path, 600)
