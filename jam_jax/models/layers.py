"""The pieces of a transformer block, as pure functions of a parameter dict.

Letters in every einsum of the project: B batch, T query position, S key position, D width, F feed-forward width,
N heads, K key-value heads, G query heads per key-value head, H head size, V vocabulary, L layers.
Parameters are float32; norms are computed in float32 and give back the input's dtype.
"""

import math

import jax
import jax.numpy as jnp

from jam_jax.config import DecoderConfig
from jam_jax.models.products import product

Params = dict


def norm(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """The decoder's norm over the last axis; `params` is empty for LayerNorm without scale (CM3leon)."""
    kind = config.norm
    x32 = x.astype(jnp.float32)
    if kind in ("layernorm", "layernorm_plain"):
        y = layer_norm(x32, config.norm_eps)
        if kind == "layernorm":
            y = y * params["scale"] + params["bias"]
    else:
        y = rms_norm(x32, config.norm_eps)
        y = y * (params["scale"] + 1.0 if kind == "rmsnorm_plus_one" else params["scale"])
    return y.astype(x.dtype)


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Mean 0 and (biased) variance 1 over the last axis."""
    mean = x.mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + eps)


def rms_norm(x: jax.Array, eps: float) -> jax.Array:
    """Root mean square 1 over the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)


def head_norm(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """Norm of queries or keys [B, T, N, H], one scale (and bias) per head: Chameleon's q/k norm."""
    x32 = x.astype(jnp.float32)
    if config.qk_norm == "layernorm":
        y = layer_norm(x32, config.norm_eps) * params["scale"] + params["bias"]
    else:
        y = rms_norm(x32, config.norm_eps) * params["scale"]
    return y.astype(x.dtype)


def rope_frequencies(config: DecoderConfig) -> jax.Array:
    """Angle per position of each pair of a head's features, [H/2] float32, stretched as the config says.

    Source of the llama3 form: `modeling_rope_utils.py` of transformers.
    """
    half, stretch = config.head_size // 2, config.rope_scaling
    frequency = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if stretch.form == "linear":
        return frequency / stretch.factor
    if stretch.form == "llama3":
        # Turns that the pair makes within the original context: `high` or more are kept, `low` or fewer stretched.
        turns = stretch.original_positions * frequency / (2 * math.pi)
        kept = jnp.clip((turns - stretch.low) / (stretch.high - stretch.low), 0.0, 1.0)
        return frequency * (kept + (1 - kept) / stretch.factor)
    return frequency


def rope(config: DecoderConfig, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary embedding in the half-split order of Hugging Face: x [B, T, N, H], positions [B, T] int32."""
    angle = positions[..., None, None].astype(jnp.float32) * rope_frequencies(config)  # [B, T, 1, H/2]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def times(params: Params, name: str, equation: str, x: jax.Array) -> jax.Array:
    """The einsum of x and the weight `name`, in x's dtype; `{name}_step` holds the steps of one kept in 8 bits."""
    y = product(equation, x, params[name])
    step = params.get(name + "_step")
    return y if step is None else y * step.astype(y.dtype)


def lookup(params: Params, name: str, ids: jax.Array) -> jax.Array:
    """The rows `ids` of a table, one of 8 bits times its steps."""
    rows, step = params[name][ids], params.get(name + "_step")
    return rows if step is None else rows * step[ids][..., None]


def biased(config: DecoderConfig, params: Params, name: str, y: jax.Array) -> jax.Array:
    """What the projection `name` gives, plus its bias where the config has one."""
    return y + params[name + "_bias"].astype(y.dtype) if config.has_bias(name) else y


def feed_forward(config: DecoderConfig, params: Params, x: jax.Array) -> jax.Array:
    """x [B, T, D] → [B, T, D] through ReLU, GELU, its sigmoid approximation or a gated unit."""
    up = biased(config, params, "up", times(params, "up", "BTD,DF->BTF", x))
    if config.ffn == "relu":
        hidden = jax.nn.relu(up)
    elif config.ffn == "gelu":
        hidden = jax.nn.gelu(up, approximate=False)
    elif config.ffn == "quick_gelu":
        hidden = up * jax.nn.sigmoid(1.702 * up)
    else:
        gate = biased(config, params, "gate", times(params, "gate", "BTD,DF->BTF", x))
        hidden = up * (jax.nn.silu(gate) if config.ffn == "silu_gated" else jax.nn.gelu(gate, approximate=True))
    return biased(config, params, "down", times(params, "down", "BTF,FD->BTD", hidden))
