"""Causal attention in tiles, on CPUs: what no query sees is not computed, and no row's scores are held as a whole.

The scores of a tile of queries, with the keys up to its end alone, are read again while they are in the processor's
cache. The backward pass computes them anew from the log of each softmax's denominator (arXiv 2205.14135), so that
neither they nor their softmax are kept: memory that a CPU has never touched is slower than computing.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

QUERIES = 128  # of a tile, at least
MOST = 8  # tiles of a row; each is compiled apart
HELD = 2**19  # scores of a tile: so many heads are computed together


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None = None) -> jax.Array:
    """`attention.attend` of q [B, T, N, H] to k and v [B, T, K, H], causal; documents int32 [B, T] → [B, T, N, H]."""
    return _forward(q, k, v, documents)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    together = _heads_together(q, k)
    parts = (_split(q, k, together), _split(k, k, together), _split(v, k, together), documents)
    out, log_z = _over(_group_forward, q, k, together, *parts)
    out = _joined(out, q.shape)
    return out, (q, k, v, documents, out, log_z)


def _backward(kept: tuple, gradient: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, documents, out, log_z = kept
    together = _heads_together(q, k)
    mean = (out.astype(jnp.float32) * gradient).sum(-1)  # of the softmax's gradient, weighted by the softmax
    parts = [_split(x, k, together) for x in (q, k, v, gradient, mean[..., None])]
    found = _over(_group_backward, q, k, together, *parts[:3], documents, *parts[3:], log_z)
    return *(_joined(x, like.shape) for x, like in zip(found, (q, k, v), strict=True)), None


attend.defvjp(_forward, _backward)


def _heads_together(q: jax.Array, k: jax.Array) -> int:
    """Key-value heads that are computed at once: a divisor of their number."""
    _, length, heads, _ = q.shape
    a_head = heads // k.shape[2] * _tile(length) * length
    return max(n for n in range(1, k.shape[2] + 1) if k.shape[2] % n == 0 and (n == 1 or n * a_head <= HELD))


def _tile(length: int) -> int:
    """Queries of a tile."""
    return -(-length // min(MOST, -(-length // QUERIES)))


def _tiles(length: int) -> Iterator[tuple[slice, slice, jax.Array]]:
    """Queries of each tile, the keys up to its last one, and which of these each query sees: bool [t, s]."""
    size = _tile(length)
    for first in range(0, length, size):
        last = min(first + size, length)
        yield slice(first, last), slice(last), jnp.arange(last) <= jnp.arange(first, last)[:, None]


def _split(x: jax.Array, k: jax.Array, together: int) -> jax.Array:
    """[B, T, N, H] → [B K / J, J, N / K, T, H], J heads of keys together."""
    batch, length, heads, size = x.shape
    kv_heads = k.shape[2]
    x = x.reshape(batch, length, kv_heads // together, together, heads // kv_heads, size)
    return x.transpose(0, 2, 3, 4, 1, 5).reshape(-1, together, heads // kv_heads, length, size)


def _joined(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What `_split` split, [..., J, G, T, H], in its own shape [B, T, N, H]."""
    batch, length, heads, size = shape
    return x.reshape(batch, heads, length, size).swapaxes(1, 2)


def _over(
    group: Callable, q: jax.Array, k: jax.Array, together: int, *parts: jax.Array | None
) -> tuple[jax.Array, ...]:
    """`group` of every few heads of every row, one after another; of the parts the fourth numbers documents [B, T]."""
    documents = parts[3]
    if documents is not None:
        documents = jnp.repeat(documents, k.shape[2] // together, axis=0)
    return jax.lax.map(lambda each: group(*each), (*parts[:3], documents, *parts[4:]))


def _scores(q: jax.Array, k: jax.Array, seen: jax.Array) -> jax.Array:
    """q [J, G, t, H], k [J, 1, s, H], seen bool [t, s] → [J, G, t, s] float32."""
    scores = jnp.einsum("JGTH,JSH->JGTS", q, k[:, 0], preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return jnp.where(seen, scores, jnp.finfo(jnp.float32).min)


def _seen(seen: jax.Array, documents: jax.Array | None, mine: slice, keys: slice) -> jax.Array:
    return seen if documents is None else seen & (documents[keys] == documents[mine, None])


def _group_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, documents: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """q [J, G, T, H], k and v [J, 1, T, H] → what is read [J, G, T, H], and the log of the denominators [J, G, T]."""
    outs, log_zs = [], []
    for mine, keys, seen in _tiles(q.shape[2]):
        scores = _scores(q[:, :, mine], k[:, :, keys], _seen(seen, documents, mine, keys))
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        read = jnp.einsum("JGTS,JSH->JGTH", weights.astype(v.dtype), v[:, 0, keys], preferred_element_type=jnp.float32)
        outs.append((read / total).astype(v.dtype))
        log_zs.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(outs, 2), jnp.concatenate(log_zs, 2)


def _group_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents: jax.Array | None,
    gradient: jax.Array,
    mean: jax.Array,
    log_z: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of q, k and v, from that of what was read [J, G, T, H], `mean` [J, G, T, 1] and log_z [J, G, T]."""
    of_q: list[jax.Array] = []
    of_k: list[jax.Array] = []
    of_v: list[jax.Array] = []
    for mine, keys, seen in _tiles(q.shape[2]):
        scores = _scores(q[:, :, mine], k[:, :, keys], _seen(seen, documents, mine, keys))
        weights = jnp.exp(scores - log_z[:, :, mine, None])
        up = gradient[:, :, mine]
        of_weights = jnp.einsum("JGTH,JSH->JGTS", up, v[:, 0, keys], preferred_element_type=jnp.float32)
        of_scores = weights * (of_weights - mean[:, :, mine]) * q.shape[-1] ** -0.5
        of_scores, weights = of_scores.astype(q.dtype), weights.astype(q.dtype)
        of_q.append(jnp.einsum("JGTS,JSH->JGTH", of_scores, k[:, 0, keys]))
        rest = [(0, 0), (0, q.shape[2] - keys.stop), (0, 0)]
        for parts, left, right in ((of_k, of_scores, q[:, :, mine]), (of_v, weights, up)):
            of_keys = jnp.einsum("JGTS,JGTH->JSH", left, right, preferred_element_type=jnp.float32)
            parts.append(jnp.pad(of_keys, rest))
    # Each tile adds to the keys before it: rounded once, when all have.
    all_k, all_v = sum(of_k[1:], of_k[0]), sum(of_v[1:], of_v[0])
    return jnp.concatenate(of_q, 2), all_k.astype(k.dtype), all_v.astype(v.dtype)
