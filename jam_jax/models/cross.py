"""JAM-Cross: two towers that read each other (arXiv 2309.15564, section 2.2.3; order of the original code).

    embed/{tokens, positions}   llm/layers   img/layers   cross/{llm, img} (stacked over the cross blocks)
    project [2D, D] (image tower's rows first)   final_norm

`cross/llm` has the LLM tower as its query and the image tower as keys and values; `cross/img` the reverse.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.models import attention, decoder, kernels
from jam_jax.models.layers import Params, feed_forward, norm
from jam_jax.sharding import gathered, shard

Towers = dict[str, jax.Array]  # states of "llm" and "img", each [B, T, D]


def cross_block(
    config: DecoderConfig,
    params: Params,
    x: jax.Array,
    other: jax.Array,
    positions: jax.Array,
    documents: jax.Array | None = None,
) -> jax.Array:
    """A whole block whose keys and values come from the other tower's raw residual stream, causally.

    Only the query side is normalised, as in the original.
    """
    q = attention.project_queries(config, params["attn"], norm(config, params["attn_norm"], x), positions)
    kv = attention.project_keys_values(config, params["attn"], other, positions)
    x = x + attention.output(config, params["attn"], kernels.causal(config, q, *kv, documents))
    x = x + feed_forward(config, params["ffn"], norm(config, params["ffn_norm"], x))
    return shard(x, "batch", "length", "embed")


def run_towers(
    config: CrossConfig, params: Params, x: Towers, positions: jax.Array, documents: jax.Array | None = None
) -> Towers:
    """All self blocks of both towers, with the cross blocks after layers 0, every, 2 every, …

    Scanned over groups of `every` layers, so the program's size does not grow with depth; layers that do not fill a
    last group form a shorter one.
    """
    configs = {"llm": config.llm, "img": config.img}
    layers = {name: params[name]["layers"] for name in configs}

    def run_selves(layers: Params, x: Towers) -> Towers:
        return {name: decoder.run_layers(c, layers[name], x[name], positions, documents) for name, c in configs.items()}

    if not config.every:
        return run_selves(layers, x)

    def group(x: Towers, inputs: tuple[Params, Params]) -> tuple[Towers, None]:
        layers, cross = inputs
        first, rest = _split(layers, 1)
        x = run_selves(first, x)
        # Both directions read the states from before either is updated.
        x = {
            name: cross_block(
                configs[name], gathered(cross[name], configs[name].dtype), x[name], x[other], positions, documents
            )
            for name, other in (("llm", "img"), ("img", "llm"))
        }
        return run_selves(rest, x), None

    # The group is recomputed as a whole; its layers need not be recomputed once more inside.
    configs = {name: dataclasses.replace(c, remat="none") for name, c in configs.items()}
    body = decoder.rematerialised(config.img, group)
    full = config.img.layers // config.every
    head, tail = _split(layers, full * config.every)
    cross_head, cross_tail = _split(params["cross"], full)
    grouped = jax.tree.map(lambda a: a.reshape(full, config.every, *a.shape[1:]), head)
    x, _ = jax.lax.scan(body, x, (grouped, cross_head))
    if config.img.layers % config.every:
        x, _ = body(x, (tail, jax.tree.map(lambda a: a[0], cross_tail)))
    return x


def _split(tree: Any, at: int) -> tuple[Any, Any]:
    """A tree of stacked arrays cut on the leading axis."""
    return jax.tree.map(lambda a: a[:at], tree), jax.tree.map(lambda a: a[at:], tree)


class CrossDecoder(nn.Module):
    """tokens [B, T] int32, positions [B, T] int32 (default 0..T-1) → logits [B, T, V] float32.

    With `head` false the normalised states [B, T, D] that the head would read, in place of the logits.
    """

    config: CrossConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array | None = None, *, head: bool = True) -> jax.Array:
        c = self.config
        table = self.param("embed", decoder.init_embed, c.img)
        params = {name: self.param(name, _init_tower, t) for name, t in (("llm", c.llm), ("img", c.img))}
        params["cross"] = self.param("cross", init_cross, c)
        project = self.param("project", init_project, c)
        final = self.param("final_norm", decoder.init_norm, c.img)
        output = (
            table["tokens"]
            if c.img.tied
            else self.param("unembed", decoder.normal(c.img.init_std), table["tokens"].shape)
        )
        positions, documents = decoder.places(tokens, positions)
        x = decoder.embed(c.img, table, tokens, positions)
        towers = run_towers(c, params, {"llm": x, "img": x}, positions, documents)
        both = jnp.concatenate([towers["img"], towers["llm"]], axis=-1)  # image tower first: [B, T, 2D]
        project = gathered({"project": project}, c.img.dtype)["project"]
        x = norm(c.img, final, shard(jnp.einsum("BTE,ED->BTD", both, project), "batch", "length", "embed"))
        return decoder.unembed(output, x) if head else x


def _init_tower(key: jax.Array, config: DecoderConfig) -> Params:
    return {"layers": decoder.init_layers(key, config, config.layers)}


def init_cross(key: jax.Array, config: CrossConfig) -> Params:
    """All new cross blocks, stacked; nothing where there are none."""
    if not config.cross_blocks:
        return {}
    fold, blocks = jax.random.fold_in, jnp.arange(config.cross_blocks)
    return {
        name: jax.vmap(lambda block, i=i, tower=tower: init_cross_block(fold(fold(key, i), block), tower))(blocks)
        for i, (name, tower) in enumerate((("llm", config.llm), ("img", config.img)))
    }


def init_cross_block(key: jax.Array, config: DecoderConfig) -> Params:
    """One new cross block: q, k, v Xavier uniform with gain 1/sqrt(2), outputs zero, so that it is the identity.

    A cross block reads keys and values from a tower of the same width, so it has a self block's shapes.
    """
    params = jax.tree.map(lambda leaf: leaf[0], decoder.init_layers(key, config, 1))
    for i, name in enumerate("qkv"):
        shape = params["attn"][name].shape
        bound = (0.5 * 6 / (shape[0] + shape[1] * shape[2])) ** 0.5
        params["attn"][name] = jax.random.uniform(jax.random.fold_in(key, i), shape, minval=-bound, maxval=bound)
    return params


def init_project(key: jax.Array, config: CrossConfig) -> jax.Array:
    """[2D, D], normal with standard deviation D^-1/2, as in the original."""
    width = config.img.width
    return width**-0.5 * jax.random.normal(key, (2 * width, width))
