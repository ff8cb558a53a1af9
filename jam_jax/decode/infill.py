"""Filling gaps in a document (CM3, arXiv 2201.07520): what the model is asked, and where its answer goes.

The document stands first, `<mask:i>` in place of gap i; behind it come the gaps, each `<mask:i> … <eoss>`. A caption is
the gap before a picture: `<mask:0> <break> picture <break> <mask:0>`.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from jam_jax.data import cm3
from jam_jax.tokens import CODE, IMAGE, TokenSpace

Gap = tuple[int, int]  # [start, end) in a document; of text it may be empty, of a picture it holds codes only


def ask(space: TokenSpace, ids: Sequence[int], gaps: Sequence[Gap]) -> tuple[list[int], tuple[int, ...]]:
    """A document's ids and its gaps, in order → the prompt, and the number of codes of every gap (0 of text).

    What the gaps hold now is left out. ValueError as `cm3.fill_in`, if there are more than sentinels, or if one mixes
    codes with anything else; then it says which.
    """
    space.require_infill()
    if len(gaps) > len(space.sentinel_ids):
        raise ValueError(f"there are {len(gaps)} gaps, but this vocabulary has {len(space.sentinel_ids)} sentinels")
    prompt = cm3.fill_in(np.asarray(ids, np.int32), list(gaps), space)
    counts = [sum(bool(space.modality[token] == IMAGE) for token in ids[start:end]) for start, end in gaps]
    for i, ((start, end), codes) in enumerate(zip(gaps, counts, strict=True)):
        if codes not in (0, end - start):
            raise ValueError(f"gap {i}, [{start}, {end}), holds codes and other ids: cut it where they meet")
    return prompt.tolist(), tuple(counts)


def put(space: TokenSpace, ids: Sequence[int], gaps: Sequence[Gap], answer: Sequence[int]) -> list[int]:
    """The document with what was written into its gaps; a gap that the answer does not reach stays empty."""
    found: list[list[int]] = [[]]
    written: list[int]
    for token in answer:
        if token == space.end_of_infill:
            found.append([])
        elif token not in space.sentinel_ids:
            found[-1].append(token)
    filled: list[int] = []
    done = 0
    for (start, end), written in itertools.zip_longest(gaps, found[: len(gaps)], fillvalue=[]):
        filled += [*ids[done:start], *written]
        done = end
    return [*filled, *ids[done:]]


def region(space: TokenSpace, opening: int, box: tuple[int, int, int, int]) -> list[Gap]:
    """The gaps that a box of codes makes in the picture that begins at `opening` in a document.

    `box` is (top, left, bottom, right) in codes, the last two excluded; a picture is square. Rows that follow each
    other without anything between are one gap. ValueError for a box that is empty or lies outside the picture.
    """
    space.require_pictures()
    side = round(space.codes_per_image**0.5)
    top, left, bottom, right = box
    if not (0 <= top < bottom <= side and 0 <= left < right <= side):
        raise ValueError(f"a region is top, left, bottom, right within {side} x {side} codes, got {box}")
    at = np.flatnonzero(np.array(space.picture_layout) == CODE) + opening  # of every code, row by row
    wanted = at.reshape(side, side)[top:bottom, left:right].reshape(-1).tolist()
    gaps: list[Gap] = []
    for i in wanted:
        if gaps and gaps[-1][1] == i:
            gaps[-1] = (gaps[-1][0], i + 1)
        else:
            gaps.append((i, i + 1))
    return gaps
