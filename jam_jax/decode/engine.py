"""The interleaved decoder: prompts are read in one pass, then one jitted `lax.while_loop` writes and draws.

Arrays are padded to shape buckets (rows, prompt length, buffer), each compiled once; numbers among the settings are
traced. Padding changes no result: a padded row has ended before it starts, and slots past a row's position are unseen.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax.decode import state as states
from jam_jax.decode import step as steps
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import DRAWING, ENDED, State
from jam_jax.decode.step import Numbers
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TokenSpace


def generate(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    prompts: Sequence[Sequence[int]],
    settings: Settings = Settings(),
    *,
    seed: int = 0,
    keys: jax.Array | None = None,
    unconditional: Sequence[int] | None = None,
    rows: int = 64,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt; gives the tokens after it, the end of the document included.

    `keys` [len(prompts)] decide the samples, by default `row_keys(seed, len(prompts))`: a row's tokens depend on its
    prompt, its key and the settings, never on its neighbours. At most `rows` prompts run at once, a power of two;
    `advance(n)` hears of n finished ones. `unconditional` is what stands before the opening id in guidance's second
    stream, by default the vocabulary's own, `TokenSpace.blank`.
    ValueError: a prompt that is empty, too long or malformed, no room for the picture that it opened, or settings and
    model that contradict each other.
    """
    prefix = space.blank if unconditional is None else tuple(unconditional)
    phases = [_check_prompt(config, space, prompt, settings, i) for i, prompt in enumerate(prompts)]
    opened = any(phase == DRAWING for phase, _ in phases)
    _check(config, space, settings, prefix, opened)
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if not prompts:
        return []
    if keys is None:
        keys = row_keys(seed, len(prompts))
    limits = [_limit(config, settings, prompt) for prompt in prompts]
    guided = space.draws and settings.guidance != 1 and (settings.max_images > 0 or opened)
    count = min(_power_of_two(len(prompts)), 1 << (rows.bit_length() - 1))
    width = _power_of_two(max(len(p) for p in prompts), least=16)
    slots = max(-(-max(limits) // 64) * 64, width, len(prefix) + len(space.picture_layout))
    values, second = steps.numbers(settings), jnp.array(prefix, jnp.int32)
    results: list[list[int]] = []
    for first in range(0, len(prompts), count):
        chunk = slice(first, first + count)
        state = _start(space, prompts[chunk], phases[chunk], limits[chunk], keys[chunk], count, slots)
        tokens, lengths = _decode(config, space, width, guided, params, values, second, state)
        for row, prompt in enumerate(prompts[chunk]):
            results.append(np.asarray(tokens)[row, len(prompt) : int(lengths[row])].tolist())
        if advance is not None:
            advance(len(prompts[chunk]))
    return results


def row_keys(seed: int, rows: int) -> jax.Array:
    """Random keys [rows]; a row's key depends on the seed and on its own number only."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(rows))


def _check(
    config: LanguageConfig, space: TokenSpace, settings: Settings, prefix: tuple[int, ...], opened: bool
) -> None:
    if space.vocab_size != config.vocab_size:
        raise ValueError(
            f"the model has {config.vocab_size} vocabulary rows, its tokenizer {space.vocab_size}: "
            "they do not belong together"
        )
    room = states.picture_room(space)
    most = settings.max_new_tokens
    if space.draws and settings.max_images and not opened and most is not None and most < room:
        raise ValueError(
            f"max_new_tokens {most} has no room for a picture, which takes {room}: raise it, or set max_images to 0"
        )
    if len(prefix) + len(space.picture_layout) > config.max_positions or not prefix:
        raise ValueError(f"the unconditional prompt must have 1 token or more and leave room for a picture: {prefix}")


def _check_prompt(
    config: LanguageConfig, space: TokenSpace, prompt: Sequence[int], settings: Settings, index: int
) -> tuple[int, int]:
    """(phase, place) that a prompt leaves its row in; ValueError if the row cannot be continued."""
    if not prompt:
        raise ValueError(f"prompt {index} is empty: begin it with the start of a document, {space.start}")
    if len(prompt) >= config.max_positions:
        raise ValueError(
            f"prompt {index} has {len(prompt)} tokens, but the model has {config.max_positions} positions for prompt "
            "and answer together: shorten it"
        )
    if wrong := [token for token in prompt if not 0 <= token < space.vocab_size]:
        raise ValueError(f"prompt {index} holds the id {wrong[0]}, but the vocabulary has {space.vocab_size}")
    try:
        phase, place = states.read_prompt(space, prompt)
    except ValueError as error:
        raise ValueError(f"prompt {index} is malformed: {error}") from error
    room = states.picture_room(space) - place
    if phase == DRAWING and _limit(config, settings, prompt) - len(prompt) < room:
        raise ValueError(
            f"prompt {index} opens a picture that needs {room} more tokens, but it has {len(prompt)} itself, "
            f"max_new_tokens is {settings.max_new_tokens} and the model has {config.max_positions} positions"
        )
    return phase, place


def _limit(config: LanguageConfig, settings: Settings, prompt: Sequence[int]) -> int:
    """One past the last position that this row may fill."""
    wanted = config.max_positions if settings.max_new_tokens is None else len(prompt) + settings.max_new_tokens
    return min(wanted, config.max_positions)


def _start(
    space: TokenSpace,
    prompts: Sequence[Sequence[int]],
    phases: Sequence[tuple[int, int]],
    limits: Sequence[int],
    keys: jax.Array,
    rows: int,
    slots: int,
) -> State:
    """The state before the prompts are read, padded to `rows` rows that have ended and `slots` positions."""
    tokens = np.full((rows, slots), space.pad, np.int32)
    length, limit, phase, place, images = np.zeros((5, rows), np.int32)
    length[:], limit[:], phase[:] = 1, slots, ENDED
    for row, (prompt, (p, q)) in enumerate(zip(prompts, phases, strict=True)):
        tokens[row, : len(prompt)] = prompt
        length[row], limit[row], phase[row], place[row], images[row] = len(prompt), limits[row], p, q, p == DRAWING
    keys = keys[np.minimum(np.arange(rows), len(prompts) - 1)]
    return State(
        tokens=jnp.asarray(tokens),
        length=jnp.asarray(length),
        limit=jnp.asarray(limit),
        phase=jnp.asarray(phase),
        place=jnp.asarray(place),
        images=jnp.asarray(images),
        keys=keys,
        cache=None,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _decode(
    config: LanguageConfig,
    space: TokenSpace,
    width: int,
    guided: bool,
    params: dict,
    values: Numbers,
    prefix: jax.Array,
    state: State,
) -> tuple[jax.Array, jax.Array]:
    """Read the prompts (at most `width` tokens) and decode until every row has ended: tokens [B, S], lengths [B]."""
    cache = _read(config, params, state.tokens[:, :width], state.tokens.shape[1])
    state = run(config, space, guided, params, values, prefix, dataclasses.replace(state, cache=cache))
    return state.tokens, state.length


def _read(config: LanguageConfig, params: dict, tokens: jax.Array, slots: int) -> model.Cache:
    """A cache of `slots` that has read tokens [B, T] in one pass; pads at the right are written over later."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return model.forward(config, params, tokens, positions, model.empty_cache(config, tokens.shape[0], slots))[1]


def run(
    config: LanguageConfig,
    space: TokenSpace,
    guided: bool,
    params: dict,
    values: Numbers,
    prefix: jax.Array,
    state: State,
) -> State:
    """Decode until every row has ended.

    Two loops take turns, so that the second stream is computed only while some row draws, and its cache, whose only
    lasting part is `prefix` [P], exists only then; a row that begins a picture meanwhile just joins in.
    """

    def alive(state: State) -> jax.Array:
        return jnp.any(state.phase != ENDED)

    def drawing(state: State) -> jax.Array:
        return jnp.any(states.draws(space, state))

    plain = functools.partial(steps.step, config, space, params, values)
    if not guided:
        return jax.lax.while_loop(alive, plain, state)
    second = _read(config, params, prefix[None], state.tokens.shape[1])
    guide = functools.partial(steps.guided_step, config, space, params, values, prefix.shape[0])

    def turn(state: State) -> State:
        state = jax.lax.while_loop(lambda s: alive(s) & ~drawing(s), plain, state)
        state = dataclasses.replace(state, cache=steps.join(state.cache, second))
        state = jax.lax.while_loop(drawing, guide, state)
        return dataclasses.replace(state, cache=steps.split(state.cache))

    return jax.lax.while_loop(alive, turn, state)


def _power_of_two(n: int, least: int = 1) -> int:
    return max(least, 1 << (n - 1).bit_length())
