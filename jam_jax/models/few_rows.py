"""One or two rows times a matrix, on CPUs, at the speed at which memory gives the matrix.

Decoding multiplies one row, or with guidance two, with every matrix of the model. XLA's CPU backend first packs the
matrix, which takes longer than the product, or reads it at half of the speed. Here its rows come in eight blocks that
are multiplied and added up in one loop, which XLA vectorises and spreads over the cores; an eighth of the matrix's
size is left to sum. Two rows go through it as the real and the imaginary part of one: the matrix is read once for both.
"""

import math

import jax
import jax.numpy as jnp

MOST = 2  # rows, guidance's too; XLA multiplies more of them faster than this does
LEAST = 2**16  # numbers of a matrix; the processor's cache holds smaller ones
WINDOW = 32  # XLA's CPU backend sums so many rows or fewer one number at a time
# Options of programs of few rows: by default XLA uses half of wide registers, too slow for two; more rows lose by it.
WIDE = {"xla_cpu_prefer_vector_width": 512}


def few(rows: int | None) -> bool:
    """Whether so many rows at once, which guidance doubles, are few, on a CPU without a mesh."""
    return rows is not None and 2 * rows <= MOST and _here()


def suit(rows: int, matrix: jax.Array) -> bool:
    """Whether to multiply so many rows with a matrix so: a few with a large one, on a CPU without a mesh."""
    return 0 < rows <= MOST and matrix.size >= LEAST and _here()


def _here() -> bool:
    return jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().empty


def product(inner: int, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x [*lead, *inner] of at most MOST rows, matrix [*inner, *outer] → [*lead, *outer].

    In x's dtype, computed in float32 whatever the matrix's; of `inner` the number of axes.
    """
    lead, depth = x.shape[: x.ndim - inner], math.prod(matrix.shape[:inner])
    if matrix.dtype != jnp.float32:
        # Otherwise XLA widens the matrix once, before the loop over tokens, and reads that.
        x, matrix = jax.lax.optimization_barrier((x, matrix))
    if matrix.dtype == jnp.bfloat16:
        matrix = jax.lax.bitcast_convert_type(matrix, jnp.uint16)
    blocks = _blocks(depth)
    rows = x.astype(jnp.float32).reshape(-1, blocks, depth // blocks)
    parts = matrix.reshape(blocks, depth // blocks, -1)
    sums = [sum(row[j, :, None] * _widened(parts[j]) for j in range(blocks)) for row in rows]
    # Fused with the products, what is left of the sum would not be vectorised.
    if len(sums) == 1:
        found = jnp.ones(depth // blocks) @ jax.lax.optimization_barrier(sums[0])
    else:
        both = jax.lax.optimization_barrier(jax.lax.complex(*sums)).sum(0)
        found = jnp.stack([both.real, both.imag])
    return found.reshape(*lead, *matrix.shape[inner:]).astype(x.dtype)


def _widened(part: jax.Array) -> jax.Array:
    """In float32; uint16 are the bits of bfloat16, the upper half of a float32's, whose own conversion is slow."""
    if part.dtype != jnp.uint16:
        return part.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(part.astype(jnp.uint32) << 16, jnp.float32)


def _blocks(depth: int) -> int:
    """Into how many blocks the rows of a matrix are divided."""
    return max(n for n in (1, 2, 4, 8) if depth % n == 0 and (n == 1 or depth // n > WINDOW))
