"""All epochs of a source's documents, one after another, read at any place.

Every epoch has an order of its own. Where a document begins in it follows from the lengths of those before it; of
these sums every 1,024th is held, found in one pass over the length table, and the others are made when asked for. So
ten million documents take eighty kilobytes of memory.
"""

import bisect
import itertools
from typing import NamedTuple

import numpy as np

from jam_jax.data.order import Orders
from jam_jax.data.recent import Recent
from jam_jax.data.sequences import Sequences

STEP = 1024  # places of an order whose sums are made at once
PASS = 64 * STEP  # places that a pass over a whole order looks at at once


class Piece(NamedTuple):
    """A sequence, or a part of one, that lies in a block."""

    ids: np.ndarray  # int32 [T]
    prompt: int  # how many of them, from the first on, are of the prompt
    room: int  # tokens that it may take where it is masked on its own


class Stream:
    """The sequences of all epochs. Places in it are counted in tokens; it repeats its lengths after `period` tokens."""

    def __init__(self, sequences: Sequences, orders: Orders) -> None:
        """One pass over the length table for each of the turns that sequences take."""
        self._sequences, self._orders = sequences, orders
        passes = [range(a, min(a + PASS, len(sequences))) for a in range(0, len(sequences), PASS)]
        self._turn_ends = list(
            itertools.accumulate(
                sum(int(sequences.lengths(np.array(rows), turn).sum()) for rows in passes)
                for turn in range(sequences.turns)
            )
        )
        self._recent_sums: Recent[np.ndarray] = Recent(2)
        self._recent_steps: Recent[tuple[np.ndarray, np.ndarray]] = Recent(8)

    @property
    def period(self) -> int:
        """Tokens of as many epochs as there are turns."""
        return self._turn_ends[-1]

    def read(self, start: int, stop: int) -> list[Piece]:
        """What lies in [start, stop)."""
        pieces: list[Piece] = []
        while start < stop:
            epoch, offset, step, row = self._find(start)
            documents, ends = self._step(epoch, step)
            for document, end in zip(documents[row:].tolist(), ends[row:].tolist(), strict=True):
                if start >= stop:
                    break
                ids, prompt = self._sequences.read(document, epoch)
                first = len(ids) - (end - offset)
                part = ids[first : first + stop - start]
                pieces.append(Piece(part, min(max(prompt - first, 0), len(part)), len(part)))
                start, offset = start + len(part), end
        return pieces

    def sequence_at(self, at: int) -> tuple[np.ndarray, int]:
        """The ids of the sequence that a place lies in, and where in it."""
        epoch, offset, step, row = self._find(at)
        documents, ends = self._step(epoch, step)
        ids, _ = self._sequences.read(int(documents[row]), epoch)
        return ids, len(ids) - (int(ends[row]) - offset)

    def _find(self, at: int) -> tuple[int, int, int, int]:
        """Epoch, place in the epoch, step of its order, and row in that step of the sequence that holds a place."""
        periods, rest = divmod(at, self.period)
        turn = bisect.bisect_right(self._turn_ends, rest)
        offset = rest - (self._turn_ends[turn - 1] if turn else 0)
        epoch = periods * self._sequences.turns + turn
        sums = self._recent_sums.get(epoch, lambda: self._sums(epoch))
        step = int(np.searchsorted(sums, offset, side="right")) - 1
        return epoch, offset, step, int(np.searchsorted(self._step(epoch, step)[1], offset, side="right"))

    def _sums(self, epoch: int) -> np.ndarray:
        """Tokens before each step of an epoch's order, int64 [steps]."""
        order, parts = self._orders[epoch], []
        for start in range(0, len(order), PASS):
            places = np.arange(start, min(start + PASS, len(order)))
            lengths = self._sequences.lengths(order(places), epoch)
            parts.append(np.add.reduceat(lengths, np.arange(0, len(places), STEP)))
        sums = np.concatenate(parts).cumsum()
        return np.concatenate([[0], sums[:-1]])

    def _step(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of one step of an epoch's order, and where in the epoch each ends; int64 [at most STEP]."""
        return self._recent_steps.get((epoch, step), lambda: self._make_step(epoch, step))

    def _make_step(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        order = self._orders[epoch]
        documents = order(np.arange(step * STEP, min((step + 1) * STEP, len(order))))
        before = self._recent_sums.get(epoch, lambda: self._sums(epoch))[step]
        return documents, before + self._sequences.lengths(documents, epoch).cumsum()
