"""The interleaved decoder: prompts are read in one pass, then a jitted `lax.while_loop` writes and draws.

Arrays are padded to shape buckets (rows, prompt length, cache slots), each compiled once; numbers among the settings
are traced. Padding changes no result: a padded row has ended before it starts, and slots past a row's position are
unseen. The loop hands over to the host when the cache is full, which then doubles it, so that no token attends to
many more slots than there are tokens; and now and then, so that a caller can show what is there and a user can stop.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jam_jax import sharding
from jam_jax.decode import prefill, weights
from jam_jax.decode import state as states
from jam_jax.decode import step as steps
from jam_jax.decode.requests import Request, check, read
from jam_jax.decode.settings import Settings
from jam_jax.decode.state import ENDED, Numbers, State
from jam_jax.decode.step import Program
from jam_jax.models import few_rows, kv_cache
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TokenSpace

TURN = 256  # tokens until the host is asked whether to go on


def generate(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    prompts: Sequence[Sequence[int]],
    settings: Settings | Sequence[Settings] = Settings(),
    *,
    seed: int = 0,
    keys: jax.Array | None = None,
    unconditional: Sequence[Sequence[int]] | None = None,
    spans: Sequence[Sequence[int]] | None = None,
    rows: int = 64,
    advance: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Continue every prompt; gives the tokens after it, the end of the document included.

    `settings` are of all prompts or one of each. `keys` [len(prompts)] decide the samples, by default
    `row_keys(seed, len(prompts))`: a row's tokens depend on its prompt, its key and its settings, never on its
    neighbours. At most `rows` prompts run at once, a power of two; equal prompts among them are read once.
    `advance(n)` hears of n finished ones. `unconditional` is, for each prompt, what stands before the opening id in
    guidance's second stream, by default what its settings say. `spans`, for each prompt, are gaps to fill, as
    `Request` has them. `params` are as they are stored, or prepared (`weights.prepare`).
    ValueError: a prompt that is empty, too long or malformed, no room for the picture that it opened, or settings and
    model that contradict each other.
    """
    results: list[list[int]] = [[] for _ in prompts]
    done = 0
    for found in stream(
        config, params, space, prompts, settings,
        seed=seed, keys=keys, unconditional=unconditional, spans=spans, rows=rows, every=TURN,
    ):  # fmt: skip
        for row, part in found.items():
            results[row] = part.ids
        ended = sum(part.ended for part in found.values())
        if advance is not None and ended:
            advance(ended)
        done += ended
    assert done == len(prompts)
    return results


@dataclasses.dataclass(frozen=True)
class Part:
    """What a row has so far."""

    ids: list[int]  # the tokens after the prompt
    ended: bool


def stream(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    prompts: Sequence[Sequence[int]],
    settings: Settings | Sequence[Settings] = Settings(),
    *,
    every: int,
    seed: int = 0,
    keys: jax.Array | None = None,
    unconditional: Sequence[Sequence[int]] | None = None,
    spans: Sequence[Sequence[int]] | None = None,
    rows: int = 64,
) -> Iterator[dict[int, Part]]:
    """`generate`, `every` so many tokens: what the running prompts have, by number; the ended ones a last time.

    Everything is checked before the first token. ValueError as `generate`.
    """
    requests = read(config, space, prompts, settings, unconditional, spans)
    check(config, space, requests)
    batch(len(requests), rows)
    if every < 1:
        raise ValueError(f"every must be at least 1 token, got {every}")
    return _stream(config, params, space, requests, seed, keys, rows, every)


def _stream(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    requests: list[Request],
    seed: int,
    keys: jax.Array | None,
    rows: int,
    every: int,
) -> Iterator[dict[int, Part]]:
    if not requests:
        return
    if keys is None:
        keys = row_keys(seed, len(requests))
    count = batch(len(requests), rows)
    if not weights.is_ready(params):
        config, params = weights.prepare(config, params, rows=count)
    program = Program(config, space, any(r.settings.cd_k > 0 for r in requests))
    sizes = prefill.sizes(config, space, requests)
    for first in range(0, len(requests), count):
        chunk = requests[first : first + count]
        mine = keys[np.minimum(np.arange(first, first + count), len(requests) - 1)]
        ended: set[int] = set()
        for state in _turns(program, params, chunk, mine, count, sizes, every):
            tokens, length, phase = (np.asarray(x) for x in _everywhere((state.tokens, state.length, state.phase)))
            yield {
                first + row: Part(tokens[row, len(request.prompt) : length[row]].tolist(), bool(phase[row] == ENDED))
                for row, request in enumerate(chunk)
                if row not in ended
            }
            ended |= set(np.flatnonzero(phase == ENDED).tolist())


