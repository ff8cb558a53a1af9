"""The strategy takes what twenty lines of plain Python take, ties and duplicates included."""

import numpy as np

from jam_jax.retrieval.choose import choose


def by_hand(scores, vectors, count, limit):
    """Candidates in their order, one query."""
    taken = []
    for i, score in enumerate(scores):
        if len(taken) == count:
            break
        if not np.isfinite(score) or score > limit:
            continue
        if any(float(vectors[i] @ vectors[j]) > limit for j in taken):
            continue
        taken.append(i)
    return taken + [-1] * (count - len(taken))


def test_what_is_taken_is_what_twenty_lines_take():
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 4), -1).reshape(-1, 4)  # of length 1, products of quarters
    differing = 0
    for case in range(1000):
        size, count, limit = rng.integers(0, 20), rng.integers(1, 5), rng.choice([0.9, 0.5, 0.0])
        vectors = corners[rng.integers(0, 16, (3, size))].astype(np.float32)
        scores = -np.sort(-rng.choice([-np.inf, -0.5, 0.0, 0.5, 0.9, 0.95], (3, size)).astype(np.float32), axis=1)
        found = choose(scores, vectors, count, limit)
        expected = [by_hand(s, v, count, np.float32(limit)) for s, v in zip(scores, vectors, strict=True)]
        assert found.tolist() == expected, case
        differing += found.tolist() != [list(range(count))] * 3
    assert differing > 900  # else nothing was ever skipped


def test_a_score_at_the_limit_is_no_duplicate():
    vectors = np.eye(3, dtype=np.float32)[None, [0, 0, 1]]
    assert choose(np.array([[0.9, 0.9, 0.1]], np.float32), vectors, 2, float(np.float32(0.9))).tolist() == [[0, 2]]
    assert choose(np.array([[0.95, 0.5, 0.1]], np.float32), vectors, 2, 0.9).tolist() == [[1, 2]]


def test_without_candidates_nothing_is_taken():
    assert choose(np.empty((2, 0), np.float32), np.empty((2, 0, 4), np.float32), 2).tolist() == [[-1, -1]] * 2
