"""How likely the ids of many sequences are, on one device or on a mesh, in batches of like length.

The whole model is nowhere: parameters lie as `sharding` has them, each process makes the rows of its own sequences, and
no device holds the logits of more than some tokens at a time, as in training.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jam_jax import hosts, losses
from jam_jax.config import LossConfig
from jam_jax.data.feed import local_rows
from jam_jax.evaluate import windows
from jam_jax.models import model
from jam_jax.models.model import LanguageConfig
from jam_jax.sharding import batch_sharding
from jam_jax.tokens import TokenSpace

BATCH_TOKENS = 8192  # of a batch, on each device that has rows of its own
CHUNK = LossConfig.chunk  # tokens on each device whose logits are held at once


@dataclasses.dataclass(frozen=True)
class Group:
    """Processes whose devices hold the same rows of a batch, and so must be given the same sequences."""

    index: int  # of this process's group
    of: int  # groups
    leaders: tuple[int, ...]  # of each group its first process
    places: tuple[tuple[int, ...], ...]  # of each group which parts of a batch, of as many as data x fsdp has places


def group(mesh: Mesh | None) -> Group:
    """The group of this process: processes that share any part of a batch are in one. Without a mesh it is alone."""
    if mesh is None:
        return Group(0, 1, (0,), ((0,),))
    spread, placed = mesh.shape["data"] * mesh.shape["fsdp"], batch_sharding(mesh)
    found: list[tuple[set[int], set[int]]] = []  # processes and their places
    for process in range(jax.process_count()):
        processes, places = {process}, set(local_rows(placed, spread, process).tolist())
        for other in [other for other in found if other[1] & places]:
            found.remove(other)
            processes |= other[0]
            places |= other[1]
        found.append((processes, places))
    found.sort(key=lambda each: min(each[0]))
    index = next(i for i, (processes, _) in enumerate(found) if hosts.number() in processes)
    leaders = tuple(min(processes) for processes, _ in found)
    return Group(index, len(found), leaders, tuple(tuple(sorted(places)) for _, places in found))


class Scored(NamedTuple):
    """Some rows of a batch; what is not of a sequence is padding, whose scores mean nothing."""

    numbers: np.ndarray  # of the sequences, int64 [R]
    tokens: np.ndarray  # int32 [R, T + 1]; sequence i fills the first sizes[i] of its row
    nll: np.ndarray  # of tokens[:, 1:], float32 [R, T], and so the next two: `losses.Scores`
    within: np.ndarray
    best: np.ndarray


def scored(
    config: LanguageConfig,
    params: dict,
    space: TokenSpace,
    sizes: Sequence[int] | np.ndarray,
    read: Callable[[int], np.ndarray],
    *,
    mesh: Mesh | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[Scored]:
    """The scores of sequences of ids: of all ids but the first, each given those before it in its sequence.

    `read(i)` gives the ids of sequence i, int32 [sizes[i]]: at least 2, at most one more than the model's positions,
    and inside the vocabulary. On a mesh every process calls this with the sequences of its group, however many those
    are, and gets the scores of these alone; parameters lie as `sharding.parameter_shardings` says. Sequences come in an
    order of their own, the longest first. `batch_tokens` bounds a batch's padded size on each of data x fsdp devices.
    """
    own, targets = group(mesh), np.asarray(sizes, np.int64) - 1
    order = np.argsort(-targets, kind="stable")
    multiple = 1 if mesh is None else mesh.shape["sequence"]
    counts = hosts.gathered(windows.lengths(targets, config.max_positions))[list(own.leaders)]
    devices = [len(places) for places in own.places]
    shapes = windows.plan(counts, devices, config.max_positions, batch_tokens, multiple)
    waiting, at = None, 0
    for shape in (each for each in shapes for _ in range(each.batches)):
        numbers = order[at : at + shape.rows * devices[own.index]]
        at += len(numbers)
        tokens = np.full((shape.rows * devices[own.index], shape.length + 1), space.pad, np.int32)
        for row, number in enumerate(numbers.tolist()):
            tokens[row, : sizes[number]] = read(number)
        with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
            found = _score(config, CHUNK, params, _placed(tokens, own, shape.rows, mesh), space.modality)
        # The devices score this batch while the next one is read.
        if waiting is not None:
            yield _fetched(*waiting, own)
        waiting = numbers, tokens, found
    if waiting is not None:
        yield _fetched(*waiting, own)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(config: LanguageConfig, chunk: int, params: dict, tokens: jax.Array, modality: jax.Array) -> losses.Scores:
    """tokens [B, T + 1] int32 → the scores of tokens[:, 1:], [B, T] each, on every device."""
    states, table = model.states(config, params, tokens[:, :-1])
    found = losses.scores(states, table, tokens[:, 1:], modality, chunk)
    if jax.sharding.get_abstract_mesh().empty:
        return found
    # Replicated, so that every process can read its rows, wherever the mesh computed them.
    return jax.lax.with_sharding_constraint(found, PartitionSpec())


def _placed(tokens: np.ndarray, own: Group, rows: int, mesh: Mesh | None) -> np.ndarray | jax.Array:
    """The rows of this process's group as its part of the batch of all."""
    if mesh is None:
        return tokens
    places = np.array(own.places[own.index])
    shape = (rows * sum(map(len, own.places)), tokens.shape[1])

    def part(index: Any) -> np.ndarray:
        first, last, _ = index[0].indices(shape[0])
        start = int(np.searchsorted(places, first // rows)) * rows
        return tokens[start : start + last - first]

    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


def _fetched(numbers: np.ndarray, tokens: np.ndarray, found: losses.Scores, own: Group) -> Scored:
    """The rows of this process's group, without those that only fill the batch."""
    places, parts = list(own.places[own.index]), sum(map(len, own.places))

    def mine(x: jax.Array) -> np.ndarray:
        whole = np.asarray(x)
        return whole.reshape(parts, -1, whole.shape[1])[places].reshape(-1, whole.shape[1])[: len(numbers)]

    return Scored(numbers, tokens[: len(numbers)], *(mine(x) for x in found))
