"""The parts of causal attention: projections, what a query sees, and the reference that computes it.

A row may hold several documents: where the positions return to 0 a new one begins, and sees nothing of those before
it. How tokens attend to a cache stands in `kv_cache`.
"""

import jax
import jax.numpy as jnp

from jam_jax.config import DecoderConfig
from jam_jax.models.layers import Params, biased, head_norm, rope, times
from jam_jax.sharding import shard

KV = tuple[jax.Array, jax.Array]  # keys and values of one layer, each [B, S, K, H]


def project(config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, KV]:
    """x [B, T, D] → its queries, keys and values; in one product where the weights lie together (`decode.weights`)."""
    if "qkv" not in params:
        return project_queries(config, params, x, positions), project_keys_values(config, params, x, positions)
    first, last = config.heads, config.heads + config.key_value_heads
    parts = jnp.split(times(params, "qkv", "BTD,DNH->BTNH", x), (first, last), axis=2)
    q, k, v = (biased(config, params, name, part) for name, part in zip("qkv", parts, strict=True))
    return _placed(config, params, "q", q, positions), (_placed(config, params, "k", k, positions), v)


def project_queries(config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [B, T, D] → queries [B, T, N, H], normalised and rotated where the config says so."""
    q = _placed(config, params, "q", _projection(config, params, "q", x), positions)
    return shard(q, "batch", "length", "heads", "head")


def project_keys_values(config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array) -> KV:
    """x [B, T, D] → keys and values, each [B, T, K, H]."""
    k, v = (_projection(config, params, name, x) for name in "kv")
    k = _placed(config, params, "k", k, positions)
    return shard(k, "batch", "length", "kv_heads", "head"), shard(v, "batch", "length", "kv_heads", "head")


def _projection(config: DecoderConfig, params: Params, name: str, x: jax.Array) -> jax.Array:
    return biased(config, params, name, times(params, name, "BTD,DNH->BTNH", x))


def _placed(config: DecoderConfig, params: Params, name: str, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Queries or keys [B, T, N, H], normalised and rotated where the config says so."""
    if config.qk_norm != "none":
        x = head_norm(config, params[name + "_norm"], x)
    return rope(config, x, positions) if config.positions == "rope" else x


def documents(positions: jax.Array) -> jax.Array:
    """The documents of a row, numbered: positions [B, T] → int32 [B, T]. One begins wherever the position is 0."""
    return jnp.cumsum(positions == 0, axis=1)


def before(length: int, documents: jax.Array | None = None) -> jax.Array:
    """What each query of a row sees, itself and what comes before, in its document: bool [B, T, S], B = 1 for None."""
    seen = jnp.tri(length, dtype=bool)[None]
    return seen if documents is None else seen & (documents[:, None] == documents[:, :, None])


def filled(positions: jax.Array, slots: int) -> jax.Array:
    """What each query sees of a cache: positions [B, T] → bool [B, T, slots]."""
    return jnp.arange(slots) <= positions[:, :, None]


def attend(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """Softmax attention in float32: q [B, T, N, H], k and v [B, S, K, H], seen bool [B or 1, T, S] → [B, T, N, H].

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
    return biased(config, params, "o", times(params, "o", "BTNH,NHD->BTD", x))
