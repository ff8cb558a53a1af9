"""Sampling against tables made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import sampling

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32)  # of five tokens, in no order


def kept(top_k: int, top_p: float, probabilities: np.ndarray = PROBABILITIES) -> list[int]:
    logits = jnp.log(jnp.asarray(probabilities))[None]
    result = sampling.keep_likely(logits, jnp.array([top_k]), jnp.array([top_p], jnp.float32))
    assert np.all(np.isin(np.asarray(result), [*np.asarray(logits)[0], -np.inf]))
    return np.flatnonzero(np.isfinite(np.asarray(result)[0])).tolist()


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (0, 1.0, [0, 1, 2, 3, 4]),
        (2, 1.0, [1, 3]),
        (9, 1.0, [0, 1, 2, 3, 4]),
        (0, 0.3, [1]),
        (0, 0.6, [1, 3]),  # 0.4 + 0.3 crosses 0.6: the token that crosses is kept
        (0, 0.8, [1, 3, 4]),
        (0, 1e-6, [1]),  # never nothing
        (2, 0.5, [1]),  # among the two, 0.4 / 0.7 is already more than half
        (3, 0.9, [1, 3, 4]),
    ],
)
def test_kept_tokens_are_those_of_the_table(top_k: int, top_p: float, expected: list[int]) -> None:
    assert kept(top_k, top_p) == expected


def test_ties_with_the_least_likely_kept_token_are_kept() -> None:
    assert kept(1, 1.0, np.array([0.4, 0.4, 0.2], np.float32)) == [0, 1]


def test_forbidden_tokens_take_no_mass() -> None:
    logits = jnp.log(jnp.asarray(PROBABILITIES)).at[1].set(-jnp.inf)[None]
    result = sampling.keep_likely(logits, jnp.array([0]), jnp.array([0.5]))
    # Among 0.1, 0.05, 0.3, 0.15 the first reaches exactly half: rounding decides, and one more may be kept.
    assert np.flatnonzero(np.isfinite(result[0])).tolist() in ([3], [3, 4])


def test_guidance_follows_the_paper() -> None:
    c, u = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 3.0]])
    np.testing.assert_allclose(sampling.guide(c, u, jnp.float32(3)), [[2.0, 0.0]])
    np.testing.assert_allclose(sampling.guide(c, u, jnp.float32(1)), c)


def draw(rows: int, temperature: float, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> np.ndarray:
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES)), (rows, 1))
    full = [jnp.full(rows, v) for v in (temperature, top_k, top_p)]
    return np.asarray(sampling.sample(jax.random.split(jax.random.key(seed), rows), logits, *full))


def test_samples_follow_the_distribution() -> None:
    shares = np.bincount(draw(20_000, 1.0), minlength=5) / 20_000
    np.testing.assert_allclose(shares, PROBABILITIES, atol=0.015)
    sharp = PROBABILITIES**2 / np.sum(PROBABILITIES**2)
    np.testing.assert_allclose(np.bincount(draw(20_000, 0.5), minlength=5) / 20_000, sharp, atol=0.015)


def test_temperature_comes_before_top_p() -> None:
    # At temperature 0.5 token 1 alone has 0.16 / 0.285 = 56%; at temperature 1 it has 40% and token 3 is kept too.
    assert set(draw(500, 0.5, top_p=0.5)) == {1}
    assert set(draw(500, 1.0, top_p=0.5)) == {1, 3}


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draw(50, 0.0)) == {1}


def test_rows_with_their_own_settings_do_not_touch_each_other() -> None:
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES)), (3, 1))
    keys = jax.random.split(jax.random.key(3), 3)
    numbers = jnp.array([0.0, 1.0, 2.0]), jnp.array([0, 2, 0]), jnp.array([1.0, 1.0, 0.7])
    together = sampling.sample(keys, logits, *numbers)
    for row in range(3):
        one = slice(row, row + 1)
        assert together[row] == sampling.sample(keys[one], logits[one], *(n[one] for n in numbers))[0]
