"""What a fusion adds to its parents: weights that start at zero or one, or are drawn, a block of the file at a time.

Drawn by NumPy, and each block from a seed of its own: any part is the same whoever asks for it, in the memory of
a few blocks. XLA draws an array as a whole, and holds several times its size meanwhile.
"""

import itertools
import math
import zlib
from collections.abc import Callable

import numpy as np

from jam_jax.config import DecoderConfig
from jam_jax.streaming import Index, Leaf, block_of

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]  # a block of a shape, float32
Start = float | Draw  # one number everywhere, or how a block is drawn
OUTPUTS = ("attn/o", "ffn/down")  # what a new block writes with
MATRICES = ("ffn/up", "ffn/gate")
READS = ("attn/q", "attn/k", "attn/v")
CUT = 3  # standard deviations at which normal numbers are cut
FLOAT = np.dtype(np.float32)


def cross_block(config: DecoderConfig, path: str, shape: tuple[int, ...], *, identity: bool) -> Start:
    """How a leaf of a new cross block starts, as `models.cross.init_cross_block` has it; `shape` is of one block.

    Queries, keys and values are Xavier uniform with gain 1/sqrt(2). Outputs are zero, so that the block is the
    identity, or else drawn as other matrices are.
    """
    if path in READS:
        bound = (0.5 * 6 / (shape[0] + math.prod(shape[1:]))) ** 0.5
        return uniform(bound)
    if path in MATRICES or (path in OUTPUTS and not identity):
        return normal(config.init_std, CUT)
    plus_one = config.norm == "rmsnorm_plus_one" and path.split("/")[0] in ("attn_norm", "ffn_norm")
    return 1.0 if path.endswith("/scale") and not plus_one else 0.0


def uniform(bound: float) -> Draw:
    """Numbers from -bound to bound."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.random(shape, FLOAT)
        values -= np.float32(0.5)
        values *= np.float32(2 * bound)
        return values

    return draw


def normal(std: float, cut: float = math.inf) -> Draw:
    """Normal numbers of a standard deviation; those beyond `cut` of them are drawn anew."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        values = rng.standard_normal(math.prod(shape), FLOAT)
        while (far := np.flatnonzero(np.abs(values) > cut)).size:
            values[far] = rng.standard_normal(far.size, FLOAT)
        values *= np.float32(std)
        return values.reshape(shape)

    return draw


def leaf(
    path: str, shape: tuple[int, ...], start: Start, seed: int, dtype: np.dtype = FLOAT, block: tuple[int, ...] = ()
) -> Leaf:
    """A leaf that starts so, in blocks of `block` (by default `block_of`); its path is part of the seed.

    In another type than float32 it holds the same numbers, rounded.
    """
    block = block or block_of(shape, FLOAT)
    if not callable(start):
        return Leaf(shape, dtype, lambda index: np.full([i.stop - i.start for i in index], start, dtype), block)

    def drawn(place: tuple[int, ...]) -> np.ndarray:
        fastest = np.random.SFC64((seed, zlib.crc32(path.encode()), *place))
        rng = np.random.Generator(fastest)
        size = (min(step, length - step * i) for i, step, length in zip(place, block, shape, strict=True))
        return start(rng, tuple(size)).astype(dtype, copy=False)

    def read(index: Index) -> np.ndarray:
        ranges = [range(i.start // step, -(-i.stop // step)) for i, step in zip(index, block, strict=True)]
        out = np.empty([i.stop - i.start for i in index], dtype)
        for place in itertools.product(*ranges):
            origin = [i * step for i, step in zip(place, block, strict=True)]
            values = drawn(place)
            ends = [min(i.stop, o + n) for i, o, n in zip(index, origin, values.shape, strict=True)]
            begins = [max(i.start, o) for i, o in zip(index, origin, strict=True)]
            there = tuple(slice(b - i.start, e - i.start) for b, e, i in zip(begins, ends, index, strict=True))
            here = tuple(slice(b - o, e - o) for b, e, o in zip(begins, ends, origin, strict=True))
            if out.shape == values.shape == values[here].shape:
                return values  # the block itself, as it is written
            out[there] = values[here]
        return out

    return Leaf(shape, dtype, read, block)
