"""One or two rows times a matrix, on CPUs, at the speed at which memory gives the matrix.

Decoding multiplies one row, or with guidance two, with every matrix of the model: a sum of the matrix's rows, each
times a number (`planes`). Two rows go through it as the real and the imaginary part of one, so that the matrix is read
once for both.
"""

import math

import jax
import jax.numpy as jnp

from jam_jax import sharding
from jam_jax.models import planes

MOST = 2  # rows, guidance's too; XLA multiplies more of them faster than this does
LEAST = 2**16  # numbers of a matrix; the processor's cache holds smaller ones
BLOCKS = 8  # of a matrix's rows; of more the memory gives less
WINDOW = 32  # XLA's CPU backend adds up so many complex rows or fewer one number at a time
# Options of programs of few rows: by default XLA uses half of wide registers, too slow for two; more rows lose by it.
WIDE = {"xla_cpu_prefer_vector_width": 512}


def few(rows: int | None) -> bool:
    """Whether so many rows at once, which guidance doubles, are few, on a CPU without a mesh."""
    return rows is not None and 2 * rows <= MOST and sharding.lone_cpu()


def suit(rows: int, matrix: jax.Array) -> bool:
    """Whether to multiply so many rows with a matrix so: a few with a large one, on a CPU without a mesh."""
    return 0 < rows <= MOST and matrix.size >= LEAST and sharding.lone_cpu()


def product(inner: int, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x [*lead, *inner] of at most MOST rows, matrix [*inner, *outer] → [*lead, *outer].

    In x's dtype, computed in float32 whatever the matrix's; one of uint16 is the bits of bfloat16 (`planes.kept`). Of
    `inner` the number of axes.
    """
    lead, depth = x.shape[: x.ndim - inner], math.prod(matrix.shape[:inner])
    shape = *lead, *matrix.shape[inner:]
    if matrix.dtype != jnp.float32:
        # Otherwise XLA widens the matrix once, before the loop over tokens, and reads that.
        x, matrix = jax.lax.optimization_barrier((x, matrix))
    rows, matrix = x.reshape(-1, depth), matrix.reshape(depth, -1)
    if len(rows) == 1:
        found = planes.total(rows[0], matrix, BLOCKS)
    else:
        parts = (planes.partial(row, matrix, _blocks(depth)) for row in rows)
        both = jax.lax.optimization_barrier(jax.lax.complex(*parts)).sum(0)
        found = jnp.stack([both.real, both.imag])
    return found.reshape(shape).astype(x.dtype)


def _blocks(depth: int) -> int:
    """Into how many blocks the rows of a matrix are divided for two rows."""
    return max(n for n in (1, 2, 4, BLOCKS) if depth % n == 0 and (n == 1 or depth // n > WINDOW))