def batch(prompts: int, rows: int) -> int:
    """How many rows decode at once: a power of two, at most `rows` and no more than there are prompts for.

    A mesh in force may need some more, so that it divides them.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    return prefill.spread(min(prefill.power_of_two(max(prompts, 1)), 1 << (rows.bit_length() - 1)))


def row_keys(seed: int, rows: int) -> jax.Array:
    """Random keys [rows]; a row's key depends on the seed and on its own number only."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(rows))


def _turns(
    program: Program,
    params: dict,
    requests: list[Request],
    keys: jax.Array,
    rows: int,
    sizes: prefill.Sizes,
    every: int,
) -> Iterator[State]:
    """The states of one batch, `every` so many tokens and at its end."""
    numbers = Numbers.of([r.settings for r in requests] + [requests[0].settings] * (rows - len(requests)))
    state, slots = prefill.start(program, params, requests, keys, rows, sizes), sizes.first
    left = every
    while True:
        state, left_now = run(program, params, numbers, state, jnp.int32(left))
        left = int(left_now)
        alive = bool(_alive(state))
        if left == 0 or not alive:
            yield state
            left = every
        if not alive:
            return
        if bool(_full(program, state)):
            slots = min(2 * slots, sizes.most)
            state = prefill.grow(state, slots, sizes.second(slots))


@jax.jit
def _alive(state: State) -> jax.Array:
    """Whether a row goes on."""
    return jnp.any(state.phase != ENDED)


@jax.jit
def _everywhere(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The same arrays, on a mesh whole on every device, so that every process can read them."""
    return tuple(sharding.shard(x, *[None] * x.ndim) for x in arrays)


@functools.partial(jax.jit, static_argnums=0)
def _full(program: Program, state: State) -> jax.Array:
    """Whether a row's last token has no slot to be read into."""
    full = jnp.any((state.phase != ENDED) & (state.length > kv_cache.slots(state.cache)))
    if state.second is None:
        return full
    drawing = states.draws(program.space, state)
    at = steps.second_position(program.space, state)
    return full | jnp.any(drawing & (at >= kv_cache.slots(state.second)))


def run(program: Program, params: dict, numbers: Numbers, state: State, tokens: jax.Array) -> tuple[State, jax.Array]:
    """Decode until every row has ended, the cache is full, or `tokens` are written; gives how many of these are left.

    Two loops take turns, so that the second stream is computed only while some row draws; a row that begins a picture
    meanwhile just joins in. The state is donated.
    """
    return compiled(few_rows.few(state.length.shape[0]))(program, params, numbers, state, tokens)


@functools.cache
def compiled(few: bool) -> Callable:
    """`run`, to be compiled for few rows or for many."""
    return jax.jit(_run, static_argnums=0, donate_argnums=3, compiler_options=few_rows.WIDE if few else None)


def _run(program: Program, params: dict, numbers: Numbers, state: State, tokens: jax.Array) -> tuple[State, jax.Array]:
    Carry = tuple[State, jax.Array]

    def goes_on(carry: Carry) -> jax.Array:
        state, left = carry
        return jnp.any(state.phase != ENDED) & (left > 0) & ~_full(program, state)

    def drawing(carry: Carry) -> jax.Array:
        return jnp.any(states.draws(program.space, carry[0]))

    def plain(carry: Carry) -> Carry:
        return steps.step(program, params, numbers, carry[0]), carry[1] - 1

    def guided(carry: Carry) -> Carry:
        return steps.guided_step(program, params, numbers, carry[0]), carry[1] - 1

    if state.second is None:
        return jax.lax.while_loop(goes_on, plain, (state, tokens))

    def turn(carry: Carry) -> Carry:
        carry = jax.lax.while_loop(lambda c: goes_on(c) & ~drawing(c), plain, carry)
        return jax.lax.while_loop(lambda c: goes_on(c) & drawing(c), guided, carry)

    return jax.lax.while_loop(goes_on, turn, (state, tokens))
