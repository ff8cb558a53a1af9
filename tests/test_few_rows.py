"""Products of few rows with strands are those with the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import few_rows

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(0, 1, (4, 6, 10)).astype(np.float32)  # 24 rows, of 8 strands of 3


@pytest.mark.parametrize("rows", [1, 2, 3, few_rows.MOST])
@pytest.mark.parametrize("inner", [1, 2])
def test_strands_multiply_as_the_matrix(rows: int, inner: int) -> None:
    matrix = MATRIX if inner == 2 else MATRIX.reshape(24, 5, 2)
    strands = few_rows.split(jnp.asarray(matrix), inner)
    assert isinstance(strands, few_rows.Strands)
    np.testing.assert_array_equal(strands.whole(), matrix)
    x = RNG.normal(0, 1, (rows, 1, *matrix.shape[:inner])).astype(np.float32)
    expected = np.tensordot(x.astype(np.float64), matrix, inner)
    found = jax.jit(few_rows.Strands.times)(strands, x)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_narrower_strands_are_multiplied_in_float32(dtype: jnp.dtype) -> None:
    matrix = jnp.asarray(RNG.integers(-100, 100, (16, 4)), dtype)
    x = jnp.asarray(RNG.normal(0, 1, (2, 16)), jnp.bfloat16)
    found = few_rows.split(matrix, 1).times(x)
    assert found.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64) @ np.asarray(matrix, np.float64)
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0.01)


def test_a_row_does_not_depend_on_the_one_that_rides_along() -> None:
    strands = few_rows.split(jnp.asarray(MATRIX), 2)
    x = RNG.normal(0, 1, (4, 4, 6)).astype(np.float32)
    together = strands.times(jnp.asarray(x))
    for row in range(4):
        np.testing.assert_array_equal(strands.times(jnp.asarray(x[row : row + 1]))[0], together[row])


def test_columns_are_those_of_the_matrix() -> None:
    x = jnp.asarray(RNG.normal(0, 1, (2, 4, 6)), jnp.float32)
    strands = few_rows.split(jnp.asarray(MATRIX), 2)
    np.testing.assert_array_equal(strands.columns(3, 8).times(x), strands.times(x)[:, 3:8])


def test_more_rows_and_odd_matrices_take_the_whole() -> None:
    assert isinstance(few_rows.split(jnp.zeros((12, 3)), 1), jax.Array)
    params = {"q": few_rows.split(jnp.asarray(MATRIX), 2), "scale": jnp.ones(3)}
    assert few_rows.suited(params, few_rows.MOST) is params
    np.testing.assert_array_equal(few_rows.suited(params, few_rows.MOST + 1)["q"], MATRIX)
