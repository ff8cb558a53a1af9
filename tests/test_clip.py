"""CLIP's laws: what a text or a picture becomes depends on it alone, and training can pull pairs together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jam_jax
from jam_jax import checkpoint, sharding
from jam_jax.config import Config
from jam_jax.model_config import ClipConfig, TowerConfig
from jam_jax.models import clip
from jam_jax.train import train
from jam_jax.trees import paths

# Widths, heads and counts that differ everywhere, so that a swapped axis shows.
CONFIG = ClipConfig(
    text=TowerConfig(layers=2, width=12, heads=3, ffn_width=20),
    image=TowerConfig(layers=3, width=10, heads=2, ffn_width=14, activation="gelu"),
    vocab_size=23,
    context=9,
    resolution=12,
    patch=4,
    embed_width=7,
)
texts = jax.jit(clip.embed_texts, static_argnums=0)
pictures = jax.jit(clip.embed_pictures, static_argnums=0)


@pytest.fixture(scope="module")
def params() -> dict:
    """Every leaf random, so that zeros and ones of an init hide nothing; drawn by NumPy, which compiles nothing."""
    rng = np.random.default_rng(2)
    draw = lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, checkpoint.shapes(CONFIG))


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    tokens = np.random.default_rng(0).integers(0, 20, (4, 9)).astype(np.int32)
    tokens[np.arange(4), [3, 8, 5, 4]] = 22  # the highest id: the end of a text
    return tokens


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 12, 12, 3)).astype(np.float32)


def test_the_default_is_vit_b_32() -> None:
    assert sum(leaf.size for leaf in jax.tree.leaves(checkpoint.shapes(ClipConfig()))) == 151_277_313


def test_vectors_are_float32_of_length_1(params: dict, tokens: np.ndarray, pixels: np.ndarray) -> None:
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(CONFIG, dtype=dtype)
        for found in (texts(config, params, tokens), pictures(config, params, pixels)):
            assert found.shape == (4, 7) and found.dtype == jnp.float32
            np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, atol=1e-5)
    # bfloat16 keeps 8 bits of the states.
    coarse = texts(dataclasses.replace(CONFIG, dtype="bfloat16"), params, tokens)
    assert 0.99 < (coarse * texts(CONFIG, params, tokens)).sum(1).min() < 1


def test_what_follows_the_end_of_a_text_changes_nothing(params: dict, tokens: np.ndarray) -> None:
    found = texts(CONFIG, params, tokens)
    changed = tokens.copy()
    changed[0, 4:], changed[2, 6:], changed[3, 5:] = 22, 1, [0, 22, 3, 22]
    np.testing.assert_array_equal(texts(CONFIG, params, changed), found)
    np.testing.assert_allclose(texts(CONFIG, params, tokens[:, :6])[0], found[0], atol=1e-6)  # nor does its absence
    changed = tokens.copy()
    changed[:, 1] = 21
    assert np.abs(texts(CONFIG, params, changed) - found).max(1).min() > 1e-4


def test_a_text_is_read_off_at_its_first_end_or_its_first_highest_id(params: dict, tokens: np.ndarray) -> None:
    ended = dataclasses.replace(CONFIG, end_of_text=7)
    rows = np.array([[3, 22, 7, 22, 7, 9, 0, 0, 0], [3, 22, 7, 1, 1, 1, 1, 1, 1], [3, 22, 22] + 6 * [1]] * 2, np.int32)
    highest, first_end = texts(CONFIG, params, rows[:4]), texts(ended, params, rows[:4])
    for row in (1, 2):
        np.testing.assert_allclose(highest[row], highest[0], atol=1e-6)
    np.testing.assert_allclose(first_end[1], first_end[0], atol=1e-6)
    assert np.abs(first_end - highest)[0].max() > 1e-3


def test_a_patch_counts_wherever_it_lies(params: dict, pixels: np.ndarray) -> None:
    found = pictures(CONFIG, params, pixels)
    for row in range(3):
        for column in range(3):
            changed = pixels.copy()
            changed[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
            assert np.abs(pictures(CONFIG, params, changed) - found).max(1).min() > 1e-4
    assert np.abs(pictures(CONFIG, params, pixels.swapaxes(1, 2)) - found).max(1).min() > 1e-4


def test_logits_are_products_over_the_temperature() -> None:
    a, b = np.eye(7, dtype=np.float32)[:3], np.eye(7, dtype=np.float32)[1:3]
    np.testing.assert_allclose(clip.logits({"logit_scale": jnp.log(20.0)}, a, b), 20 * (a @ b.T), rtol=1e-6)


@pytest.mark.long
def test_a_contrastive_loss_pulls_pairs_together(tokens: np.ndarray, pixels: np.ndarray) -> None:
    config = dataclasses.replace(CONFIG, remat="full")

    @jax.jit
    @jax.value_and_grad
    def loss_and_grads(params: dict) -> jax.Array:
        vectors = clip.embed_texts(config, params, tokens), clip.embed_pictures(config, params, pixels)
        scores = clip.logits(params, *vectors)
        rows, columns = jax.nn.logsumexp(scores, axis=1), jax.nn.logsumexp(scores, axis=0)
        return ((rows + columns) / 2 - jnp.diagonal(scores)).mean()

    params = clip.init(config, jax.random.key(0))
    np.testing.assert_allclose(np.exp(params["logit_scale"]), 1 / 0.07, rtol=1e-5)
    losses = []
    for _ in range(40):
        loss, grads = loss_and_grads(params)
        losses.append(float(loss))
        still = [path for path, leaf in paths(grads).items() if not np.abs(leaf).max() > 0]
        assert not still, "every parameter takes part"
        params = jax.tree.map(lambda p, g: np.asarray(p) - 0.03 * np.asarray(g), params, grads)
    assert losses[0] > 0.5 and losses[-1] < losses[0] / 10


def test_every_parameter_matches_exactly_one_row_of_the_sharding_table() -> None:
    for path, leaf in paths(checkpoint.shapes(CONFIG)).items():
        axes = sharding.parameter_axes(path, leaf.ndim)
        assert len(axes) == leaf.ndim and ("layers" in axes) == ("layers/" in path)


def test_other_shapes_and_sizes_are_told(params: dict) -> None:
    with pytest.raises(ValueError, match=r"reads pictures \[B, 12, 12, 3\], got \[1, 8, 8, 3\]"):
        clip.embed_pictures(CONFIG, params, jnp.zeros((1, 8, 8, 3)))
    for shape in ((1, 10), (1, 0), (4,)):
        with pytest.raises(ValueError, match=r"reads texts \[B, 1 to 9\], got"):
            clip.embed_texts(CONFIG, params, jnp.zeros(shape, jnp.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 5}, "resolution 12 does not divide by patch 5"),
        ({"end_of_text": 23}, "end_of_text must be an id from 0 to 22, got 23"),
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"std": (1.0, 0.0, 1.0)}, "std positive"),
        ({"mean": (0.5,)}, "mean and std are three numbers each"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
    with pytest.raises(ValueError, match=r"width \(12\) must be a multiple of heads \(5\)"):
        dataclasses.replace(CONFIG.text, heads=5)


def test_a_clip_is_saved_and_loaded_and_is_no_language_model(params: dict, tmp_path) -> None:
    checkpoint.save_model(tmp_path / "clip", CONFIG, params)
    config, loaded = checkpoint.load_model(tmp_path / "clip")
    assert config == CONFIG
    for path, leaf in paths(loaded).items():
        np.testing.assert_array_equal(leaf, paths(params)[path])
    with pytest.raises(ValueError, match="clip is a CLIP, not a language model"):
        jam_jax.load(tmp_path / "clip")
    with pytest.raises(ValueError, match="a CLIP needs captioned pictures: give directories with --data.pictures"):
        train(Config(out=str(tmp_path / "run"), model=CONFIG))
    assert not (tmp_path / "run").exists()
