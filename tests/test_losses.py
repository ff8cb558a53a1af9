"""Cross entropy and its sums against a loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax import losses, tokens

SPACE = tokens.jam(text=40, codes=8, codes_per_image=4, sentinels=11)


def test_the_sums_equal_a_loop_in_float64() -> None:
    rng = np.random.default_rng(0)
    logits = 10 * rng.standard_normal((3, 7, SPACE.vocab_size))
    targets, weights = rng.integers(0, SPACE.vocab_size, (3, 7)), rng.integers(0, 2, (3, 7)).astype(float)
    expected = dict.fromkeys((f"{m}_{what}" for m in losses.MODALITIES for what in ("loss", "tokens")), 0.0)
    for row, target, weight in zip(logits.reshape(21, -1), targets.ravel(), weights.ravel(), strict=True):
        name = ("text", "image", "special")[SPACE.modality[target]]
        expected[name + "_loss"] += weight * (np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
        expected[name + "_tokens"] += weight
    expected["loss"] = sum(v for k, v in expected.items() if k.endswith("_loss"))
    expected["tokens"] = weights.sum()
    nll = jax.jit(losses.token_nll)(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    found = jax.jit(losses.sums)(
        nll, jnp.asarray(targets), jnp.asarray(weights, jnp.float32), jnp.asarray(SPACE.modality)
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = jax.random.normal(jax.random.key(0), (1, 2, 64), jnp.bfloat16)
    assert losses.token_nll(logits, jnp.zeros((1, 2), jnp.int32)).dtype == jnp.float32
