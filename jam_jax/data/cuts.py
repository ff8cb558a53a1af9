"""How blocks are cut from a source's documents: anywhere, never inside a picture, or at whole documents.

Each cut gives the pieces of any block by its number, and how many blocks an epoch has.
"""

import bisect
from typing import Protocol

import numpy as np

from jam_jax.data.order import Orders
from jam_jax.data.recent import Recent
from jam_jax.data.sequences import Sequences
from jam_jax.data.stream import PASS, Piece, Stream
from jam_jax.tokens import CODE, TokenSpace

ORDER, PACKING = 0, 2  # what a random stream is for; part of its key, beside blocks.BLOCK
GROUP = 16  # packed blocks whose documents are counted at once


class Cut(Protocol):
    """What a block is made of."""

    @property
    def per_epoch(self) -> float:
        """Blocks of an epoch."""

    def __getitem__(self, n: int) -> list[Piece]: ...


class Anywhere:
    """Block n holds the tokens [n block, (n + 1) block) of the stream, as the original's do."""

    def __init__(self, sequences: Sequences, key: tuple[int, ...], block: int) -> None:
        self._stream, self._stride = Stream(sequences, Orders((*key, ORDER), len(sequences))), block
        self.per_epoch = self._stream.period / sequences.turns / self._stride

    def __getitem__(self, n: int) -> list[Piece]:
        return self._stream.read(self._edge(n), self._edge(n + 1))

    def _edge(self, n: int) -> int:
        """Where block n begins in the stream."""
        return n * self._stride


class AroundPictures(Anywhere):
    """As `Anywhere`, but an edge that lies inside a picture goes back to where the picture opens.

    So that a block is a function of its number, edges have a fixed distance before they move, and this leaves room for
    the most that one can gain, a picture but for its first token; the rest of a block is padding.
    """

    def __init__(self, sequences: Sequences, key: tuple[int, ...], block: int, space: TokenSpace) -> None:
        """ValueError if a block could be nothing but a picture that belongs to the next one."""
        picture = space.picture_tokens
        if block < 2 * picture - 1:
            raise ValueError(
                f"cut='picture' needs blocks of at least {2 * picture - 1} tokens where pictures have {picture}, got "
                f"{block}: enlarge data.block, or cut anywhere with cut='stream'"
            )
        super().__init__(sequences, key, block - picture + 1)
        self._space = space

    def _edge(self, n: int) -> int:
        at = super()._edge(n)
        ids, inside = self._stream.sequence_at(at)
        opened = opened_before(ids, inside, self._space)
        return at - (inside - opened) if opened >= 0 and inside < opened + self._space.picture_tokens else at


class Documents:
    """Block n is the n-th sequence of the epochs' orders, cut at the block's length."""

    def __init__(self, sequences: Sequences, key: tuple[int, ...], block: int) -> None:
        self._sequences, self._block = sequences, block
        self._orders = Orders((*key, ORDER), len(sequences))
        self.per_epoch = len(sequences)

    def __getitem__(self, n: int) -> list[Piece]:
        epoch, place = divmod(n, len(self._sequences))
        ids, prompt = self._sequences.read(int(self._orders[epoch](np.array([place]))[0]), epoch)
        return [Piece(ids[: self._block], prompt, self._block)]


class Packed:
    """Blocks are filled with the sequences of epoch 0's order, one after another, as long as a whole one fits.

    The same documents share a block in every epoch, of which a document notices nothing; so all epochs have the same
    number of blocks, in an order of their own, and a block is found by division. Of the places where blocks begin every
    sixteenth is held.
    """

    def __init__(self, sequences: Sequences, key: tuple[int, ...], block: int, growth: int) -> None:
        """One pass over the length table; `growth` tokens are kept free for each document, for its masks."""
        self._sequences, self._block, self._growth = sequences, block, growth
        self._documents = Orders((*key, ORDER), len(sequences))[0]
        self._begin, self.per_epoch = self._fill()
        self._blocks = Orders((*key, PACKING), self.per_epoch)
        self._recent: Recent[tuple[list[int], np.ndarray]] = Recent(8)

    def __getitem__(self, n: int) -> list[Piece]:
        epoch, number = divmod(n, self.per_epoch)
        group, inside = divmod(int(self._blocks[epoch](np.array([number]))[0]), GROUP)
        begin, needs = self._recent.get(group, lambda: self._open(group))
        first, last = begin[inside], begin[inside + 1]
        documents = self._documents(np.arange(self._begin[group] + first, self._begin[group] + last))
        sequences = (self._sequences.read(document, 0) for document in documents.tolist())
        rooms = needs[first:last].tolist()
        return [Piece(ids[: self._block], prompt, room) for (ids, prompt), room in zip(sequences, rooms, strict=True)]

    def _needs(self, start: int, stop: int) -> np.ndarray:
        """Tokens that the documents at these places of the order take, int64."""
        lengths = self._sequences.lengths(self._documents(np.arange(start, stop)), 0)
        return np.minimum(lengths + self._growth, self._block)

    def _fill(self) -> tuple[np.ndarray, int]:
        """The place at which every sixteenth block begins, with the end of the order behind them; how many blocks."""
        begin, blocks = [0], 1
        filled = taken = 0  # tokens before the current block, and before the current pass
        for start in range(0, len(self._sequences), PASS):
            ends = (taken + self._needs(start, min(start + PASS, len(self._sequences))).cumsum()).tolist()
            row = 0
            while (row := bisect.bisect_right(ends, filled + self._block, row)) < len(ends):
                filled = ends[row - 1] if row else taken
                if blocks % GROUP == 0:
                    begin.append(start + row)
                blocks += 1
            taken = ends[-1]
        return np.array([*begin, len(self._sequences)]), blocks

    def _open(self, group: int) -> tuple[list[int], np.ndarray]:
        """Where the blocks of a group begin, from its first document on, and what each document takes."""
        needs = self._needs(self._begin[group], self._begin[group + 1])
        ends, begin = needs.cumsum().tolist(), [0]
        while begin[-1] < len(ends):
            filled = ends[begin[-1] - 1] if begin[-1] else 0
            begin.append(bisect.bisect_right(ends, filled + self._block))
        return begin, needs


def opened_before(ids: np.ndarray, place: int, space: TokenSpace) -> int:
    """Where the last picture opens before a place of a sequence; -1 if none does."""
    found = np.flatnonzero(ids[:place] == space.start_of_image)
    # In JAM the token that opens a picture closes it too, but only behind an opening one stands what a picture holds.
    second = space.picture_layout[1]
    follows = ids[found + 1]
    found = found[(space.code_of_id[follows] >= 0) if second == CODE else (follows == second)]
    return int(found[-1]) if len(found) else -1
