"""The tables with a row per token: which they are, and what happens where the LLM has fewer rows."""

import numpy as np

from jam_jax.streaming import Index, Leaf, concatenate
from jam_jax.trees import like, paths

TABLES = frozenset({"embed/tokens", "unembed"})


def complete(llm: dict, img: dict) -> dict:
    """The LLM's tree of leaves with the rows that only the image parent has, taken from it.

    An image parent that grew out of a text model (Liquid out of Gemma, SimpleAR out of Qwen2.5) has rows past the
    text model's. A fusion then finds the same row in both parents.
    """
    left, right = paths(llm), paths(img)
    for path in TABLES & left.keys():
        if missing := right[path].shape[0] - left[path].shape[0]:
            left[path] = concatenate([left[path], _last(right[path], missing)], 0)
    return like(llm, left)


def _last(leaf: Leaf, rows: int) -> Leaf:
    first = leaf.shape[0] - rows

    def read(index: Index) -> np.ndarray:
        return leaf.read((slice(first + index[0].start, first + index[0].stop), *index[1:]))

    return Leaf((rows, *leaf.shape[1:]), leaf.dtype, read, leaf.block)
