"""Documents as what a model reads of them at once, and these windows as batches of few shapes.

A document longer than the context is read in windows that overlap, so that every token is a target exactly once. The
windows of a process are put into batches by their lengths alone, which all processes know of each other: so each reads
its own documents, and all run the same programs the same number of times.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

GRAIN = 16  # the lengths of batches are multiples of it
# What a program more costs, in tokens that could have been scored while it was compiled.
PROGRAM = 100_000


class Window(NamedTuple):
    """A part of a document's sequence: ids [start, stop), of which those from `first` on are targets that count."""

    start: int
    stop: int
    first: int  # counted from `start`; at least 1, since the first id of a window is no target


def cut(length: int, context: int, size: int, stride: int) -> Iterator[Window]:
    """The windows of a sequence of `length` ids, whose first id and the `context` ones after it are no targets.

    The first window has up to `size` targets. Each later one moves on by `stride` and counts what is new in it, so
    that what it counts has at least `size - stride` ids before it.
    """
    for start in range(0, max(length - 1 - size + stride, 1), stride):
        yield Window(start, min(start + size + 1, length), 1 + (size - stride if start else context))


@dataclasses.dataclass(frozen=True)
class Shape:
    """Some batches of one shape, one after another."""

    length: int  # targets of a row
    rows: int  # on each device that has rows of its own
    batches: int


def lengths(sizes: Sequence[int] | np.ndarray, longest: int) -> np.ndarray:
    """How many windows of so many targets there are, in steps of GRAIN: int64 [steps], the last one for `longest`."""
    steps = -(-longest // GRAIN)
    return np.bincount((np.asarray(sizes, np.int64) - 1) // GRAIN, minlength=steps)


def plan(counts: np.ndarray, devices: Sequence[int], longest: int, batch_tokens: int, multiple: int = 1) -> list[Shape]:
    """The batches of all processes, the longest first. counts int64 [groups, steps]: the `lengths` of each group.

    A group is one or more processes that feed the same rows, `devices` in how many places of the mesh. Each puts its
    windows in their order, the longest first, into its rows of these batches, and they are enough for all. A batch has
    up to `batch_tokens` tokens on a device, and a length that is a multiple of `multiple`, at least where it is short
    of `longest`.
    """
    shapes, taken = [], np.zeros(len(counts), np.int64)
    share = np.asarray(devices, np.int64)
    for last, edge in _edges(counts.sum(axis=0)):
        length = -(-min(edge * GRAIN, longest) // multiple) * multiple
        left = counts[:, last:].sum(axis=1) - taken  # of this length or longer, but for those that have a place
        most = max(batch_tokens // length, 1)
        batches = int((-(-left // (share * most))).max())
        if batches > 0:
            rows = int((-(-left // (share * batches))).max())
            shapes.append(Shape(length, rows, batches))
            taken = np.minimum(taken + share * rows * batches, counts.sum(axis=1))
    return shapes


def _edges(counts: np.ndarray) -> list[tuple[int, int]]:
    """The lengths, in steps, that cost least together, the longest first: each with the first step that belongs to it.

    Costs are the tokens of all windows, each as long as its batch, and PROGRAM for every length.
    """
    steps = np.flatnonzero(counts)
    before = np.concatenate([[0], counts[steps].cumsum()])
    least, chosen = np.zeros(len(steps) + 1), np.zeros(len(steps) + 1, np.int64)
    for i, step in enumerate(steps, 1):  # the cheapest for the first i steps: the last length takes those from j on
        costs = least[:i] + (step + 1) * GRAIN * (before[i] - before[:i]) + PROGRAM
        chosen[i] = costs.argmin()
        least[i] = costs[chosen[i]]
    found, i = [], len(steps)
    while i:
        found.append((int(steps[chosen[i]]), int(steps[i - 1]) + 1))
        i = chosen[i]
    return found
