"""One token for every row: the model reads each row's last token, and the next one is sampled or forced.

With guidance (arXiv 2309.15564, section 3) the unconditional rows go through the model in the same pass, and have a
cache of their own. Their stream is a short prefix, the opening id, and the same codes, at positions of its own; since
a cache slot is a position, a new picture simply writes over the last one's slots.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax import sampling
from jam_jax.decode import state as states
from jam_jax.decode.state import Numbers, State
from jam_jax.models import kv_cache, model
from jam_jax.models.cached import Parts, Wanted
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import CODE, IMAGE, TEXT, TokenSpace


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled loop depends on besides the shapes of its arrays."""

    config: LanguageConfig
    space: TokenSpace
    contrastive: bool = False  # whether some row asks for contrastive decoding


def step(program: Program, params: dict, numbers: Numbers, state: State) -> State:
    """The next token of every row, without guidance."""
    tokens, positions = _last(state)
    wanted = _wanted(program.space, state)
    logits, cache = model.forward(program.config, params, tokens[:, None], positions[:, None], state.cache, wanted)
    return _choose(program, numbers, dataclasses.replace(state, cache=cache), logits[:, 0])


def guided_step(program: Program, params: dict, numbers: Numbers, state: State) -> State:
    """The next token of every row, with guidance on the rows that draw."""
    tokens, positions = _last(state)
    # A row that does not draw parks its second stream on the opening id, which its next picture writes anew.
    opening = program.space.picture_layout[0]
    other = jnp.where(states.draws(program.space, state), tokens, opening)
    tokens = jnp.concatenate([tokens, other])
    positions = jnp.concatenate([positions, second_position(program.space, state)])
    joined = jax.tree.map(Parts, state.cache, state.second, is_leaf=kv_cache.is_layer)
    wanted = _wanted(program.space, state)
    logits, joined = model.forward(program.config, params, tokens[:, None], positions[:, None], joined, wanted)
    cache, second = (
        jax.tree.map(lambda parts, i=i: parts[i], joined, is_leaf=lambda x: isinstance(x, Parts)) for i in range(2)
    )
    conditional, unconditional = jnp.split(logits[:, 0], 2)
    return _choose(program, numbers, dataclasses.replace(state, cache=cache, second=second), conditional, unconditional)


def second_position(space: TokenSpace, state: State) -> jax.Array:
    """int32 [B]: where the last token of every row stands in the unconditional stream."""
    return state.prefix + jnp.where(states.draws(space, state), state.place - 1, 0)


def _wanted(space: TokenSpace, state: State) -> Wanted | None:
    """Which logits the rows choose from; None, all of them, where a vocabulary has other ids between the pictures'."""
    ids = np.sort(space.image_ids)
    if not len(ids) or ids[-1] - ids[0] >= len(ids):
        return None
    code, alive = states.chooses_code(space, state), state.phase != states.ENDED
    return Wanted(int(ids[0]), int(ids[-1]) + 1, jnp.any(alive & code), jnp.any(alive & ~code))


def _last(state: State) -> tuple[jax.Array, jax.Array]:
    """The last token of every row and its position, each [B]; reading it again later changes nothing."""
    at = state.length - 1
    return jnp.take_along_axis(state.tokens, at[:, None], axis=1)[:, 0], at


def _choose(
    program: Program, numbers: Numbers, state: State, logits: jax.Array, unconditional: jax.Array | None = None
) -> State:
    """Append to every row the token that is forced, or one sampled from logits [B, V] among the allowed."""
    space = program.space
    may = states.allowed(space, state, numbers)
    if unconditional is not None:
        logits = jnp.where(
            states.draws(space, state)[:, None], _guided(program, numbers, logits, unconditional, may), logits
        )
    kind = states.chooses_code(space, state).astype(jnp.int32)
    row = jnp.arange(kind.shape[0])
    if state.seen is not None:
        modality = jnp.asarray(space.modality)
        own = modality == jnp.where(kind == 1, IMAGE, TEXT)[:, None]
        logits = sampling.penalise(logits, state.seen & own, numbers.penalty[row, kind])
    logits = jnp.where(may, logits, -jnp.inf)
    keys = jax.vmap(jax.random.fold_in)(state.keys, state.length)
    limits = (numbers.temperature[row, kind], numbers.top_k[row, kind], numbers.top_p[row, kind])
    token = sampling.sample(keys, logits, *limits)
    forced = states.forced(space, state)
    return states.advance(space, state, jnp.where(forced == CODE, token, forced))


def _guided(
    program: Program, numbers: Numbers, conditional: jax.Array, unconditional: jax.Array, may: jax.Array
) -> jax.Array:
    """The logits [B, V] that both streams make together; a strength of 1 leaves the conditional ones as they are."""
    strength = numbers.guidance[:, None]
    guided = jnp.where(strength == 1, conditional, sampling.guide(conditional, unconditional, strength))
    if not program.contrastive:
        return guided
    c, u = (jnp.where(may, x, -jnp.inf) for x in (conditional, unconditional))
    other = sampling.contrast(c, u, jnp.maximum(numbers.cd_k, 1), numbers.cd_share)
    return jnp.where(numbers.cd_k[:, None] > 0, other, guided)
