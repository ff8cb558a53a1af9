"""Sums of planes, each times a number, on CPUs: the one form of a product that XLA computes there as fast as it reads.

For one row or two it first packs a matrix, or copies keys and values into another order, which takes longer than the
product, or reads them at half of the speed. Here planes come in blocks that are multiplied and added up in one loop,
which XLA vectorises and spreads over the cores; a fraction of their size is left to sum.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

MOST = 16  # blocks, of keys and values


def total(x: jax.Array, planes: jax.Array, most: int = MOST) -> jax.Array:
    """x [D, *lead] times planes [D, *lead, O], summed over D in float32 → [*lead, O]; axes of 1 broadcast.

    In as many blocks as divide both D and `most`, which is a power of two.
    """
    # Fused with the products, what is left of the sum would not be vectorised.
    blocks = math.gcd(len(planes), most)
    rest = jax.lax.optimization_barrier(partial(x, planes, blocks))
    return (jnp.ones(len(rest)) @ rest.reshape(len(rest), -1)).reshape(rest.shape[1:])


def partial(x: jax.Array, planes: jax.Array, blocks: int) -> jax.Array:
    """The sum of so many blocks, which divide D: [D / blocks, *lead, O], whose own sum is the total."""
    x, parts = (a.reshape(blocks, -1, *a.shape[1:]) for a in (x.astype(jnp.float32), planes))
    first, *others = (x[j][..., None] * _widened(parts[j]) for j in range(blocks))
    return sum(others, first)


def kept(dtype: Any) -> Any:
    """The type in which planes are read, and written, fastest: of bfloat16 the bits, as uint16."""
    return jnp.dtype(jnp.uint16 if jnp.dtype(dtype) == jnp.bfloat16 else dtype)


def numbers(planes: jax.Array) -> jax.Array:
    """What is `kept`, in its own type."""
    return planes.view(jnp.bfloat16) if planes.dtype == jnp.uint16 else planes


def _widened(part: jax.Array) -> jax.Array:
    """In float32, of bits of bfloat16 too: they are the upper half of a float32's. XLA's own conversion is slow."""
    if part.dtype != jnp.uint16:
        return part.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(part.astype(jnp.uint32) << 16, jnp.float32)


def attend(q: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
    """`attention.attend` of one token of every row: q [B, N, H], keys [H, B, K, S], values [S, B, K, H], seen [B, S].

    Keys and values in the type in which they are `kept`; gives [B, N, H] in the type of q.
    """
    batch, heads, size = q.shape
    groups = q.reshape(batch, keys.shape[2], -1, size)
    # None of these is to be computed anew for every plane.
    groups = jax.lax.optimization_barrier(groups.transpose(3, 0, 1, 2))
    scores = jax.lax.optimization_barrier(total(groups, keys[:, :, :, None])) * size**-0.5
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
    weights = jax.lax.optimization_barrier(weights.transpose(3, 0, 1, 2))
    return total(weights, values[:, :, :, None]).reshape(batch, heads, size).astype(q.dtype)
