"""Laws of JAM-Cross: cached equals uncached at any depth, causal, and zeroed cross blocks leave the parents' states.

Random blocks amplify rounding, so logits are compared to 2e-4; a wrong law is off by 0.1 or more.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.config import CrossConfig
from jam_jax.models import cross, decoder, model
from tests.tiny import DECODER, FAMILIES, families, forward, randomise

run_towers = jax.jit(cross.run_towers, static_argnums=0)
run_layers = jax.jit(decoder.run_layers, static_argnums=0)
cross_block = jax.jit(cross.cross_block, static_argnums=0)

TOKENS = jax.random.randint(jax.random.key(3), (2, 10), 0, DECODER.vocab_size)
POSITIONS = jnp.broadcast_to(jnp.arange(10), (2, 10))


def towers(layers: int, every: int, family: str = "cm3leon") -> CrossConfig:
    tower = dataclasses.replace(FAMILIES[family], layers=layers)
    return CrossConfig(tower, tower, every)


@pytest.mark.parametrize(
    ("layers", "every", "blocks"),
    [
        *[(3, 2, 2), (4, 1, 4), (2, 4, 1), (3, 0, 0)],
        *[pytest.param(*sizes, marks=pytest.mark.long) for sizes in [(4, 2, 2), (4, 4, 1), (5, 4, 2)]],
    ],
)
def test_cached_decoding_equals_the_full_forward_at_any_depth(layers: int, every: int, blocks: int) -> None:
    config = towers(layers, every)
    assert config.cross_blocks == blocks
    params = randomise(model.shapes(config))
    full, _ = forward(config, params, TOKENS)
    cache = model.empty_cache(config, 2, 10)
    logits, cache = forward(config, params, TOKENS[:, :7], POSITIONS[:, :7], cache)
    np.testing.assert_allclose(logits, full[:, :7], atol=2e-4)
    for step in range(7, 10):
        at = POSITIONS[:, step : step + 1]
        logits, cache = forward(config, params, TOKENS[:, step : step + 1], at, cache)
        np.testing.assert_allclose(logits[:, 0], full[:, step], atol=2e-4)


@pytest.mark.parametrize("family", families("cm3leon", "opt", "llama", "gemma"))
@pytest.mark.parametrize(("layers", "every"), [(3, 2), pytest.param(4, 1, marks=pytest.mark.long)])
def test_a_new_cross_with_zeroed_blocks_leaves_each_tower_its_parents_states(
    family: str, layers: int, every: int
) -> None:
    config = towers(layers, every, family)
    params = randomise(model.shapes(config))
    for name in ("llm", "img"):
        attn, ffn = params["cross"][name]["attn"], params["cross"][name]["ffn"]
        for part in (attn, ffn):
            part |= {k: jnp.zeros_like(v) for k, v in part.items() if k in ("o", "down", "o_bias", "down_bias")}
    x = jax.random.normal(jax.random.key(5), (2, 10, config.img.width))
    states = run_towers(config, params, {"llm": x, "img": x}, POSITIONS)
    for name, tower in (("llm", config.llm), ("img", config.img)):
        alone = run_layers(tower, params[name]["layers"], x, POSITIONS)
        np.testing.assert_allclose(states[name], alone, atol=1e-5)


def test_both_directions_read_the_states_from_before_and_are_causal() -> None:
    config = towers(1, 1)
    params = randomise(model.shapes(config))
    x = {name: jax.random.normal(jax.random.key(i), (2, 10, config.img.width)) for i, name in enumerate(("llm", "img"))}
    found = run_towers(config, params, x, POSITIONS)
    before = {
        n: run_layers(c, params[n]["layers"], x[n], POSITIONS) for n, c in (("llm", config.llm), ("img", config.img))
    }
    for name, other in (("llm", "img"), ("img", "llm")):
        block = jax.tree.map(lambda a: a[0], params["cross"][name])
        expected = cross_block(config.img, block, before[name], before[other], POSITIONS)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        late = before[other].at[:, 6:].add(1.0)
        moved = cross_block(config.img, block, before[name], late, POSITIONS)
        np.testing.assert_allclose(moved[:, :6], expected[:, :6], atol=1e-6)
        assert jnp.abs(moved[:, 6:] - expected[:, 6:]).max() > 1e-3


def test_new_cross_blocks_start_as_the_identity() -> None:
    config = towers(3, 2)
    fresh = model.init(config, jax.random.key(0))
    x = jax.random.normal(jax.random.key(5), (2, 10, config.img.width))
    block = jax.tree.map(lambda a: a[0], fresh["cross"]["llm"])
    out = cross_block(config.llm, block, x, x[::-1], POSITIONS)
    np.testing.assert_array_equal(out, x)


def test_towers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="agree in width: the LLM has 24, the image model 48"):
        CrossConfig(DECODER, dataclasses.replace(DECODER, width=48))
