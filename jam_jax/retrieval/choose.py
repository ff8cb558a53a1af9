"""Which of the nearest documents are taken: the strategy of RA-CM3 (arXiv 2211.12561 section 3.2) and CM3leon.

A candidate that is nearly the query itself teaches copying, and one that is nearly another tells nothing new: both are
left out. What is left is taken in the order of likeness, fewer than asked for where there are no more.
"""

import numpy as np

LIMIT = 0.9  # inner product of vectors of length 1, above which two documents are the same one
COUNT = 2  # documents before a query


def choose(scores: np.ndarray, vectors: np.ndarray, count: int = COUNT, limit: float = LIMIT) -> np.ndarray:
    """Candidates of n queries, the most similar first → the places of those that are taken, int64 [n, count], else -1.

    `scores` float [n, C] against the query, -inf where a place holds no candidate or one that must not be taken, such
    as the query document itself; `vectors` float [n, C, E] of length 1. A candidate is skipped that scores above
    `limit` against the query, or against one that is taken before it.
    """
    rows = np.arange(len(scores))
    chosen = np.full((len(scores), count), -1, np.int64)
    left = (scores <= limit) & np.isfinite(scores)
    for place in range(count if scores.shape[1] else 0):
        first = left.argmax(axis=1)
        some = left[rows, first]
        chosen[some, place] = first[some]
        alike = np.einsum("nce,ne->nc", vectors, vectors[rows, first]) > limit
        left &= ~alike
        left[rows, first] = False
    return chosen
