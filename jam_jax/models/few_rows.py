"""A few rows times a matrix, on CPUs, at the speed at which memory gives the matrix.

Decoding multiplies one row, or a few, with every matrix of the model. XLA's CPU backend is fast for one row and for
many; for the few between it first packs the matrix, which takes longer than the product. Here the matrix is kept in
strands, every eighth row in each, so that a product is eight multiplications of whole strands and their sum, one loop
that XLA vectorises and spreads over the cores. Two rows go through it as the real and the imaginary part of one: the
matrix is read once for both.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

STRANDS = 8
MOST = 4  # rows, guidance's too; XLA multiplies more of them faster than this does


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Strands:
    """A matrix [K, N]: strand j holds its rows j, j + STRANDS, …"""

    parts: tuple[jax.Array, ...]  # STRANDS of [K / STRANDS, N]
    inner: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # the axes that K stands for
    outer: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # those that N stands for

    def whole(self) -> jax.Array:
        """The matrix in its own shape."""
        return jnp.stack(self.parts, axis=1).reshape(*self.inner, *self.outer)

    def columns(self, first: int, last: int) -> "Strands":
        """Those of a matrix [*inner, N] from one to before another."""
        return Strands(tuple(part[:, first:last] for part in self.parts), self.inner, (last - first,))

    def times(self, x: jax.Array) -> jax.Array:
        """x [..., *inner] of at most MOST rows → [..., *outer] in x's dtype, computed in float32."""
        lead = x.shape[: x.ndim - len(self.inner)]
        rows = x.astype(jnp.float32).reshape(math.prod(lead), -1, STRANDS)
        assert len(rows) <= MOST, "more rows are multiplied with the whole matrix"
        if len(rows) % 2:
            rows = jnp.concatenate([rows, jnp.zeros_like(rows[:1])])
        pairs = rows.reshape(-1, 2, *rows.shape[1:])  # [P, 2, K / STRANDS, STRANDS]
        real, imaginary = (
            sum(pairs[:, i, :, j, None] * part.astype(jnp.float32) for j, part in enumerate(self.parts))
            for i in range(2)
        )
        # Fused with the products, the sum over [P, K / STRANDS, N] would not be vectorised.
        both = jax.lax.optimization_barrier(jax.lax.complex(real, imaginary)).sum(1)
        found = jnp.stack([both.real, both.imag], axis=1).reshape(len(rows), -1)[: math.prod(lead)]
        return found.reshape(*lead, *self.outer).astype(x.dtype)


def split(matrix: jax.Array, inner: int) -> Strands | jax.Array:
    """A matrix whose first `inner` axes are multiplied over, in strands if they divide; else as it is."""
    shape = matrix.shape
    rows = math.prod(shape[:inner])
    if rows % STRANDS:
        return matrix
    parts = matrix.reshape(rows // STRANDS, STRANDS, -1)
    return Strands(tuple(parts[:, j] for j in range(STRANDS)), shape[:inner], shape[inner:])


def suit(rows: int | None) -> bool:
    """Whether strands are best for so many rows at once, which guidance doubles: a few, on a CPU."""
    return rows is not None and 2 * rows <= MOST and jax.default_backend() == "cpu"


def suited(params: Any, rows: int) -> Any:
    """The parameters for products of so many rows: beyond MOST every matrix is whole again.

    To be called outside of the loop that multiplies.
    """
    if rows <= MOST:
        return params
    return jax.tree.map(
        lambda leaf: leaf.whole() if isinstance(leaf, Strands) else leaf,
        params,
        is_leaf=lambda leaf: isinstance(leaf, Strands),
    )
