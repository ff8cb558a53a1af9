"""Laws of the decoder: causal, cached equals uncached, float32 where it matters, rematerialisation changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.model_config import BIASES, DecoderConfig, RopeScaling
from jam_jax.models import model, planes
from jam_jax.models.attention import attend, before
from jam_jax.models.decoder import KEPT
from jam_jax.models.layers import rope, rope_frequencies
from jam_jax.trees import like, paths
from tests.tiny import DECODER, FAMILIES, families, forward, randomise

TOKENS = jax.random.randint(jax.random.key(3), (2, 12), 0, DECODER.vocab_size)


@pytest.mark.parametrize("family", families("cm3leon", "opt", "llama", "qwen", "gemma", "biased"))
def test_cached_decoding_equals_the_full_forward(family: str) -> None:
    config = FAMILIES[family]
    params = randomise(model.shapes(config))
    full, _ = forward(config, params, TOKENS)
    # Row 1 is two tokens behind row 0: a cache slot is a position, so rows need not be in step.
    cache = model.empty_cache(config, 2, 12)
    positions = jnp.broadcast_to(jnp.arange(5), (2, 5))
    start, cache = forward(config, params, TOKENS[:, :5], positions, cache)
    np.testing.assert_allclose(start, full[:, :5], atol=2e-5)
    for step in range(5, 12):
        at = jnp.array([[step], [step - 2]])
        logits, cache = forward(config, params, jnp.take_along_axis(TOKENS, at, 1), at, cache)
        np.testing.assert_allclose(logits[0, 0], full[0, step], atol=2e-5)
        np.testing.assert_allclose(logits[1, 0], full[1, step - 2], atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_token_changes_nothing_before_it(family: str) -> None:
    config = FAMILIES[family]
    params = randomise(model.shapes(config))
    before, _ = forward(config, params, TOKENS)
    after, _ = forward(config, params, TOKENS.at[:, 7].add(1) % config.vocab_size)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert jnp.abs(before[:, 7:] - after[:, 7:]).max() > 1e-3


def test_rematerialisation_changes_no_gradient() -> None:
    params = randomise(model.shapes(DECODER))

    def loss(params: dict, config: DecoderConfig) -> jax.Array:
        return jnp.square(forward(config, params, TOKENS)[0]).mean()

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain = gradient(params, DECODER)
    for remat in KEPT:
        again = gradient(params, dataclasses.replace(DECODER, remat=remat))
        jax.tree.map(
            lambda a, b, remat=remat: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=remat),
            plain,
            again,
        )


def test_bfloat16_compute_keeps_float32_parameters_and_logits() -> None:
    config = dataclasses.replace(DECODER, dtype="bfloat16")
    params = model.init(config, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits, cache = forward(config, params, TOKENS[:, :1], jnp.zeros((2, 1), int), model.empty_cache(config, 2, 4))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {planes.kept("bfloat16")}


def test_grouped_heads_equal_repeated_key_value_heads() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 5, n, 8)) for key, n in zip(keys, (6, 2, 2), strict=True))
    seen = before(5)
    repeated = attend(q, jnp.repeat(k, 3, 2), jnp.repeat(v, 3, 2), seen)
    np.testing.assert_allclose(attend(q, k, v, seen), repeated, atol=1e-6)


@pytest.mark.parametrize("family", ["cm3leon", "llama"])
def test_documents_packed_in_a_row_are_as_each_alone(family: str) -> None:
    config = FAMILIES[family]
    params = randomise(model.shapes(config))
    positions = jnp.broadcast_to(jnp.array([*range(5), *range(4), *range(3)]), (2, 12))
    packed, _ = forward(config, params, TOKENS, positions)
    for part in (slice(0, 5), slice(5, 9), slice(9, 12)):
        alone, _ = forward(config, params, TOKENS[:, part])
        np.testing.assert_allclose(packed[:, part], alone, atol=2e-5)


def test_rope_makes_scores_depend_on_distance_alone() -> None:
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 6))

    def score(at_query: int, at_key: int) -> jax.Array:
        turned = [rope(FAMILIES["llama"], x, jnp.full((1, 1), at)) for x, at in ((q, at_query), (k, at_key))]
        return (turned[0] * turned[1]).sum()

    np.testing.assert_allclose(score(9, 4), score(25, 20), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_stretched_frequencies_by_hand() -> None:
    """Wavelengths 2π, 20π and 200π in a context of 100 tokens: kept, blended, divided; and all of them divided."""
    config = dataclasses.replace(DECODER, head_size=6, positions="rope", rope_base=1e3)
    plain = [1.0, 0.1, 0.01]
    np.testing.assert_allclose(rope_frequencies(config), plain, rtol=1e-6)
    linear = dataclasses.replace(config, rope_scaling=RopeScaling("linear", 4.0))
    np.testing.assert_allclose(rope_frequencies(linear), np.divide(plain, 4), rtol=1e-6)
    stretch = RopeScaling("llama3", 8.0, low=1.0, high=3.0, original_positions=100)
    llama3 = dataclasses.replace(config, rope_scaling=stretch)
    kept = (100 / (20 * np.pi) - 1) / 2
    np.testing.assert_allclose(rope_frequencies(llama3), [1.0, 0.1 * (kept + (1 - kept) / 8), 0.01 / 8], rtol=1e-6)


@pytest.mark.parametrize(("family", "bias"), [*(("llama", bias) for bias in BIASES), ("opt", "all")])
def test_each_bias_moves_the_logits_and_there_are_no_others(family: str, bias: str) -> None:
    config = dataclasses.replace(FAMILIES[family], bias=bias, qk_norm="none", layers=1)
    params = randomise(model.shapes(config))
    flat = paths(params)
    found = {path.rpartition("/")[2].removesuffix("_bias") for path in flat if path.endswith("_bias")}
    gated = config.ffn.endswith("gated")
    assert found == {name for name in BIASES[bias] if gated or name != "gate"}
    before, _ = forward(config, params, TOKENS)
    # A bias of the keys adds the same to all scores of a query; only the rotary embedding lets it be seen.
    for name in found - ({"k"} if config.positions == "learned" else set()):
        path = next(path for path in flat if path.endswith(f"/{name}_bias"))
        moved = flat[path] + jax.random.normal(jax.random.key(1), flat[path].shape)
        after, _ = forward(config, like(params, flat | {path: moved}), TOKENS)
        assert jnp.abs(before - after).max() > 1e-3, path


def test_outputs_start_at_zero_and_weights_within_three_deviations() -> None:
    params = paths(model.init(DECODER, jax.random.key(0)))
    assert not params["layers/attn/o"].any() and not params["layers/ffn/down"].any()
    assert 0.004 < params["layers/attn/q"].std() < 0.0065
    assert jnp.abs(params["embed/tokens"]).max() <= 3 * DECODER.init_std


def test_mistaken_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        dataclasses.replace(DECODER, kv_heads=3)
    with pytest.raises(ValueError, match="even head_size"):
        dataclasses.replace(DECODER, head_size=5, positions="rope")
    with pytest.raises(ValueError, match="rope_scaling is of rotary positions"):
        dataclasses.replace(DECODER, rope_scaling=RopeScaling("linear", 2.0))
    for changes in ({"factor": 0.0}, {"low": 4.0}, {"original_positions": 0}, {"factor": float("nan")}):
        with pytest.raises(ValueError, match="rope_scaling needs|original_positions must be at least 1"):
            RopeScaling("llama3", **changes)  # type: ignore[arg-type]
