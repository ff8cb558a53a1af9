"""The models with a cache that is passed in and handed back: what decoding runs, a few tokens at a time.

A cache slot *is* a position: the key of the token at position p of a row lies in slot p, and a query at position p
sees the slots 0..p. So a row needs no length: what lies beyond its position is never seen, and writing at a position
again replaces what stood there (a guided picture restarts its unconditional stream that way).

Layers come one after another, each with its own parameters and cache (`decode.weights` makes them so). A scan would
copy every layer's weights and cache out of a stack, and the cache back into it, in more time than the layer takes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jam_jax.config import CrossConfig, DecoderConfig
from jam_jax.models import attention, decoder, few_rows, kv_cache
from jam_jax.models.attention import KV
from jam_jax.models.kv_cache import KeysValues
from jam_jax.models.layers import Params, feed_forward, norm, times
from jam_jax.sharding import shard


class Parts(NamedTuple):
    """A layer's cache in two: the first half of a batch's rows lie in the one, the others in the other.

    Each has slots of its own number: guidance's second stream is as short as one picture, however long its document.
    """

    first: KeysValues
    second: KeysValues


class Wanted(NamedTuple):
    """Which logits are read: those of the pictures' ids, of all others, or both. The rest may be -inf."""

    first: int  # of the pictures' ids, which are consecutive
    last: int  # one past them
    image: jax.Array  # bool
    other: jax.Array  # bool


LayerCache = KeysValues | Parts
# One a layer; of JAM-Cross {"self": {llm, img}, "cross": {llm, img}} of them.
Cache = tuple[LayerCache, ...] | dict[str, dict[str, tuple[LayerCache, ...]]]
Towers = dict[str, jax.Array]  # states of "llm" and "img", each [B, T, D]


def empty(config: DecoderConfig | CrossConfig, batch: int, slots: int) -> Cache:
    """A cache that has read nothing."""

    def layers(config: DecoderConfig, count: int) -> tuple[KeysValues, ...]:
        return tuple(kv_cache.empty(config, batch, slots) for _ in range(count))

    if isinstance(config, DecoderConfig):
        return layers(config, config.layers)
    return {
        kind: {name: layers(tower, count) for name, tower in _towers(config).items()}
        for kind, count in (("self", config.img.layers), ("cross", config.cross_blocks))
    }


def forward(
    config: DecoderConfig | CrossConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    wanted: Wanted | None = None,
) -> tuple[jax.Array, Cache]:
    """tokens and positions [B, T] int32 → logits [B, T, V] float32 and the cache, updated at `positions`.

    `params` are as they are stored, or layer by layer (`decode.weights`). Slots past the end are dropped.
    """
    first = config.decoders[-1]  # of JAM-Cross the image tower, whose embedding and norm are the whole model's
    x = decoder.embed(first, params["embed"], tokens, positions)
    new: Cache
    if isinstance(config, DecoderConfig):
        assert isinstance(cache, tuple)
        x, new = _run(config, params["layers"], x, positions, cache)
    else:
        assert isinstance(cache, dict)
        towers, new = _run_towers(config, params, {"llm": x, "img": x}, positions, cache)
        both = jnp.concatenate([towers["img"], towers["llm"]], axis=-1)  # image tower first: [B, T, 2D]
        x = shard(times(params, "project", "BTE,ED->BTD", both), "batch", "length", "embed")
    return _logits(first, params, norm(first, params["final_norm"], x), wanted), new


def _logits(config: DecoderConfig, params: Params, x: jax.Array, wanted: Wanted | None) -> jax.Array:
    """Normalised states [B, T, D] → logits [B, T, V] float32."""
    if "head" in params:
        x = x.astype(jnp.float32)
        if wanted is None or not few_rows.suit(math.prod(x.shape[:-1]), params["head"]):
            return times(params, "head", "BTD,DV->BTV", x)
        logits, step = _parts_of_logits(params["head"], x, wanted), params.get("head_step")
        return logits if step is None else logits * step
    held, name = (params["embed"], "tokens") if config.tied else (params, "unembed")
    logits, step = decoder.unembed(held[name], x), held.get(name + "_step")
    return logits if step is None else logits * step


