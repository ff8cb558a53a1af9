"""Parameters as they decode: the same model layer by layer, and near it in fewer bits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import streaming
from jam_jax.decode import engine, score, weights
from jam_jax.models import few_rows, model
from jam_jax.models.cached import Wanted
from tests.tiny import CROSS, DECODER, FAMILIES, forward, randomise
from tests.uncached import CONFIGS, GUIDED, JAM, PARAMS, PROMPTS, TINY

TOKENS = jax.random.randint(jax.random.key(3), (2, 12), 0, DECODER.vocab_size)
MODELS = {**FAMILIES, "cross": CROSS, "no cross blocks": dataclasses.replace(CROSS, every=0)}


@functools.partial(jax.jit, static_argnums=0)
def logits(config: model.LanguageConfig, params: dict) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(12), (2, 12))
    return model.forward(config, params, TOKENS, positions, model.empty_cache(config, 2, 12))[0]


def paths(tree: dict) -> dict[str, jax.Array]:
    """Leaves by path, through tuples of layers too."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): leaf for path, leaf in flat}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("image", "other"), [(True, False), (False, True), (True, True)])
def test_logits_that_are_not_wanted_are_not_computed_and_the_others_are_the_same(
    precision: weights.Precision, image: bool, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_rows, "LEAST", 0)
    config, ready = weights.prepare(DECODER, randomise(model.shapes(DECODER)), precision, rows=1)
    asked = (TOKENS[:1, :1], jnp.zeros((1, 1), jnp.int32), model.empty_cache(config, 1, 4))
    codes = np.isin(np.arange(DECODER.vocab_size), np.arange(7, 20))

    @jax.jit
    def step(image: bool, other: bool) -> tuple[jax.Array, jax.Array]:
        wanted = Wanted(7, 20, image, other)
        return model.forward(config, ready, *asked, wanted)[0], model.forward(config, ready, *asked)[0]

    found, everything = step(image, other)
    np.testing.assert_allclose(found, np.where(codes & image | ~codes & other, everything, -np.inf), rtol=1e-5)


@pytest.mark.parametrize("rows", [None, 1, 2])
@pytest.mark.parametrize("name", ["gemma", "biased", "qwen", "llama", "cross"])
def test_prepared_parameters_compute_the_same(name: str, rows: int | None) -> None:
    params = randomise(model.init(MODELS[name], jax.random.key(0)))
    config, ready = weights.prepare(MODELS[name], params, rows=rows)
    assert config == MODELS[name] and weights.is_ready(ready) and not weights.is_ready(params)
    assert any("qkv" in path for path in paths(ready)) == (rows is not None)
    np.testing.assert_allclose(logits(config, ready), forward(config, params, TOKENS)[0], atol=2e-4)


@pytest.mark.parametrize("precision", ["model", "int8"])
@pytest.mark.parametrize("rows", [1, None])
@pytest.mark.parametrize("name", ["gemma", "biased", "cross", "no cross blocks"])
def test_leaves_read_one_by_one_are_prepared_to_the_bit(
    name: str, rows: int | None, precision: weights.Precision
) -> None:
    params = randomise(model.init(MODELS[name], jax.random.key(0)))

    def leaf(array: jax.Array) -> streaming.Leaf:
        """A leaf that is read in two blocks, as one on disk may have to be."""
        whole = streaming.of_array(array)
        return dataclasses.replace(whole, block=((whole.shape[0] + 1) // 2, *whole.shape[1:]))

    config, ready = weights.prepare_leaves(MODELS[name], jax.tree.map(leaf, params), precision, rows=rows)
    expected = weights.prepare(MODELS[name], params, precision, rows=rows)
    assert config == expected[0] and weights.is_ready(ready)
    jax.tree.map(np.testing.assert_array_equal, ready, expected[1])
    assert jax.tree.structure(ready) == jax.tree.structure(expected[1])


@pytest.mark.parametrize("name", ["cm3leon", "cross"])
def test_eight_bits_are_the_matrix_to_half_a_step(name: str) -> None:
    params = randomise(model.init(MODELS[name], jax.random.key(0)))
    config, ready = weights.prepare(MODELS[name], params, "int8")
    rounded = restored(ready)
    _, plain = weights.prepare(MODELS[name], params)
    flat, steps = paths(rounded), {k: v for k, v in paths(ready).items() if k.endswith("_step")}
    assert len(steps) == sum(path.split("/")[-1] in {*weights.MATRICES, *weights.TABLES} for path in flat)
    for path, value in paths(plain).items():
        if path + "_step" not in steps:
            np.testing.assert_array_equal(flat[path], value)
            continue
        assert np.abs(flat[path] - value).max() <= 0.51 * steps[path + "_step"].max()
        assert paths(ready)[path].dtype == jnp.int8
    # What is computed is what the rounded matrices give.
    np.testing.assert_allclose(logits(config, ready), logits(config, rounded), atol=3e-4)


def restored(tree: dict) -> dict:
    """Matrices of 8 bits as float32."""
    if isinstance(tree, tuple):
        return tuple(restored(part) for part in tree)  # type: ignore[return-value]
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict | tuple):
            found[name] = restored(value)
        elif name + "_step" in tree:
            shape = list(value.shape)
            for axis in range(weights.MATRICES[name]) if name in weights.MATRICES else [-1]:
                shape[axis] = 1
            found[name] = value.astype(np.float32) * tree[name + "_step"].reshape(shape)
        elif not name.endswith("_step"):
            found[name] = value
    return found


@pytest.mark.parametrize("name", ["decoder", "cross"])
@pytest.mark.long
def test_eight_bits_decode_as_the_rounded_model(name: str) -> None:
    config, ready = weights.prepare(CONFIGS[name], PARAMS[name], "int8")
    _, whole = weights.prepare(CONFIGS[name], PARAMS[name], "int8")
    found = engine.generate(config, ready, JAM, PROMPTS, GUIDED, seed=2)
    assert found == engine.generate(config, restored(whole), JAM, PROMPTS, GUIDED, seed=2)


def test_bfloat16_decodes_in_bfloat16() -> None:
    config, ready = weights.prepare(TINY, PARAMS["decoder"], "bfloat16")
    assert config == dataclasses.replace(TINY, dtype="bfloat16")
    kinds = {path.rpartition("/")[2]: leaf.dtype for path, leaf in paths(ready).items()}
    assert {kinds[name] for name in ("q", "o", "up", "tokens")} == {jnp.dtype("bfloat16")}
    assert kinds["positions"] == jnp.float32
    alone = engine.generate(config, ready, JAM, PROMPTS[:1], GUIDED, seed=2)
    assert engine.generate(config, ready, JAM, PROMPTS, GUIDED, seed=2)[:1] == alone
    exact = score.nll(TINY, PARAMS["decoder"], [2, *range(4, 20)])
    assert 0 < np.abs(score.nll(config, ready, [2, *range(4, 20)]) - exact).max() < 0.3


def test_a_model_in_bfloat16_keeps_its_dtype_unless_told() -> None:
    half = dataclasses.replace(TINY, dtype="bfloat16")
    assert weights.prepare(half, PARAMS["decoder"])[1]["layers"][0]["attn"]["q"].dtype == jnp.bfloat16
    config, ready = weights.prepare(half, PARAMS["decoder"], "float32")
    assert config == TINY and ready["layers"][0]["attn"]["q"].dtype == jnp.float32
