"""Products of one or two rows on CPUs are those with the matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jam_jax.models import few_rows
from jam_jax.models.products import product

RNG = np.random.default_rng(0)
# Rows of a matrix that make eight blocks, four, and one (for one row eight, eight, and one).
DEPTHS = [(4, 66), (4, 36), (7, 5)]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("depth", DEPTHS)
def test_few_rows_are_multiplied_as_many(rows: int, inner: int, depth: tuple[int, int]) -> None:
    shape = (*depth, 10) if inner == 2 else (depth[0] * depth[1], 5, 2)
    matrix = RNG.normal(0, 1, shape).astype(np.float32)
    x = RNG.normal(0, 1, (rows, 1, *shape[:inner])).astype(np.float32)
    expected = np.tensordot(x.astype(np.float64), matrix, inner)
    found = jax.jit(few_rows.product, static_argnums=0)(inner, x, matrix)
    assert found.shape == expected.shape and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("dtype", "kept"), [("bfloat16", "bfloat16"), ("bfloat16", "uint16"), ("int8", "int8")])
def test_narrower_matrices_are_multiplied_in_float32(rows: int, dtype: str, kept: str) -> None:
    matrix = jnp.asarray(RNG.integers(-100, 100, (264, 4)), dtype)
    x = jnp.asarray(RNG.normal(0, 1, (rows, 264)), jnp.bfloat16)
    found = few_rows.product(1, x, matrix.view(kept))
    assert found.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64) @ np.asarray(matrix, np.float64)
    # Rounded once, at the end.
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=0.004, atol=0.01)


def test_what_is_left_of_a_sum_is_more_than_a_window() -> None:
    """Of fewer rows XLA sums one number at a time, ten times as slow."""
    for depth in (64, 256, 264, 288, 512, 4096, 11008):
        blocks = few_rows._blocks(depth)
        assert depth % blocks == 0 and (blocks == 1 or depth // blocks > few_rows.WINDOW)
    assert [few_rows._blocks(depth) for depth in (40, 256, 512)] == [1, 4, 8]


def test_large_matrices_take_few_rows_so_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, ...]] = []

    def watched(inner: int, x: jax.Array, matrix: jax.Array) -> jax.Array:
        taken.append(x.shape)
        return jnp.zeros((*x.shape[:-inner], *matrix.shape[inner:]), x.dtype)

    monkeypatch.setattr(few_rows, "product", watched)
    large, small = jnp.ones((256, 256)), jnp.ones((256, 255))
    for rows, matrix in ((1, large), (2, large), (3, large), (1, small)):
        product("BTD,DF->BTF", jnp.ones((rows, 1, 256)), matrix)
    assert taken == [(1, 1, 256), (2, 1, 256)]
    with jax.set_mesh(jax.make_mesh((1,), ("data",))):
        product("BTD,DF->BTF", jnp.ones((1, 1, 256)), large)
    assert len(taken) == 2
