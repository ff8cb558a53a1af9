"""Parameters larger than memory: arrays that give any part of themselves, written to disk block by block.

A conversion or a fusion is a function from leaves to leaves. Nothing is computed before it is written, and what is
held at any time is a few blocks, whatever the model's size. `checkpoint` writes and reads trees of leaves.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

# A block as it lies on disk: large enough for a disk to run at its speed, small against the largest tensors, and below
# the size from which the C library gives memory back to the system and asks for it anew.
BLOCK_BYTES = 16 * 2**20
PART = 2**18  # values that are computed with at once

Index = tuple[slice, ...]  # one slice per axis, with start and stop


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """One array that is read in parts."""

    shape: tuple[int, ...]
    dtype: np.dtype
    # The values of a part; what it gives is not written to. Several threads may ask at a time
    read: Callable[[Index], np.ndarray]
    block: tuple[int, ...]  # the shape of the parts that it is best read in

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        return self.read(tuple(slice(0, n) for n in self.shape))


def block_of(shape: tuple[int, ...], dtype: np.dtype, most: int = BLOCK_BYTES) -> tuple[int, ...]:
    """A block of at most `most` bytes that is contiguous in `shape`: whole trailing axes, a part of one, ones before.

    Its parts of the axis are equal but for the last.
    """
    block = list(shape)
    for axis, length in enumerate(shape):
        block[axis] = cut(length, math.prod(block[axis + 1 :]) * dtype.itemsize, most)
        if block[axis] > 1:
            break
    return tuple(block)


def cut(length: int, size: int, most: int = BLOCK_BYTES) -> int:
    """How many of `length` things of `size` bytes make a block of at most `most` bytes, or one; all about alike."""
    parts = -(-length // max(1, most // max(1, size)))
    return -(-length // max(1, parts))


def of_array(array: Any) -> Leaf:
    """An array in memory as a leaf."""
    values = np.asarray(array)
    return Leaf(values.shape, values.dtype, values.__getitem__, block_of(values.shape, values.dtype))


def permuted(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """`array.transpose(order)`, contiguous.

    XLA moves a matrix to the CPU's memory several times as fast as NumPy copies it; it is given the bits, a block at a
    time.
    """
    view = array.transpose(order)
    if view.flags.c_contiguous or view.dtype.itemsize not in (2, 4):
        return np.ascontiguousarray(view)
    import jax

    cpu = jax.local_devices(backend="cpu")[0]
    bits = view.view(f"u{view.dtype.itemsize}")
    out = np.empty(bits.shape, bits.dtype)
    step = max(1, BLOCK_BYTES // bits[:1].nbytes)
    for i in range(0, len(out), step):
        out[i : i + step] = jax.device_put(bits[i : i + step], cpu)
    return out.view(view.dtype)


def blocks(leaf: Leaf) -> Iterator[Index]:
    """The parts of a leaf, in order; together they are all of it."""
    cuts = [
        [slice(i, min(i + step, length)) for i in range(0, length, step)]
        for length, step in zip(leaf.shape, leaf.block, strict=True)
    ]
    return itertools.product(*cuts)


def concatenate(leaves: Sequence[Leaf], axis: int) -> Leaf:
    """Leaves side by side along one axis, in the type that holds them all."""
    first = leaves[0]
    axis %= first.ndim
    ends = list(itertools.accumulate(leaf.shape[axis] for leaf in leaves))
    dtype = common_dtype(leaf.dtype for leaf in leaves)

    def read(index: Index) -> np.ndarray:
        found = []
        for leaf, end in zip(leaves, ends, strict=True):
            begin = end - leaf.shape[axis]
            low, high = max(index[axis].start, begin), min(index[axis].stop, end)
            if low < high:
                part = leaf.read((*index[:axis], slice(low - begin, high - begin), *index[axis + 1 :]))
                found.append(part.astype(dtype, copy=False))
        return found[0] if len(found) == 1 else np.concatenate(found, axis)

    shape = (*first.shape[:axis], ends[-1], *first.shape[axis + 1 :])
    return Leaf(shape, dtype, read, first.block)


def mix(one: Leaf, other: Leaf, share: float | np.ndarray) -> Leaf:
    """`share` of one and the rest of the other, float32; rows whose share is 0 or 1 are one leaf's, to the bit.

    `share` is a number, or one per row of the first axis.
    """

    shares = None if np.ndim(share) == 0 else np.asarray(share, np.float32)

    def read(index: Index) -> np.ndarray:
        a, b = one.read(index), other.read(index)
        # In parts that stay in the processor's cache: a matrix is read and written once.
        x, y = (v.reshape(-1) if shares is None else v.reshape(len(v), -1) for v in (a, b))
        out = np.empty(x.shape, np.float32)
        step = max(1, PART // x[:1].size)
        for i in range(0, len(x), step):
            part = slice(i, i + step)
            mine = np.float32(share) if shares is None else shares[index[0]][part, None]
            out[part] = _mixed(x[part].astype(np.float32, copy=False), y[part].astype(np.float32, copy=False), mine)
        return out.reshape(a.shape)

    return Leaf(one.shape, np.dtype(np.float32), read, one.block)


def _mixed(x: np.ndarray, y: np.ndarray, share: Any) -> np.ndarray:
    alone = (share == 0) | (share == 1)
    if not np.any(alone):
        return share * x + (1 - share) * y
    with np.errstate(invalid="ignore"):  # 0 times infinity is no number, and is not taken
        both = share * x + (1 - share) * y
    return np.where(alone, np.where(share == 1, x, y), both)


def common_dtype(kinds: Iterable[Any]) -> np.dtype:
    """The one type of all, or float32, in which float16 and bfloat16 are exact."""
    found = {np.dtype(kind) for kind in kinds}
    return found.pop() if len(found) == 1 else np.dtype(np.float32)
