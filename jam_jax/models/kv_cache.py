"""Keys and values as decoding keeps them, a slot a position: how they lie, how they are written, and who reads them.

On accelerators and meshes what a head keeps lies together. XLA's CPU backend copies that into another order before it
multiplies it, which takes several times as long as reading it. There keys lie as planes over the slots, one for every
feature, and values as planes over the features, one for every slot: a token's scores, and what it takes from the
values, are sums of planes (`planes`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jam_jax import sharding
from jam_jax.config import DecoderConfig
from jam_jax.models import attention, planes
from jam_jax.models.attention import KV
from jam_jax.sharding import shard

HEADS = "BKSH", "BKSH"  # the axes of keys and of values
PLANES = "HBKS", "SBKH"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeysValues:
    """Of one layer, and how they lie."""

    keys: jax.Array
    values: jax.Array
    order: tuple[str, str] = dataclasses.field(metadata={"static": True})

    def each(self, change: Callable[[jax.Array, str], jax.Array]) -> "KeysValues":
        """Both changed, by their axes."""
        keys, values = map(change, (self.keys, self.values), self.order)
        return KeysValues(keys, values, self.order)


def empty(config: DecoderConfig, batch: int, count: int) -> KeysValues:
    """`count` slots for a batch, zeros in the compute dtype."""
    order, dtype = (PLANES, planes.kept(config.dtype)) if sharding.lone_cpu() else (HEADS, config.dtype)
    sizes = {"B": batch, "K": config.key_value_heads, "S": count, "H": config.head_size}
    keys, values = (jnp.zeros([sizes[axis] for axis in axes], dtype) for axes in order)
    return KeysValues(keys, values, order)


def slots(cache: Any) -> int:
    """How many slots a cache has, the layers' KeysValues in whatever tree."""
    layer = jax.tree.leaves(cache, is_leaf=is_layer)[0]
    return layer.keys.shape[layer.order[0].index("S")]


def of_rows(cache: Any, which: jax.Array) -> Any:
    """A cache of the rows `which` of another."""

    def take(array: jax.Array, axes: str) -> jax.Array:
        return jnp.take(array, which, axis=axes.index("B"))

    return jax.tree.map(lambda layer: layer.each(take), cache, is_leaf=is_layer)


def padded(cache: Any, count: int) -> Any:
    """The same cache with so many slots."""

    def pad(array: jax.Array, axes: str) -> jax.Array:
        return jnp.pad(array, [(0, count - n if axis == "S" else 0) for axis, n in zip(axes, array.shape, strict=True)])

    return jax.tree.map(lambda layer: layer.each(pad), cache, is_leaf=is_layer)


def is_layer(tree: Any) -> bool:
    """Whether it is a layer's cache, and no tree of them."""
    return isinstance(tree, KeysValues)


def attend(q: jax.Array, new: KV, cache: KeysValues, positions: jax.Array) -> tuple[jax.Array, KeysValues]:
    """Write new keys and values [B, T, K, H] into the slots `positions` [B, T], and attend to all slots up to them.

    q [B, T, N, H] → [B, T, N, H] and the cache. Slots past the end are dropped.
    """
    held = zip((cache.keys, cache.values), cache.order, new, strict=True)
    keys, values = (_written(*of, positions) for of in held)
    cache = KeysValues(keys, values, cache.order)
    seen = attention.filled(positions, slots(cache))
    if cache.order == PLANES and q.shape[1] == 1:
        return planes.attend(q[:, 0], cache.keys, cache.values, seen[:, 0])[:, None], cache
    heads = cache.each(lambda array, axes: planes.numbers(array.transpose([axes.index(axis) for axis in "BSKH"])))
    return attention.attend(q, heads.keys, heads.values, seen), cache


def _written(array: jax.Array, axes: str, new: jax.Array, positions: jax.Array) -> jax.Array:
    """new [B, T, K, H] in the slots `positions` [B, T] of an array with the axes `axes`."""
    indices = {"B": jnp.arange(positions.shape[0])[:, None], "S": positions}
    place = tuple(indices.get(axis, slice(None)) for axis in axes)
    new = new if axes.index("K") < axes.index("H") else new.swapaxes(2, 3)
    array = array.at[place].set(new.astype(planes.numbers(array).dtype).view(array.dtype), mode="drop")
    names = {"B": "batch", "K": "kv_heads", "S": "length", "H": "head"}
    return shard(array, *(names[axis] for axis in axes))
