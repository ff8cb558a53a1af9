"""Sampling against tables made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax import sampling
from jam_jax.decode.settings import Sampling
from tests.uncached import choose

sample = jax.jit(sampling.sample)

PROBABILITIES = np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32)  # of five tokens, in no order


def kept(top_k: int, top_p: float, probabilities: np.ndarray = PROBABILITIES, rows: int = 500) -> list[int]:
    """The tokens that are ever drawn; each that may be is, in so many draws."""
    logits = jnp.tile(jnp.log(jnp.asarray(probabilities)), (rows, 1))
    limits = [jnp.full(rows, v) for v in (1.0, top_k, top_p)]
    return sorted(set(np.asarray(sample(jax.random.split(jax.random.key(9), rows), logits, *limits)).tolist()))


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
    # Without the second token 0.3 of 0.6 is half: the first to cross 0.45 is alone.
    assert kept(0, 0.45, np.array([0.1, 0.0, 0.05, 0.3, 0.15], np.float32)) == [3]


def test_tokens_are_those_that_a_sort_would_choose() -> None:
    rng = np.random.default_rng(0)
    limits = [(t, k, p) for t in (0.5, 1.0, 3.0) for k in (0, 1, 7, 300, 2000) for p in (0.05, 0.5, 0.9, 0.999, 1.0)]
    rows, size = len(limits), 1000
    keys = jax.random.split(jax.random.key(1), rows)
    for spread in (0.3, 3.0):
        logits = rng.normal(0, spread, (rows, size)).astype(np.float32)
        logits[:, rng.integers(0, size, 100)] = -np.inf
        found = sample(keys, logits, *(jnp.array(column) for column in zip(*limits, strict=True)))
        for row, (t, k, p) in enumerate(limits):
            of = Sampling(temperature=t, top_k=k, top_p=p)
            assert found[row] == choose(logits[row].astype(np.float64), range(size), of, keys[row])


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_logits_end_and_take_what_is_allowed(broken: float) -> None:
    logits = np.full((3, 300), -np.inf, np.float32)
    logits[0, 200:], logits[1, 200:], logits[1, 250], logits[2, 200:250] = broken, 1.0, broken, broken
    limits = jnp.full(3, 0.5), jnp.full(3, 7), jnp.full(3, 0.9)
    found = np.asarray(sample(jax.random.split(jax.random.key(0), 3), logits, *limits))
    assert (found >= 200).all() and found[2] < 250


def test_kth_largest_is_that_of_a_sort() -> None:
    values = np.random.default_rng(0).normal(0, 1, (3, 50)).astype(np.float32)
    values[0, :5], values[1, 7], values[2, 8:12] = -np.inf, 0.0, values[2, 8]
    for k in (1, 2, 10, 48, 50, 70):
        expected = np.sort(values, axis=1)[:, ::-1][:, min(k, 50) - 1]
        np.testing.assert_array_equal(sampling.kth_largest(jnp.asarray(values), jnp.full(3, k)), expected)


def test_repetition_is_penalised_towards_less_likely() -> None:
    logits, seen = jnp.array([[2.0, -2.0, 1.0]]), jnp.array([[True, True, False]])
    np.testing.assert_allclose(sampling.penalise(logits, seen, jnp.array([2.0])), [[1.0, -4.0, 1.0]])
    np.testing.assert_array_equal(sampling.penalise(logits, seen, jnp.array([1.0])), logits)


def test_contrast_by_hand() -> None:
    p, q = np.array([[0.5, 0.3, 0.15, 0.05]]), np.array([[0.7, 0.1, 0.1, 0.1]])
    found = sampling.contrast(jnp.log(p) + 3, jnp.log(q) - 1, jnp.array([2]), jnp.array([0.4]))
    # Two fifths of the second likeliest are 0.12: the last is out. Constants of either stream do not matter.
    np.testing.assert_allclose(found, [[*np.log(p / q)[0, :3], -np.inf]], atol=1e-5)


def test_guidance_follows_the_paper() -> None:
    c, u = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 3.0]])
    np.testing.assert_allclose(sampling.guide(c, u, jnp.float32(3)), [[2.0, 0.0]])
    np.testing.assert_allclose(sampling.guide(c, u, jnp.float32(1)), c)


def draw(rows: int, temperature: float, top_k: int = 0, top_p: float = 1.0, seed: int = 0) -> np.ndarray:
    logits = jnp.tile(jnp.log(jnp.asarray(PROBABILITIES)), (rows, 1))
    full = [jnp.full(rows, v) for v in (temperature, top_k, top_p)]
    return np.asarray(sample(jax.random.split(jax.random.key(seed), rows), logits, *full))


def test_samples_follow_the_distribution() -> None:
    shares = np.bincount(draw(20_000, 1.0), minlength=5) / 20_000
    np.testing.assert_allclose(shares, PROBABILITIES, atol=0.015)
    sharp = PROBABILITIES**2 / np.sum(PROBABILITIES**2)
    np.testing.assert_allclose(np.bincount(draw(20_000, 0.5), minlength=5) / 20_000, sharp, atol=0.015)


def test_samples_within_limits_follow_the_distribution() -> None:
    inside = np.where(PROBABILITIES >= 0.15, PROBABILITIES, 0)
    for limits in ((3, 1.0), (0, 0.8)):
        shares = np.bincount(draw(20_000, 1.0, *limits), minlength=5) / 20_000
        np.testing.assert_allclose(shares, inside / inside.sum(), atol=0.015)


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
    together = sample(keys, logits, *numbers)
    for row in range(3):
        one = slice(row, row + 1)
        assert together[row] == sample(keys[one], logits[one], *(n[one] for n in numbers))[0]
