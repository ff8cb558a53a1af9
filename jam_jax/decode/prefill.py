"""Reading the prompts: a batch's arrays, its caches, and both at their next size.

A prompt goes through the model in one pass, or in several where it is long, so that no pass attends to all of it at
once. Equal prompts of a batch are read once and their cache is handed to all of their rows.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax import sharding
from jam_jax.decode.requests import Request
from jam_jax.decode.state import DRAWING, ENDED, State
from jam_jax.decode.step import Program
from jam_jax.models import kv_cache, model
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import IMAGE, TEXT, TokenSpace

SLOTS = 256  # of a cache at first
CHUNK = 512  # tokens that are read at once


def power_of_two(n: int, least: int = 1) -> int:
    """The least power of two that is at least n."""
    return max(least, 1 << (n - 1).bit_length())


def spread(rows: int) -> int:
    """So many rows, or the next number of them that the mesh in force divides; ValueError if it spreads lengths."""
    over, lengths = sharding.sizes("batch", "length")
    if lengths > 1:
        raise ValueError(f"decoding writes one token at a time: make a mesh of sequence=1, not {lengths}")
    return -(-rows // over) * over


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes that all batches of a call share."""

    buffer: int  # tokens of a row
    first: int  # slots of the cache at first
    most: int  # and at last
    opened: int  # slots of the second stream's cache that a picture needs; 0: no second stream
    longest: int  # tokens of the longest prefix of a second stream

    def second(self, slots: int) -> int:
        """Slots of the second stream's cache beside `slots` of the first's."""
        return self.opened if slots >= self.most else min(self.opened, max(slots, power_of_two(self.longest + 1)))


def sizes(config: LanguageConfig, space: TokenSpace, requests: Sequence[Request]) -> Sizes:
    """The sizes for some requests."""
    longest = max(len(r.prompt) for r in requests)
    # In steps, so that calls with other limits share programs.
    most = max(-(-max(r.limit for r in requests) // 64) * 64, power_of_two(longest, 16))
    prefix = max(len(r.prefix) for r in requests)
    guided = space.draws and any(r.settings.guided and r.draws for r in requests)
    opened = -(-(prefix + len(space.picture_layout)) // 64) * 64 if guided else 0
    return Sizes(most, min(power_of_two(longest, SLOTS), most), most, opened, prefix)


def start(
    program: Program, params: dict, requests: Sequence[Request], keys: jax.Array, rows: int, sizes: Sizes
) -> State:
    """The state of a batch, padded to `rows` rows that have ended, when its prompts are read."""
    config, space = program.config, program.space
    tokens = np.full((rows, sizes.buffer), space.pad, np.int32)
    length, limit, phase, place, images, prefix = np.zeros((6, rows), np.int32)
    length[:], limit[:], phase[:], prefix[:] = 1, sizes.buffer, ENDED, 1
    width = max((len(r.spans) for r in requests), default=0)
    spans = np.full((rows, width), -1, np.int32)
    for row, r in enumerate(requests):
        tokens[row, : len(r.prompt)], length[row], limit[row] = r.prompt, len(r.prompt), r.limit
        phase[row], place[row], images[row], prefix[row] = r.phase, r.place, r.phase == DRAWING, len(r.prefix)
        spans[row, : len(r.spans)] = r.spans
    cache = _read(config, params, [r.prompt for r in requests], rows, sizes.first)
    second = None
    if sizes.opened:
        second = _read(config, params, [r.prefix for r in requests], rows, sizes.second(sizes.first))
    penalised = any(m.repetition_penalty != 1 for r in requests for m in (r.settings.text, r.settings.image))
    return State(
        tokens=jnp.asarray(tokens),
        length=jnp.asarray(length),
        limit=jnp.asarray(limit),
        phase=jnp.asarray(phase),
        place=jnp.asarray(place),
        images=jnp.asarray(images),
        texts=jnp.zeros(rows, jnp.int32),
        keys=keys,
        prefix=jnp.asarray(prefix),
        seen=jnp.asarray(_seen(space, requests, rows)) if penalised else None,
        spans=jnp.asarray(spans) if width else None,
        span=jnp.zeros(rows, jnp.int32),
        cache=cache,
        second=second,
    )


def _seen(space: TokenSpace, requests: Sequence[Request], rows: int) -> np.ndarray:
    """bool [rows, V]: the text and the codes that the prompts hold."""
    seen = np.zeros((rows, space.vocab_size), bool)
    for row, request in enumerate(requests):
        seen[row, list(request.prompt)] = True
    return seen & np.isin(space.modality, (TEXT, IMAGE))


def _read(config: LanguageConfig, params: dict, prompts: Sequence[Sequence[int]], rows: int, slots: int) -> model.Cache:
    """A cache of `slots` for `rows` rows that has read their prompts; equal ones are read once."""
    distinct = list(dict.fromkeys(tuple(p) for p in prompts))
    number = {prompt: i for i, prompt in enumerate(distinct)}
    count, longest = spread(power_of_two(len(distinct))), max(len(p) for p in distinct)
    width = min(power_of_two(longest, 16), CHUNK)
    tokens = np.zeros((count, -(-longest // width) * width), np.int32)
    for row, prompt in enumerate(distinct):
        tokens[row, : len(prompt)] = prompt
    cache = empty(config, count, slots)
    for first in range(0, longest, width):
        cache = _read_chunk(config, params, jnp.asarray(tokens[:, first : first + width]), jnp.int32(first), cache)
    if count == rows and len(distinct) == len(prompts):
        return cache
    which = [number[tuple(p)] for p in prompts]
    return _rows(cache, jnp.array(which + [0] * (rows - len(which))))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def empty(config: LanguageConfig, rows: int, slots: int) -> model.Cache:
    """A cache that has read nothing."""
    return model.empty_cache(config, rows, slots)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=4)
def _read_chunk(
    config: LanguageConfig, params: dict, tokens: jax.Array, first: jax.Array, cache: model.Cache
) -> model.Cache:
    """Read tokens [B, T] at the positions from `first` on; pads at the right are written over later."""
    positions = jnp.broadcast_to(first + jnp.arange(tokens.shape[1]), tokens.shape)
    return model.forward(config, params, tokens, positions, cache)[1]


def grow(state: State, slots: int, second: int) -> State:
    """The same state with so many slots in its caches."""
    larger = _padded(state.cache, slots)
    return dataclasses.replace(
        state, cache=larger, second=None if state.second is None else _padded(state.second, second)
    )


_rows = jax.jit(kv_cache.of_rows)
_padded = jax.jit(kv_cache.padded, static_argnums=1)
