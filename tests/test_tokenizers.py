"""Tokenizers: any text comes back and can forge nothing, pictures go round, documents keep their order."""

import dataclasses
import io
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jam_jax import checkpoint, tokens
from jam_jax.config import DecoderConfig, ModelConfig, VqganConfig
from jam_jax.data.documents import Document
from jam_jax.data.sentencepiece_text import train_text_tokenizer
from jam_jax.data.store import Store, write_store
from jam_jax.data.tokenizers import Tokenizer, build_tokenizer, names, open_tokenizer
from jam_jax.models import vqgan
from tests.training import devices_of

VQGAN = VqganConfig(
    resolution=8,
    channels=4,
    multipliers=(1, 1, 1),
    res_blocks=1,
    attn_resolutions=(),
    groups=2,
    z_channels=4,
    codes=16,
    code_width=4,
)


def random_params(config: ModelConfig = VQGAN) -> dict:
    """Parameters drawn here: a model's own initialisation compiles for seconds."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), checkpoint.shapes(config))


TEXTS = [
    f"A {size} {colour} {shape} is {place} a {other}.\nDraw the {other} first!"
    for size, colour, shape, place, other in itertools.product(
        ("small", "large"), ("red", "blue"), ("circle", "square"), ("above", "beside"), ("star", "ring")
    )
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tokenizer")
    train_text_tokenizer(TEXTS, root / "text.model", vocab=400)
    checkpoint.save_model(root / "vqgan", VQGAN, random_params())
    build_tokenizer(root / "tokenizer", root / "text.model", root / "vqgan", sentinels=8)
    return root


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return open_tokenizer(directory / "tokenizer")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FORGED = ["<break>", "</s>", "<s>", "<pad>", "<unk>", "<mask:0>", "<eoss>", "<0x41>", "</s> <break> <mask:0> x </s>"]


@pytest.mark.parametrize(
    "text",
    [
        *FORGED,
        "",
        " ",
        "A small red circle is above a star.",
        "  two  spaces,\ta tab and\r\nlines\n\n",
        "日本語 🎉 café ＡＢＣ ﬁ \u0301",
        "SentencePiece's own space ▁ and ▁▁ two, and one at the end ▁",
        "▁",
        "\x00\x01\x7f \ufeff \u2028 \ufffd",
        "ABC" * 200,
    ],
)
def test_any_text_comes_back_and_can_forge_nothing(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_text(text)
    assert all(tokenizer.space.modality[i] == tokens.TEXT for i in ids)
    assert tokenizer.decode_text(ids) == text
    document = tokenizer.read_document([*ids, tokenizer.space.end_of_document])
    assert document.runs == ((text,) if text else ())


def test_every_character_comes_back(tokenizer: Tokenizer) -> None:
    points = [*range(0x300), *range(0x2570, 0x25A0), *range(0x1F600, 0x1F610), 0x10FFFF]
    text = "".join(map(chr, points))
    assert tokenizer.decode_text(tokenizer.encode_text(text)) == text


def test_known_words_are_few_pieces(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode_text("A small red circle is above a star.")) <= 9


def test_ids_that_are_no_text_are_told(tokenizer: Tokenizer) -> None:
    for wrong in (-1, 0, 2, 3, tokenizer.space.start_of_image, tokenizer.space.image_ids[0], 10**6):
        with pytest.raises(ValueError, match=f"id {wrong} is no text"):
            tokenizer.decode_text([5, wrong])


def test_the_vocabulary_adapts_to_the_text(tmp_path: Path) -> None:
    assert train_text_tokenizer(TEXTS, tmp_path / "a", vocab=320) == 320
    small = train_text_tokenizer(["one red dot"], tmp_path / "b", vocab=5000)
    assert 261 < small < 300  # what one line is good for
    many = train_text_tokenizer([" ".join(map(chr, range(0x4E00, 0x5000)))], tmp_path / "c", vocab=300)
    assert 270 < many <= 300  # more characters than pieces: the rest are bytes
    train_text_tokenizer(TEXTS, tmp_path / "d", vocab=320)
    assert (tmp_path / "d").read_bytes() == (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="no text to train"):
        train_text_tokenizer(["", " \n"], tmp_path / "e")
    with pytest.raises(ValueError, match="more than 261 pieces, got 200"):
        train_text_tokenizer(TEXTS, tmp_path / "e", vocab=200)
    assert not (tmp_path / "e").exists()


def test_the_token_space_is_laid_out_as_in_the_paper(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.space.text[1]
    expected = tokens.jam(text=pieces, codes=16, codes_per_image=4, sentinels=8, pad_to=32)
    assert tokenizer.space == dataclasses.replace(expected, contents=tokenizer.space.contents)
    assert len(tokenizer.space.contents) == 16
    assert tokens.load(tokenizer.directory) == tokenizer.space
    found = names(tokenizer.directory)
    assert len(found) == tokenizer.space.vocab_size and found[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert found[pieces : pieces + 2] == ["IMGIMGAZ", "IMGIMGBZ"] and found[pieces + 15] == "IMGIMGBFZ"
    assert found[pieces + 16 : pieces + 20] == ["<break>", "<eoss>", "<mask:0>", "<mask:1>"]
    assert found[pieces + 26 :] == [None] * (len(found) - pieces - 26)


def test_pictures_go_round_whatever_the_batch(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    params = random_params()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    expected = np.asarray(
        jax.jit(vqgan.encode, static_argnums=0)(VQGAN, params, vqgan.from_pixels(jnp.asarray(pixels)))
    )
    monkeypatch.setattr(tokenizer.image, "batch", 2)
    codes = tokenizer.encode_pictures(pixels)
    assert (codes.dtype, codes.shape) == (np.int32, (5, 4))
    assert np.array_equal(codes, expected)
    files = [np.asarray(Image.open(io.BytesIO(picture(i)))) for i in range(3)]
    assert np.array_equal(
        tokenizer.encode_pictures([picture(i) for i in range(3)]), tokenizer.encode_pictures(np.stack(files))
    )
    decoded = tokenizer.decode_codes(codes)
    assert (decoded.dtype, decoded.shape) == (np.uint8, (5, 8, 8, 3))
    wanted = np.asarray(vqgan.to_pixels(jax.jit(vqgan.decode, static_argnums=0)(VQGAN, params, jnp.asarray(expected))))
    assert np.abs(decoded.astype(int) - wanted).max() <= 1
    assert tokenizer.encode_pictures([]).shape == (0, 4)
    assert tokenizer.decode_codes(np.zeros((0, 4), int)).shape == (0, 8, 8, 3)
    with pytest.raises(ValueError, match=r"uint8 \[B, 8, 8, 3\], got uint8 \[2, 4, 4, 3\]"):
        tokenizer.encode_pictures(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="codes go from 0 to 15, got some from 0 to 16"):
        tokenizer.decode_codes(np.array([[0, 1, 2, 16]]))


def test_documents_keep_their_order(tokenizer: Tokenizer) -> None:
    space = tokenizer.space
    end, brk, mask = space.end_of_document, space.start_of_image, space.sentinel(0)
    a, b, q = (tokenizer.encode_text(t) for t in ("a star", "a ring", "Draw!"))
    x, y = ([space.image_ids[c] for c in row] for row in tokenizer.encode_pictures([picture(0), picture(1)]))
    table: list[tuple[tuple[str | bytes, ...], str, list[int]]] = [
        (("a star",), "", [*a, end]),
        (("a star", picture(0)), "", [*a, brk, *x, end]),
        (("a star", picture(0), "a ring"), "", [*a, brk, *x, brk, *b, end]),
        (("a star", picture(0), "a ring", picture(1)), "", [*a, brk, *x, brk, *b, brk, *y, end]),
        ((picture(0), "a star"), "", [brk, *x, brk, *a, end]),
        ((picture(0), picture(1)), "", [brk, *x, brk, brk, *y, end]),
        (("a star", picture(1)), "Draw!", [*q, mask, end, *a, brk, *y, end]),
    ]
    documents = [Document(parts, question) for parts, question, _ in table]
    for document, (parts, question, ids) in zip(documents, table, strict=True):
        assert tokenizer.encode_document(document) == ids
        for row in (ids, [end, *ids], [end, *ids, space.pad, space.pad]):
            reading = tokenizer.read_document(row)
            assert reading.well_formed, reading.fault
            assert reading.question == question
            assert [r if isinstance(r, str) else "picture" for r in reading.runs] == [
                p if isinstance(p, str) else "picture" for p in parts
            ]
            codes = [space.code_of_id[row] for row, p in ((x, picture(0)), (y, picture(1))) if p in parts]
            assert [c.tolist() for c in reading.pictures] == [c.tolist() for c in codes]
    together = list(tokenizer.encode_documents(documents))
    assert [ids.tolist() for ids, _ in together] == [ids for _, _, ids in table]
    assert [prompt for _, prompt in together] == [0] * 6 + [len(q) + 2]


def test_a_picture_at_the_end_is_closed_where_the_vocabulary_says_so(tokenizer: Tokenizer) -> None:
    jam = tokenizer.space
    end_of_image = jam.sentinels[1] - 1
    layout = (jam.start_of_image, tokens.CODE, tokens.CODE, 3, tokens.CODE, tokens.CODE, 3)  # rows closed by id 3
    two = dataclasses.replace(jam, end_of_image=end_of_image, picture_layout=layout, picture_closers=(end_of_image,))
    other = open_tokenizer(tokenizer.directory)
    other.space = two
    codes = [jam.image_ids[c] for c in other.encode_pictures([picture(0)])[0]]
    ids = other.encode_document(Document((picture(0),)))
    assert ids == [jam.start_of_image, *codes[:2], 3, *codes[2:], 3, end_of_image, 2]
    assert other.read_document(ids).well_formed
    assert not tokenizer.read_document(ids).well_formed


def test_what_breaks_the_grammar_is_told(tokenizer: Tokenizer) -> None:
    space = tokenizer.space
    end, brk = space.end_of_document, space.start_of_image
    a = tokenizer.encode_text("a star")
    x = list(space.image_ids[:4])
    table: list[tuple[list[int], str, list[str]]] = [
        (a, "does not end", ["a star"]),
        ([], "does not end", []),
        ([end, end], "is empty", []),
        ([*a, brk, *x[:3], end], "breaks off after 3 of 4", ["a star"]),
        ([*a, brk, *x, *a, end], "is not closed", ["a star", "picture", "a star"]),
        ([*a, brk, *x[:2], brk, *x, end], "breaks off after 2 of 4", ["a star", "picture"]),
        ([*a, x[0], end], f"id {x[0]} stands where text should be", ["a star"]),
        ([*a, space.sentinel(1), end], "stands where text should be", ["a star"]),
        ([*a, end, *a], "something follows", ["a star"]),
        ([*a, -7, 10**9, end], "id -7 stands", ["a star"]),
        ([*x, space.sentinel(0), end, *a, end], "the question holds", ["a star"]),
    ]
    for ids, fault, runs in table:
        reading = tokenizer.read_document(ids)
        assert fault in reading.fault, (ids, reading)
        assert not reading.well_formed
        assert [r if isinstance(r, str) else "picture" for r in reading.runs] == runs


def test_a_store_is_written_from_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    documents = [Document((f"a star {i}", picture(i))) for i in range(5)] + [Document(("a ring",), "What is it?")]
    store = write_store(tmp_path / "s", iter(documents), tokenizer, total=6, source="made up")
    assert [store[i].tolist() for i in range(6)] == [tokenizer.encode_document(d) for d in documents]
    assert store.lengths[:, 1].tolist() == [0] * 5 + [len(tokenizer.encode_text("What is it?")) + 2]
    assert store.manifest["tokenizer"] == str(tokenizer.directory.resolve())
    Store(tmp_path / "s").check(tokenizer.space)


def test_parts_that_are_missing_or_do_not_fit_are_told(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no tokens\.json"):
        open_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="there is no text tokenizer"):
        build_tokenizer(tmp_path / "t", tmp_path / "no.model", directory / "vqgan")
    (tmp_path / "bad.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="is no SentencePiece model"):
        build_tokenizer(tmp_path / "t", tmp_path / "bad.model", directory / "vqgan")
    decoder = DecoderConfig(vocab_size=11, layers=1, width=4, heads=1, head_size=4, ffn_width=4, max_positions=4)
    checkpoint.save_model(tmp_path / "decoder", decoder, random_params(decoder))
    with pytest.raises(ValueError, match="is no image tokenizer: it holds a DecoderConfig"):
        build_tokenizer(tmp_path / "t", directory / "text.model", tmp_path / "decoder")
    assert not (tmp_path / "t").exists()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "tokens.json").write_text(tokens.jam(text=300, codes=16, codes_per_image=4).to_json())
    (tmp_path / "torn" / "text.model").write_bytes((directory / "text.model").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged: text\.model has"):
        open_tokenizer(tmp_path / "torn")


def test_pictures_are_spread_over_all_devices_and_their_codes_stay_the_same(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3000, 8, 8, 3), np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    script = """
import sys
import numpy as np
from jam_jax.data.tokenizers import open_tokenizer
image = open_tokenizer(sys.argv[1]).image
print(image.batch)
np.save(sys.argv[3], image.encode(np.load(sys.argv[2])))
"""
    files = [str(tmp_path / f"{name}.npy") for name in ("pictures", "codes")]
    call = [sys.executable, "-c", script, str(tokenizer.directory), *files]
    done = subprocess.run(call, env=devices_of(4), capture_output=True, text=True, check=True)
    assert int(done.stdout) == 4 * tokenizer.image.batch
    codes = np.load(tmp_path / "codes.npy")
    assert (codes == tokenizer.encode_pictures(pictures)).mean() > 0.999  # fused otherwise, a tie may fall otherwise
