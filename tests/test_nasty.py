"""Inputs that are hostile or broken, through `tokenize` into a store: kept as said, or skipped; none stops the run.

docs/data.md has a table of these.
"""

import contextlib
import io
import json
import shutil
import struct
import zlib

import handmade
import numpy as np
import pytest
import vocabularies
from handmade import picture
from PIL import Image

from jam_jax import tokens
from jam_jax.data.__main__ import main
from jam_jax.data.formats import source
from jam_jax.data.sentencepiece_text import SentencePieceText
from jam_jax.data.settings import Columns, ReadSettings
from jam_jax.data.store import Store
from jam_jax.data.tokenizers import open_tokenizer

# PIL warns of what read_picture then refuses.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

KEPT = {
    "special tokens": "a <break> b </s><s> <mask:0> <eoss> <pad><unk> IMGIMGAZ <image> c",
    "control characters": "bell \x07 escape \x1b[31m delete \x7f C1 \x85 tab \t end",
    "line breaks": "one\r\ntwo\n\n\nthree\u2028four",
    "emoji": "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{WHITE HEAVY CHECK MARK}\ufe0f",
    "right to left": "\u202eabc \u05d0\u05d1\u05d2 \u0639\u0631\u0628",
    "combining": "e\u0301 Å Å \ufb01",
    "the tokenizer's own space": "a\u2581b \u2581",
    "noncharacters": "\ufffe \uffff \U0010ffff \ufeff",
    "a long word": "x" * 20_000,
}


def png(width, height, depth=8, kind=2, body=None):
    """A PNG file with a header of one's own choice; `body` compressed pixels, by default too few."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(value):
    return picture(value, side=32)


def rotated():
    """Stored white above black, to be shown the other way round."""
    image = Image.fromarray(np.repeat(np.uint8([255, 0]), 16)[:, None, None].repeat(32, 1).repeat(3, 2))
    exif = image.getexif()
    exif[0x0112] = 3
    return saved(image, exif=exif), saved(image.rotate(180))


FRAMES = [Image.new("RGB", (32, 32), (value,) * 3) for value in (40, 200)]
# name → the picture, and a plain one that is tokenized as it is
PICTURES = {
    "1x1": (picture(7, side=1), grey(7)),
    "20,000 wide": (saved(Image.new("RGB", (20_000, 3), (9, 9, 9))), grey(9)),
    "20,000 high": (saved(Image.new("L", (3, 20_000), 9)), grey(9)),
    "CMYK JPEG": (saved(Image.new("CMYK", (32, 32), (0, 0, 0, 0)), "JPEG", quality=100), grey(255)),
    "16-bit grey PNG": (saved(Image.fromarray(np.full((32, 32), 100 * 257, np.uint16))), grey(100)),
    "16-bit colour PNG": (png(32, 32, 16, 2, zlib.compress((b"\0" + b"\x64\x64" * 96) * 32)), grey(100)),
    "animated GIF": (saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), grey(40)),
    "animated WebP": (saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True), grey(40)),
    "transparent": (saved(Image.new("RGBA", (32, 32), (10, 20, 30, 0))), grey(255)),
    "half transparent": (saved(Image.new("RGBA", (32, 32), (0, 0, 0, 51))), grey(204)),
    "transparent palette": (saved(Image.new("P", (32, 32), 0), transparency=0), grey(255)),
    "EXIF orientation": rotated(),
    "one bit": (saved(Image.new("1", (32, 32), 1)), grey(255)),
    "a text after the picture": (grey(60) + b"<break> trailing", grey(60)),
}


NOISE = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
BAD_PICTURES = {
    "truncated JPEG": NOISE[: len(NOISE) // 2],
    "truncated PNG": png(32, 32),
    "decompression bomb": png(60_000, 60_000),
    "more pixels than bearable": png(11_000, 11_000),
    "no width": png(0, 32),
    "text": b"this is no picture <break>",
    "HTML": b"<!doctype html><html>404</html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "empty": b"",
    "zeros": bytes(1000),
}
BAD_PATHS = {
    "../outside": "../outside.png",
    "../../etc/passwd": "../../../../../../../../../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a link outside": "link.png",
    "through a directory that is a link": "linked/outside.png",
    "a missing file": "none.png",
    "the directory": ".",
    "an address": "http://localhost:1/1.png",
    "the home": "~/1.png",
    "NUL": "1.png\0",
    "half a surrogate pair": "\ud83d.png",
    "a number": 5,
    "a long name": "x" * 100_000,
}
BAD_LINES = {
    "broken UTF-8": b'{"text": "a\xff\xfe", "image": "1.png"}',
    "half a surrogate pair": b'{"text": "a\\ud83d", "image": "1.png"}',
    "NUL in a text": b'{"text": "a\\u0000b", "image": "1.png"}',
    "NUL in the file": b'{"text": "a\0b", "image": "1.png"}',
    "cut short": b'{"text": "a", "ima',
    "no object": b"null",
    "nested deeply": b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a list of lists": b'{"text": [["a"]], "image": "1.png"}',
    "nothing": b'{"text": " ", "image": null}',
}
BAD = [(name, "picture", value) for name, value in BAD_PICTURES.items()]
BAD += [(name, "path", value) for name, value in BAD_PATHS.items()]
BAD += [(name, "line", value) for name, value in BAD_LINES.items()]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The directory of a tiny tokenizer."""
    return handmade.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def tokenize(tokenizer, source, *options):
    """Tokenize a source; what its store says, as (question, runs) with pictures as their codes."""
    target = source.parent / "store"
    command = ["tokenize", "--source", f"{source}", "--tokenizer", f"{tokenizer}", "--target", f"{target}"]
    main([*command, "--held-out", "0", *options])
    store, opened = Store(target), open_tokenizer(tokenizer)
    readings = [opened.read_document(store[i]) for i in range(len(store))]
    assert all(reading.well_formed for reading in readings), [reading.fault for reading in readings]
    return [
        (r.question, tuple(run if isinstance(run, str) else tuple(run.tolist()) for run in r.runs)) for r in readings
    ]


