"""One pre-norm decoder, described by its config: CM3leon, OPT, Llama, Qwen2, Gemma, Chameleon, Emu3.

Parameters are a plain nested dict; the layers are stacked on a leading axis L and scanned:

    embed/{tokens VD, positions PD}   layers/{attn/{q,k,v DNH, o NHD}, ffn/{up, gate DF, down FD}, attn_norm, ffn_norm}
    final_norm   unembed VD (untied only)
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.config import DecoderConfig
from jam_jax.models import attention, kernels
from jam_jax.models.layers import Params, feed_forward, lookup, norm
from jam_jax.sharding import gathered, shard


def block(
    config: DecoderConfig, params: Params, x: jax.Array, positions: jax.Array, documents: jax.Array | None = None
) -> jax.Array:
    """One transformer block: x [B, T, D], positions [B, T], documents [B, T] or None for one of each row."""
    h = norm(config, params["attn_norm"], x)
    q, kv = attention.project(config, params["attn"], h, positions)
    x = x + attention.output(config, params["attn"], kernels.causal(config, q, *kv, documents))
    x = x + feed_forward(config, params["ffn"], norm(config, params["ffn_norm"], x))
    return shard(x, "batch", "length", "embed")


policies = jax.checkpoint_policies
# What the backward pass keeps instead of recomputing it, by the config's `remat`; on CPUs products go by their name.
KEPT: dict[str, Callable | None] = {
    "full": None,
    "dots": policies.save_from_both_policies(policies.dots_saveable, policies.save_only_these_names("product")),
    "weights": policies.save_from_both_policies(
        policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names("product")
    ),
    "attention": policies.save_only_these_names("projected", "read"),
}


def rematerialised(config: DecoderConfig, body: Callable) -> Callable:
    """The scanned body under the config's rematerialisation policy."""
    return body if config.remat == "none" else jax.checkpoint(body, prevent_cse=False, policy=KEPT[config.remat])


def run_layers(
    config: DecoderConfig, layers: Params, x: jax.Array, positions: jax.Array, documents: jax.Array | None = None
) -> jax.Array:
    """All blocks of `layers` (stacked on L), scanned."""

    def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        return block(config, gathered(layer, config.dtype), x, positions, documents), None

    return jax.lax.scan(rematerialised(config, body), x, layers)[0]


def embed(config: DecoderConfig, params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """tokens [B, T] int32 → [B, T, D] in the compute dtype."""
    # Each device looks its part of the width up, for the rows of all who share the table: states travel, no table does.
    own = ("replicas", "length", "param_embed")
    x = lookup(params, "tokens", shard(tokens, *own[:2])) * config.embed_scale
    if config.positions == "learned":
        x = x + params["positions"][shard(positions, *own[:2]) + config.position_offset]
    return shard(shard(x.astype(config.dtype), *own), "batch", "length", "embed")


def unembed(table: jax.Array, x: jax.Array) -> jax.Array:
    """States [B, T, D] and the output table [V, D] → logits [B, T, V] float32."""
    logits = jnp.einsum("BTD,VD->BTV", x, table.astype(x.dtype), preferred_element_type=jnp.float32)
    return shard(logits, "batch", "length", "vocab")


class Decoder(nn.Module):
    """tokens [B, T] int32, positions [B, T] int32 (default 0..T-1) → logits [B, T, V] float32.

    With `head` false the normalised states [B, T, D] that the head would read, in place of the logits.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array | None = None, *, head: bool = True) -> jax.Array:
        c = self.config
        table = self.param("embed", init_embed, c)
        layers = self.param("layers", init_layers, c, c.layers)
        final = self.param("final_norm", init_norm, c)
        output = table["tokens"] if c.tied else self.param("unembed", normal(c.init_std), (c.vocab_size, c.width))
        positions, documents = places(tokens, positions)
        x = embed(c, table, tokens, positions)
        x = norm(c, final, run_layers(c, layers, x, positions, documents))
        return unembed(output, x) if head else x


def places(tokens: jax.Array, positions: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Positions [B, T], and the documents of rows [B, T] where positions are given."""
    if positions is None:
        return jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape), None
    return positions, attention.documents(positions)


# Initialisation: normal cut at three standard deviations, output projections zero (CM3leon, arXiv 2309.02591).


def normal(std: float) -> Callable:
    """A normal of the given standard deviation cut at three of them, float32."""

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return std * jax.random.truncated_normal(key, -3, 3, shape)

    return init


def init_embed(key: jax.Array, config: DecoderConfig) -> Params:
    """Token table and, for learned positions, the position table with its offset rows."""
    tokens, positions = jax.random.split(key)
    table = {"tokens": normal(config.init_std)(tokens, (config.vocab_size, config.width))}
    if config.positions == "learned":
        rows = config.max_positions + config.position_offset
        table["positions"] = normal(config.position_init_std)(positions, (rows, config.width))
    return table


def init_norm(_: jax.Array | None, config: DecoderConfig, layers: tuple[int, ...] = ()) -> Params:
    """Scale and bias of one norm, or of `layers` stacked ones; empty for LayerNorm without scale."""
    shape = (*layers, config.width)
    if config.norm == "layernorm_plain":
        return {}
    if config.norm == "layernorm":
        return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}
    return {"scale": jnp.zeros(shape) if config.norm == "rmsnorm_plus_one" else jnp.ones(shape)}


def init_layers(key: jax.Array, config: DecoderConfig, layers: int) -> Params:
    """Parameters of `layers` blocks, stacked on the leading axis."""
    c, init = config, normal(config.init_std)
    keys = iter(jax.random.split(key, 5))
    wide, narrow = (layers, c.width, c.heads, c.head_size), (layers, c.width, c.key_value_heads, c.head_size)
    attn = {"q": init(next(keys), wide), "k": init(next(keys), narrow), "v": init(next(keys), narrow)}
    attn["o"] = jnp.zeros((layers, c.heads, c.head_size, c.width))
    ffn = {"up": init(next(keys), (layers, c.width, c.ffn_width))}
    if c.ffn.endswith("gated"):
        ffn["gate"] = init(next(keys), (layers, c.width, c.ffn_width))
    ffn["down"] = jnp.zeros((layers, c.ffn_width, c.width))
    for part in (attn, ffn):
        for name in [name for name in part if c.has_bias(name)]:
            reads = 3 if name == "o" else 2  # axes of the layers and of what the projection reads; the rest it gives
            part[name + "_bias"] = jnp.zeros((layers, *part[name].shape[reads:]))
    if c.qk_norm != "none":
        for name, heads in (("q_norm", c.heads), ("k_norm", c.key_value_heads)):
            attn[name] = {"scale": jnp.ones((layers, heads, c.head_size))}
            if c.qk_norm == "layernorm":
                attn[name]["bias"] = jnp.zeros((layers, heads, c.head_size))
    return {
        "attn": attn,
        "ffn": ffn,
        "attn_norm": init_norm(None, c, (layers,)),
        "ffn_norm": init_norm(None, c, (layers,)),
    }