def _parts_of_logits(head: jax.Array, x: jax.Array, wanted: Wanted) -> jax.Array:
    """x [B, T, D] times the head [D, V], without reading the columns that are not wanted; these logits are -inf."""

    def part(first: int, last: int, read: jax.Array) -> jax.Array:
        nothing = jnp.full((*x.shape[:-1], last - first), -jnp.inf, x.dtype)
        return jax.lax.cond(read, lambda: few_rows.product(1, x, head[:, first:last]), lambda: nothing)

    kinds = (
        (0, wanted.first, wanted.other),
        (wanted.first, wanted.last, wanted.image),
        (wanted.last, head.shape[1], wanted.other),
    )
    return jnp.concatenate([part(*kind) for kind in kinds], axis=-1)


def _run(
    config: DecoderConfig,
    layers: Params | tuple[Params, ...],
    x: jax.Array,
    positions: jax.Array,
    cache: tuple[LayerCache, ...],
) -> tuple[jax.Array, tuple[LayerCache, ...]]:
    new = []
    for i in range(config.layers):
        x, mine = _block(config, _one(layers, i), x, None, positions, cache[i])
        new.append(mine)
    return x, tuple(new)


def _run_towers(
    config: CrossConfig, params: Params, x: Towers, positions: jax.Array, cache: dict
) -> tuple[Towers, dict]:
    """Both towers layer by layer, with the cross blocks after layers 0, every, 2 every, …"""
    new: dict[str, dict[str, list]] = {"self": {"llm": [], "img": []}, "cross": {"llm": [], "img": []}}
    for i in range(config.img.layers):
        kinds = [("self", i)]
        if config.every and i % config.every == 0:
            kinds.append(("cross", i // config.every))
        for kind, number in kinds:
            before, x = x, {}
            for name, other in (("llm", "img"), ("img", "llm")):
                held = params[name]["layers"] if kind == "self" else params["cross"][name]
                # Both directions read the states from before either is updated.
                source = None if kind == "self" else before[other]
                x[name], mine = _block(
                    _towers(config)[name],
                    _one(held, number),
                    before[name],
                    source,
                    positions,
                    cache[kind][name][number],
                )
                new[kind][name].append(mine)
    return x, {kind: {name: tuple(parts) for name, parts in of.items()} for kind, of in new.items()}


def _towers(config: CrossConfig) -> dict[str, DecoderConfig]:
    return {"llm": config.llm, "img": config.img}


def _one(layers: Params | tuple[Params, ...], i: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[i], layers) if isinstance(layers, dict) else layers[i]


def _block(
    config: DecoderConfig,
    params: Params,
    x: jax.Array,
    source: jax.Array | None,
    positions: jax.Array,
    cache: LayerCache,
) -> tuple[jax.Array, LayerCache]:
    """One block on states [B, T, D]; a cross block takes its keys and values from `source`, of the other tower."""
    h = norm(config, params["attn_norm"], x)
    if source is None:
        q, new = attention.project(config, params["attn"], h, positions)
    else:
        q = attention.project_queries(config, params["attn"], h, positions)
        new = attention.project_keys_values(config, params["attn"], source, positions)
    heads, cache = _read(q, new, cache, positions)
    x = x + attention.output(config, params["attn"], heads)
    x = x + feed_forward(config, params["ffn"], norm(config, params["ffn_norm"], x))
    return shard(x, "batch", "length", "embed"), cache


def _read(q: jax.Array, new: KV, cache: LayerCache, positions: jax.Array) -> tuple[jax.Array, LayerCache]:
    """`kv_cache.attend`, for a cache in two parts as well."""
    if isinstance(cache, KeysValues):
        return kv_cache.attend(q, new, cache, positions)
    n = len(q) // 2
    a, first = kv_cache.attend(q[:n], (new[0][:n], new[1][:n]), cache.first, positions[:n])
    b, second = kv_cache.attend(q[n:], (new[0][n:], new[1][n:]), cache.second, positions[n:])
    return jnp.concatenate([a, b]), Parts(first, second)
