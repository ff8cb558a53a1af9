"""Causal attention with a cache that is passed in and handed back.

A cache slot *is* a position: the key of the token at position p of a row lies in slot p, and a query at position p
sees the slots 0..p. So a row needs no length: what lies beyond its position is never seen, and writing at a position
again replaces what stood there (a guided picture restarts its unconditional stream that way).

Without a cache a row may hold several documents: where the positions return to 0 a new one begins, and sees nothing
of those before it.
"""

import jax
import jax.numpy as jnp

from jam_jax.config import DecoderConfig
from jam_jax.models.layers import Params, biased, head_norm, rope
from jam_jax.sharding import shard

KV = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [B, S, K, H]


def project_queries(config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [B, T, D] → queries [B, T, N, H], normalised and rotated where the config says so."""
    q = _project(config, params, "q", x)
    if config.qk_norm != "none":
        q = head_norm(config, params["q_norm"], q)
    if config.positions == "rope":
        q = rope(config, q, positions)
    return shard(q, "batch", "length", "heads", "head")


def project_keys_values(config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array) -> KV:
    """x [B, T, D] → keys and values, each [B, T, K, H]."""
    k, v = _project(config, params, "k", x), _project(config, params, "v", x)
    if config.qk_norm != "none":
        k = head_norm(config, params["k_norm"], k)
    if config.positions == "rope":
        k = rope(config, k, positions)
    return shard(k, "batch", "length", "kv_heads", "head"), shard(v, "batch", "length", "kv_heads", "head")


def _project(config: DecoderConfig, params: Params, name: str, x: jax.Array) -> jax.Array:
    return biased(config, params, name, jnp.einsum("BTD,DNH->BTNH", x, params[name].astype(x.dtype)))


def visible(positions: jax.Array, slots: int | None) -> jax.Array:
    """What each query sees: positions [B, T] → bool [B, T, S], over `slots` of a cache or, for None, the T tokens."""
    if slots is not None:
        return jnp.arange(slots) <= positions[:, :, None]
    document = jnp.cumsum(positions == 0, axis=1)
    order = jnp.arange(positions.shape[1])
    return (order <= order[:, None]) & (document[:, None] == document[:, :, None])


def attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax attention in float32: q [B, T, N, H], k and v [B, S, K, H], seen bool [B, T, S] → [B, T, N, H].

    Query head n reads key-value head n // (N / K).
    """
    groups = q.shape[2] // k.shape[2]
    q = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[3])
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v)
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


def output(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """Heads [B, T, N, H] → [B, T, D]."""
    return biased(config, params, "o", jnp.einsum("BTNH,NHD->BTD", x, params["o"].astype(x.dtype)))


def update_cache(cache: KV, new: KV, positions: jax.Array) -> KV:
    """Write new keys and values [B, T, K, H] into the slots `positions` [B, T]; slots past the end are dropped."""
    rows = jnp.arange(positions.shape[0])[:, None]
    keys, values = (c.at[rows, positions].set(n.astype(c.dtype), mode="drop") for c, n in zip(cache, new, strict=True))
    return keys, values
