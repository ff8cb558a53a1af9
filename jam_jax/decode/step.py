"""One token for every row: the model reads each row's last token, and the next one is sampled or forced.

With guidance (arXiv 2309.15564, section 3) the unconditional rows go through the model in
the same pass. Their stream is a short prefix, the opening id, and the same codes, at positions of its own; since a
cache slot is a position, a new picture simply writes over the last one's slots.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jam_jax import sampling
from jam_jax.decode import state as states
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import State
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import CODE, TokenSpace


class Numbers(NamedTuple):
    """The settings that are numbers: traced, so that changing one does not compile again. Pairs are (text, image)."""

    temperature: jax.Array  # [2] float32
    top_k: jax.Array  # [2] int32
    top_p: jax.Array  # [2] float32
    guidance: jax.Array  # [] float32
    max_images: jax.Array  # [] int32


def numbers(settings: Settings) -> Numbers:
    """The numbers of the settings as arrays."""
    pair = (settings.text, settings.image)
    return Numbers(
        jnp.array([s.temperature for s in pair], jnp.float32),
        jnp.array([s.top_k for s in pair], jnp.int32),
        jnp.array([s.top_p for s in pair], jnp.float32),
        jnp.float32(settings.guidance),
        jnp.int32(settings.max_images),
    )


def step(config: LanguageConfig, space: TokenSpace, params: dict, values: Numbers, state: State) -> State:
    """The next token of every row, without guidance; the cache has B rows."""
    tokens, positions = _last(state)
    logits, cache = model.forward(config, params, tokens[:, None], positions[:, None], state.cache)
    return _choose(space, values, dataclasses.replace(state, cache=cache), logits[:, 0])


def guided_step(
    config: LanguageConfig, space: TokenSpace, params: dict, values: Numbers, prefix: int, state: State
) -> State:
    """The next token of every row, with guidance on the rows that draw; the cache has 2B rows (see `join`).

    `prefix` is the number of tokens before the opening id in the unconditional stream.
    """
    tokens, positions = _last(state)
    drawing = states.draws(space, state)
    # A row that does not draw parks its second stream on the opening id, which its next picture writes anew.
    other = jnp.where(drawing, tokens, space.picture_layout[0])
    there = prefix + jnp.where(drawing, state.place - 1, 0)
    tokens, positions = jnp.concatenate([tokens, other]), jnp.concatenate([positions, there])
    logits, cache = model.forward(config, params, tokens[:, None], positions[:, None], state.cache)
    conditional, unconditional = jnp.split(logits[:, 0], 2)
    guided = sampling.guide(conditional, unconditional, values.guidance)
    logits = jnp.where(drawing[:, None], guided, conditional)
    return _choose(space, values, dataclasses.replace(state, cache=cache), logits)


def join(cache: Any, unconditional: Any) -> Any:
    """A cache of B rows and the unconditional prefix's one row, [L, rows, S, K, H] each, as a cache of 2B rows."""

    def both(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.concatenate([a, jnp.broadcast_to(b, a.shape)], axis=1)

    return jax.tree.map(both, cache, unconditional)


def split(cache: Any) -> Any:
    """The first B rows of a cache of 2B rows."""
    return jax.tree.map(lambda a: a[:, : a.shape[1] // 2], cache)


def _last(state: State) -> tuple[jax.Array, jax.Array]:
    """The last token of every row and its position, each [B]; reading it again later changes nothing."""
    at = state.length - 1
    return jnp.take_along_axis(state.tokens, at[:, None], axis=1)[:, 0], at


def _choose(space: TokenSpace, values: Numbers, state: State, logits: jax.Array) -> State:
    """Append to every row the token that is forced, or one sampled from logits [B, V] among the allowed."""
    logits = jnp.where(states.allowed(space, state, values.max_images), logits, -jnp.inf)
    kind = states.draws(space, state).astype(jnp.int32)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    token = sampling.sample(keys, logits, values.temperature[kind], values.top_k[kind], values.top_p[kind])
    forced = states.forced(space, state)
    return states.advance(space, state, jnp.where(forced == CODE, token, forced))
