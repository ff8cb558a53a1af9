"""One token of one row and its cache, on CPUs: head by head, as products of a matrix and a vector.

XLA's CPU backend copies the keys and values of all heads into another order before it multiplies them as a batch,
which takes several times as long as reading them. A head's own lie as they are multiplied.
"""

import jax
import jax.numpy as jnp

MOST = 16  # heads, of which each is compiled apart


def suits(q: jax.Array, keys: jax.Array) -> bool:
    """Whether queries [B, T, N, H] are of one token of one row, and a head of `keys` [B, K, S, H] is of one of them."""
    alone = q.shape[:2] == (1, 1) and q.shape[2] == keys.shape[1] <= MOST
    return alone and jax.default_backend() == "cpu" and jax.sharding.get_abstract_mesh().empty


def attend(q: jax.Array, keys: jax.Array, values: jax.Array, seen: jax.Array) -> jax.Array:
    """`attention.attend` of q [1, 1, N, H] to keys and values [1, N, S, H]; seen bool [1, 1, S] → [1, 1, N, H]."""
    heads = range(q.shape[2])
    scores = [jnp.matmul(keys[0, n], q[0, 0, n], preferred_element_type=jnp.float32) for n in heads]
    weights = jax.nn.softmax(
        jnp.where(seen[0], jnp.stack(scores) * q.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min), axis=-1
    )
    return jnp.stack([weights[n].astype(values.dtype) @ values[0, n] for n in heads])[None, None]
