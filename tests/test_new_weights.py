"""Weights that a fusion draws: the same whoever asks for whatever part, and no two alike."""

import ml_dtypes
import numpy as np

from jam_jax import streaming
from jam_jax.fuse import new_weights


def test_any_part_of_a_drawn_leaf_is_what_the_whole_has_there_and_no_two_are_alike() -> None:
    draw = new_weights.normal(1.0, 3.0)
    leaf = new_weights.leaf("a", (3, 11, 7), draw, 5, block=(1, 4, 7))
    all_of_it = leaf.whole()
    assert np.abs(all_of_it).max() <= 3
    for part in ((slice(0, 3), slice(3, 9), slice(1, 6)), (slice(1, 2), slice(4, 8), slice(0, 7)), (slice(2, 3),) * 3):
        np.testing.assert_array_equal(leaf.read(part), all_of_it[part])
    for index in streaming.blocks(leaf):
        np.testing.assert_array_equal(leaf.read(index), all_of_it[index])
    assert len(np.unique(all_of_it)) == all_of_it.size  # blocks differ
    same, seed, path = (
        new_weights.leaf(p, (3, 11, 7), draw, s, block=(1, 4, 7)) for p, s in (("a", 5), ("a", 6), ("b", 5))
    )
    np.testing.assert_array_equal(same.whole(), all_of_it)
    assert all(np.abs(other.whole() - all_of_it).min() > 0 for other in (seed, path))


def test_in_another_type_a_leaf_holds_the_same_numbers_rounded() -> None:
    for start in (new_weights.uniform(0.3), new_weights.normal(0.02, 3.0), 1.0):
        exact, rounded = (
            new_weights.leaf("a", (3, 11, 7), start, 5, np.dtype(kind), (1, 4, 7))
            for kind in (np.float32, ml_dtypes.bfloat16)
        )
        assert rounded.dtype == rounded.whole().dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(rounded.whole(), exact.whole().astype(ml_dtypes.bfloat16))
        part = (slice(0, 2), slice(3, 9), slice(1, 6))
        np.testing.assert_array_equal(rounded.read(part), rounded.whole()[part], strict=True)
