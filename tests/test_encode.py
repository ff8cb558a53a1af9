"""Documents as vectors: those of CLIP's two encoders, averaged, whatever the batches and the devices."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jam_jax import checkpoint
from jam_jax.data.clip_pictures import clip_pictures
from jam_jax.models import clip
from jam_jax.retrieval import encode
from jam_jax.retrieval.encode import Encoder, unit
from tests.banks import VQGAN, clip_model, documents, random_params
from tests.training import devices_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(clip_model(tmp_path_factory.mktemp("encode") / "clip"))


@pytest.fixture(scope="module")
def known(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of all texts and of all pictures, by the model itself."""
    params = checkpoint.load_model(encoder.directory)[1]
    texts = [d.texts[0] for d in documents() if d.texts]
    pictures = [d.pictures[0] for d in documents() if d.pictures]
    rows = encoder.tokenizer.encode(texts, encoder.config.context)
    of_text = jax.jit(clip.embed_texts, static_argnums=0)(encoder.config, params, rows)
    pixels = clip_pictures(encoder.config, pictures)
    return np.asarray(of_text), np.asarray(
        jax.jit(clip.embed_pictures, static_argnums=0)(encoder.config, params, pixels)
    )


def test_a_document_is_the_mean_of_its_text_and_its_pictures_at_length_1(encoder: Encoder, known) -> None:
    texts, pictures = known
    found = encoder.documents([d.texts[0] if d.texts else "" for d in documents()], [d.pictures for d in documents()])
    assert found.dtype == np.float32 and found.shape == (18, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    both = texts[:16] + pictures[:16]
    np.testing.assert_allclose(found[:16], both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(found[16], texts[16], atol=1e-5)  # only a text
    np.testing.assert_allclose(found[17], pictures[16], atol=1e-5)  # only a picture
    several = encoder.documents(["a red square at 0"], [[d.pictures[0] for d in documents()[:3]]])
    expected = unit(unit(pictures[:3].sum(0)) + texts[0])
    np.testing.assert_allclose(several[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match="document 1 has neither a text nor a picture"):
        encoder.documents(["a", "  "], [[], []])


def test_batches_change_nothing(encoder: Encoder, known, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [d.texts[0] for d in documents() if d.texts]
    monkeypatch.setattr(encode, "BATCH", 4)
    np.testing.assert_allclose(encoder.texts(texts), known[0], atol=1e-5)
    np.testing.assert_allclose(encoder.texts(texts[4:5]), known[0][4:5], atol=1e-5)
    np.testing.assert_allclose(encoder.pictures([d.pictures[0] for d in documents()[:5]]), known[1][:5], atol=1e-5)
    assert encoder.texts([]).shape == encoder.pictures([]).shape == (0, 16)


def test_what_is_dropped_is_a_share_of_the_text_alone(encoder: Encoder) -> None:
    rows = encoder.tokenizer.encode(["a red square at 0", "", "square " * 50], encoder.config.context)
    end, start = encoder.tokenizer.end, encoder.tokenizer.start
    rngs = [np.random.default_rng(i) for i in range(3)]
    found = encoder.dropped(rows, 0.4, rngs)
    assert found.shape == rows.shape
    for row, dropped in zip(rows, found, strict=True):
        before, after = (r[1 : (r == end).argmax()].tolist() for r in (row, dropped))
        assert len(after) == len(before) - round(0.4 * len(before))
        left = iter(before)
        assert all(token in left for token in after)  # in their order
        assert dropped[0] == start and (dropped[1 + len(after) :] == end).all()
    again = encoder.dropped(rows, 0.4, [np.random.default_rng(9 + i) for i in range(3)])
    assert (again[2] == found[2]).all() and (again[0] != found[0]).any()  # other tokens of a text, another time


def test_a_fingerprint_is_that_of_the_weights(encoder: Encoder, tmp_path: Path) -> None:
    config, params = checkpoint.load_model(encoder.directory)
    text = encoder.directory / "tokenizer"
    checkpoint.save_model(tmp_path / "same", dataclasses.replace(config, dtype="bfloat16"), params, tokenizer=text)
    assert Encoder(tmp_path / "same").fingerprint == encoder.fingerprint
    params["image"]["layers"]["ffn"]["up"] = params["image"]["layers"]["ffn"]["up"].at[0, 0, 0].add(1e-3)
    checkpoint.save_model(tmp_path / "other", config, params, tokenizer=text)
    assert Encoder(tmp_path / "other").fingerprint != encoder.fingerprint


def test_what_is_no_clip_is_named(encoder: Encoder, tmp_path: Path) -> None:
    checkpoint.save_model(tmp_path / "vqgan", VQGAN, random_params(checkpoint.shapes(VQGAN), 0.3))
    with pytest.raises(ValueError, match="vqgan is an image tokenizer, no CLIP"):
        Encoder(tmp_path / "vqgan")
    with pytest.raises(ValueError, match="nowhere is no model directory"):
        Encoder(tmp_path / "nowhere")
    config, params = checkpoint.load_model(encoder.directory)
    checkpoint.save_model(tmp_path / "silent", config, params)
    with pytest.raises(ValueError, match="holds no tokenizer of CLIP"):
        Encoder(tmp_path / "silent")


def test_eight_devices_give_the_vectors_of_one(encoder: Encoder, known, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from jam_jax.retrieval.encode import Encoder; from tests.banks import documents\n"
        "e = Encoder(sys.argv[1]); assert e.mesh.size == 8\n"
        "np.save(sys.argv[2], e.texts([d.texts[0] for d in documents() if d.texts]))\n"
    )
    command = [sys.executable, "-c", code, str(encoder.directory), str(tmp_path / "found.npy")]
    subprocess.run(command, check=True, cwd=ROOT, env=devices_of(8) | {"PYTHONPATH": str(ROOT)})
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), known[0], atol=1e-4)
