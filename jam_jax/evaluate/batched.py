"""Rows of ids through a model on a mesh: how likely each is, and how each goes on greedily.

Rows of like length go together, padded to few shapes, each of which is compiled once. With several processes the first
asks and gets the answers; the others follow (`together`).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jam_jax import checkpoint, losses, sharding
from jam_jax.config import LossConfig, MeshConfig
from jam_jax.decode.prefill import power_of_two
from jam_jax.evaluate.together import Together
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.tokens import TEXT, TokenSpace

LEAST = 16  # tokens of the shortest rows
CHUNK = LossConfig.chunk  # tokens on each device whose logits are held at once
TURN = 32  # tokens that are written until the host is asked whether to go on
NO_NUMBER = "the model gives what is not a number: its weights or its dtype are at fault"
LIKELIHOOD, BEGIN, GO_ON = range(3)  # functions of `together`


def load(
    directory: str | Path, config: LanguageConfig, space: TokenSpace, mesh: MeshConfig, batch_tokens: int
) -> "Batched":
    """The model of a directory on a mesh, of the config and token space that it holds; errors as of `Batched`."""
    made = sharding.make_mesh(mesh)
    shapes = checkpoint.shapes(config)
    sharding.require_divisible(made, shapes)
    _, params = checkpoint.load_model(directory, shardings=sharding.parameter_shardings(made, shapes))
    return Batched(config, params, space, made, batch_tokens)


class Batched:
    """A model, ready to score and continue rows of ids."""

    def __init__(
        self, config: LanguageConfig, params: dict, space: TokenSpace, mesh: Mesh, batch_tokens: int = 8192
    ) -> None:
        """`params` lie on `mesh` (`sharding.parameter_shardings`); `batch_tokens` bounds a batch's padded size
        on each device that has rows of its own.

        ValueError if the vocabulary is not the model's, or the mesh splits rows and does not divide their length.
        """
        if space.vocab_size != config.vocab_size:
            raise ValueError(f"the model has {config.vocab_size} vocabulary rows, the tokenizer {space.vocab_size}")
        if config.max_positions % mesh.shape["sequence"] or LEAST % mesh.shape["sequence"]:
            raise ValueError(
                f"mesh.sequence={mesh.shape['sequence']} does not divide rows of {LEAST} and of {config.max_positions} "
                "tokens: choose a smaller one"
            )
        self.config, self.space = config, space
        self._params, self._mesh, self._batch_tokens = params, mesh, batch_tokens
        self._spread = mesh.shape["data"] * mesh.shape["fsdp"]
        self._state: Any = None  # of the rows that are being written
        self.together = Together((self._likelihood, self._begin, self._go_on))

    def likelihoods(
        self,
        rows: Sequence[Sequence[int]],
        targets: Sequence[int],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[tuple[float, bool]]:
        """log p of the last `targets` ids of each row given those before, in nats, and whether each is the likeliest.

        A row has at most max_positions + 1 ids, and more than its targets. ValueError where the model gives what is no
        number. `advance(n)` hears of n finished rows.
        """
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for length, count, chosen in self._batches([len(row) - 1 for row in rows]):
            nll, likeliest = self.together.call(LIKELIHOOD, self._padded([rows[i] for i in chosen], count, length + 1))
            for place, i in enumerate(chosen):
                counted = slice(len(rows[i]) - 1 - targets[i], len(rows[i]) - 1)
                value = float(nll[place, counted].sum(dtype=np.float64))
                if not np.isfinite(value):
                    raise ValueError(NO_NUMBER)
                found[i] = (-value, bool(likeliest[place, counted].all()))
            advance(len(chosen))
        return found

    def continuations(
        self,
        rows: Sequence[Sequence[int]],
        most: int,
        stops: Callable[[int, list[int]], bool],
        advance: Callable[[int], None] = lambda n: None,
    ) -> list[list[int]]:
        """What follows each row, greedily: text up to the end of the document, which is left out, or `most` ids.

        `stops(i, ids)` says whether what row i has so far is enough; it is asked now and then, so there may be more.
        A row and `most` together have at most max_positions ids. ValueError where the model gives what is no number,
        or on a mesh that splits rows.
        """
        if self._mesh.shape["sequence"] > 1:
            raise ValueError("writing goes one token at a time: make a mesh of sequence=1")
        found: list[list[int]] = [[] for _ in rows]
        for length, count, chosen in self._batches([len(row) + most for row in rows]):
            held = np.zeros((count, 2), np.int32)  # ids that a row has, and may still get
            held[:, 0] = 1
            held[: len(chosen), 0] = [len(rows[i]) for i in chosen]
            held[: len(chosen), 1] = most
            tokens = self._padded([rows[i] for i in chosen], count, length)
            self.together.call(BEGIN, np.concatenate([held, tokens], axis=1))
            going = True
            while going:
                tokens, has, left, sound = self.together.call(GO_ON, np.zeros((1, 1), np.int32))
                if not sound:
                    raise ValueError(NO_NUMBER)
                going = False
                for place, i in enumerate(chosen):
                    ids = tokens[place, len(rows[i]) : has[place]].tolist()
                    found[i] = ids[:-1] if ids[-1] == self.space.end_of_document else ids
                    going |= left[place] > 0 and not stops(i, found[i])
            advance(len(chosen))
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """The length that rows are padded to, how many a batch has, and numbers of rows, the longest first.

        All batches of a length have as many rows, so that they share a program.
        """
        alike: dict[int, list[int]] = {}
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            alike.setdefault(min(power_of_two(lengths[i], LEAST), self.config.max_positions), []).append(i)
        for length, numbers in alike.items():
            count = max(self._batch_tokens // length, 1) * self._spread
            for first in range(0, len(numbers), count):
                yield length, count, numbers[first : first + count]

    def _padded(self, rows: Sequence[Sequence[int]], count: int, width: int) -> np.ndarray:
        """int32 [count, width]"""
        tokens = np.full((count, width), self.space.pad, np.int32)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = row
        return tokens

    # --- On every process ---

    def _likelihood(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.set_mesh(self._mesh):
            found = _likelihood(self.config, CHUNK, self._params, self._placed(tokens), self.space.modality)
            return np.asarray(found[0]), np.asarray(found[1])

    def _begin(self, rows: np.ndarray) -> None:
        self._state = None  # the cache of the rows before makes room
        with jax.set_mesh(self._mesh):
            placed = [self._placed(part) for part in (rows[:, 2:], rows[:, 0], rows[:, 1])]
            self._state = _begin(self.config, self._params, *placed)

    def _go_on(self, _: np.ndarray) -> tuple[np.ndarray, ...]:
        with jax.set_mesh(self._mesh):
            self._state, shown = _go_on(self.config, self.space, self._params, self._state)
            return tuple(np.asarray(part) for part in shown)

    def _placed(self, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, sharding.batch_sharding(self._mesh), lambda part: array[part])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _likelihood(
    config: LanguageConfig, chunk: int, params: dict, tokens: jax.Array, modality: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """tokens [B, T + 1] int32 → nll of each but the first, float32 [B, T], and whether it is the likeliest, bool."""
    states, table = model.states(config, params, tokens[:, :-1])
    found = losses.scores(states, table, tokens[:, 1:], modality, chunk)
    return _everywhere(found.nll), _everywhere(found.best)


# Rows that are being written: their ids [B, S], how many each has and how many it may still get, both [B], whether all
# that the model gave were numbers, and its cache. A row that has ended may get none.
State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, Any]


@functools.partial(jax.jit, static_argnums=0)
def _begin(config: LanguageConfig, params: dict, tokens: jax.Array, has: jax.Array, left: jax.Array) -> State:
    """Read rows [B, S]; what is read past the ids that a row has is written over before it is seen."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    _, cache = model.forward(config, params, tokens, positions, model.empty_cache(config, *tokens.shape))
    return tokens, has, left, jnp.array(True), cache


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _go_on(
    config: LanguageConfig, space: TokenSpace, params: dict, state: State
) -> tuple[State, tuple[jax.Array, ...]]:
    """Write at most TURN ids more; gives the state, and all of it but the cache, on every device."""
    allowed = jnp.asarray(space.modality == TEXT).at[space.end_of_document].set(True)

    def step(carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
        (tokens, has, left, sound, cache), turn = carry
        last = jnp.take_along_axis(tokens, has[:, None] - 1, axis=1)
        logits, cache = model.forward(config, params, last, has[:, None] - 1, cache)
        logits = jnp.where(allowed, logits[:, 0], -jnp.inf)
        chosen, going = jnp.argmax(logits, axis=-1).astype(jnp.int32), left > 0
        sound &= jnp.all(jnp.isfinite(logits.max(-1)) | ~going)
        here = going[:, None] & (jnp.arange(tokens.shape[1]) == has[:, None])
        tokens = jnp.where(here, chosen[:, None], tokens)
        left = jnp.where(chosen == space.end_of_document, 0, jnp.maximum(left - 1, 0))
        return (tokens, has + going, left, sound, cache), turn + 1

    def goes_on(carry: tuple[State, jax.Array]) -> jax.Array:
        return (carry[1] < TURN) & jnp.any(carry[0][2] > 0)

    state = jax.lax.while_loop(goes_on, step, (state, jnp.int32(0)))[0]
    return state, tuple(_everywhere(part) for part in state[:-1])


def _everywhere(x: jax.Array) -> jax.Array:
    """The same on all devices, so that every process can read all of it."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