@pytest.fixture(scope="module")
def texts(tokenizer, tmp_path_factory):
    """Every text of KEPT after a store was made of them, as (question, runs)."""
    rows = [{"question": text, "answer": f"{text} {text}"} for text in KEPT.values()]
    source = handmade.parquet(tmp_path_factory.mktemp("texts") / "own.parquet", rows)
    return dict(zip(KEPT, tokenize(tokenizer, source), strict=True))


@pytest.mark.parametrize("name", KEPT)
def test_a_text_is_kept_character_for_character(texts, name):
    assert texts[name] == (KEPT[name], (f"{KEPT[name]} {KEPT[name]}",))


@pytest.fixture(scope="module")
def records(tokenizer, tmp_path_factory):
    """One store of every picture of PICTURES, then of every bad record between two good ones; and what was told.

    → runs of the documents; codes of the plain pictures; lines on stderr.
    """
    directory = tmp_path_factory.mktemp("records") / "own"
    directory.mkdir()
    outside = directory.parent / "outside.png"
    outside.write_bytes(grey(1))
    (directory / "1.png").write_bytes(grey(5))
    (directory / "link.png").symlink_to(outside)
    (directory / "linked").symlink_to(directory.parent)
    lines = []
    for name, (data, _) in PICTURES.items():
        (directory / f"{name}.png").write_bytes(data)
        lines.append({"text": name, "image": f"{name}.png"})
    for i, (_, kind, value) in enumerate(BAD):
        if kind == "picture":
            (directory / f"bad {i}.png").write_bytes(value)
        path = f"bad {i}.png" if kind == "picture" else value
        bad = value if kind == "line" else {"text": "bad", "image": path}
        lines += [{"text": f"before {i}", "image": "1.png"}, bad, {"text": f"after {i}", "image": "1.png"}]
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (directory / "own.jsonl").write_bytes(b"\n".join(encoded))
    told = io.StringIO()
    columns = ("--columns.text", "text", "--columns.picture", "image", "--damaged", "0.5")
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(told):
        patched.setattr(source, "TOLD", len(BAD))
        found = [runs for _, runs in tokenize(tokenizer, directory / "own.jsonl", *columns)]
    plain = open_tokenizer(tokenizer).encode_pictures([grey(5), *(plain for _, plain in PICTURES.values())])
    return found, [tuple(codes) for codes in plain.tolist()], told.getvalue().splitlines()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_kind_is_tokenized_as_it_looks(records, name):
    found, plain, _ = records
    number = list(PICTURES).index(name)
    assert found[number] == (name, plain[1 + number])


@pytest.mark.parametrize("number", range(len(BAD)), ids=[f"{kind}: {name}" for name, kind, _ in BAD])
def test_a_bad_record_is_skipped_and_told_and_the_others_are_kept(records, number):
    found, plain, told = records
    first = len(PICTURES) + 2 * number
    assert found[first : first + 2] == [(f"before {number}", plain[0]), (f"after {number}", plain[0])]
    assert len(found) == len(PICTURES) + 2 * len(BAD)
    assert f"own.jsonl (train): skipped own.jsonl:{len(PICTURES) + 3 * number + 2}: " in told[number]
    assert told[len(BAD) :] == [
        f"{told[-1].split(': ')[0]}: skipped {len(BAD)} of {len(PICTURES) + 3 * len(BAD)} records, damaged"
    ]


def test_an_empty_caption_leaves_the_picture(tmp_path):
    (tmp_path / "1.png").write_bytes(grey(5))
    rows = [{"text": words, "image": "1.png"} for words in ("", " \n ", None)]
    named = ReadSettings(held_out=0, columns=Columns(text="text", picture="image"))
    assert handmade.parts(handmade.json_lines(tmp_path / "own.jsonl", rows), settings=named) == [(grey(5),)] * 3


def test_a_text_that_the_vocabulary_cannot_spell_is_damaged(tmp_path, capsys):
    path = vocabularies.sentencepiece_model(tmp_path / "tokenizer/text.model", byte_fallback=False)
    space = tokens.jam(text=len(SentencePieceText(path).names), codes=16, codes_per_image=4)
    (path.parent / "tokens.json").write_text(space.to_json())
    source = handmade.json_lines(tmp_path / "own.jsonl", [{"text": text} for text in ("The red", "an \u0416", "cat")])
    for shard in ((), ("--shard", "0/1")):
        found = tokenize(path.parent, source, "--damaged", "0.5", *shard)
        assert [text.strip() for _, (text,) in found] == ["The red", "cat"]
        assert "skipped own.jsonl:2: the text tokenizer has no piece for '\u0416'" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "store")


def test_more_damage_than_is_tolerated_leaves_no_store(tmp_path, tokenizer):
    path = handmade.json_lines(tmp_path / "own.jsonl", [{"text": "good"}] * 60 + ["{"])
    with pytest.raises(
        ValueError, match=r"at least 1 of the first 61 records are damaged, more than 1% .* own.jsonl:61"
    ):
        tokenize(tokenizer, path)
    assert not (tmp_path / "store").exists()


def test_the_command_says_what_it_took_the_data_for(tmp_path, tokenizer, capsys):
    path = handmade.json_lines(tmp_path / "own.jsonl", [{"caption": "a", "n": 5}])
    tokenize(tokenizer, path)
    assert capsys.readouterr().out.splitlines()[0] == f"{path} (train): taken for text from 'caption', JSON lines"
