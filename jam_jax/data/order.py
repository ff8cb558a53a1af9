"""Orders of documents or blocks: a permutation that can be asked for any of its places.

Up to a million rows are shuffled in memory. A larger order takes no memory at all: a keyed bijection of the numbers
below a power of two, gone through until a number of the range comes out (cycle walking), stands for the shuffled table.
"""

import numpy as np

from jam_jax.data.recent import Recent

SHUFFLED = 1 << 20  # rows up to which the order is a table, of four bytes a row
ROUNDS = 6


class Order:
    """A permutation of range(count) that depends on `key` alone."""

    def __init__(self, key: tuple[int, ...], count: int) -> None:
        rng = np.random.default_rng(key)
        self._count = count
        self._table: np.ndarray | None = None
        if count <= SHUFFLED:
            self._table = np.arange(count, dtype=np.uint32)
            rng.shuffle(self._table)
            return
        bits = (count - 1).bit_length()
        self._mask, self._half = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
        # Odd factors and any summands: each step x → x factor + summand has an inverse modulo a power of two.
        self._factors = rng.integers(0, 1 << 63, ROUNDS, np.uint64) << np.uint64(1) | np.uint64(1)
        self._summands = rng.integers(0, 1 << 63, ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self._count

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers that stand at `places`, int [n] in range(count) → int64 [n]."""
        if self._table is not None:
            return self._table[places].astype(np.int64)
        x = self._mixed(places.astype(np.uint64))
        while len(outside := np.flatnonzero(x >= self._count)):
            x[outside] = self._mixed(x[outside])
        return x.astype(np.int64)

    def _mixed(self, x: np.ndarray) -> np.ndarray:
        """The bijection, on uint64 numbers of as many bits as `count` has; works in place."""
        for factor, summand in zip(self._factors, self._summands, strict=True):
            x *= factor
            x += summand
            x &= self._mask
            x ^= x >> self._half  # a product moves bits up only: this brings the upper half down
        return x


class Orders:
    """An order of its own for every epoch: `orders[epoch]`."""

    def __init__(self, key: tuple[int, ...], count: int) -> None:
        self._key, self._count = key, count
        self._recent: Recent[Order] = Recent(2)  # readers ahead of the loop cross from one epoch to the next

    def __getitem__(self, epoch: int) -> Order:
        return self._recent.get(epoch, lambda: Order((*self._key, epoch), self._count))
