"""Leaves: arrays that are read in parts give what the whole gives."""

import ml_dtypes
import numpy as np
import pytest

from jam_jax import streaming
from jam_jax.streaming import Leaf, block_of, blocks, concatenate, mix, of_array, permuted


def random(*shape: int, seed: int = 0, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(kind)


def in_blocks(leaf: Leaf, block: tuple[int, ...]) -> np.ndarray:
    """A leaf read block by block."""
    out = np.full(leaf.shape, np.nan, leaf.dtype)
    for index in blocks(Leaf(leaf.shape, leaf.dtype, leaf.read, block)):
        part = leaf.read(index)
        assert part.shape == out[index].shape
        assert np.isnan(out[index].astype(np.float32)).all()  # no value twice
        out[index] = part
    return out


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7), (4, 30, 20), (2, 3, 10, 50), (100, 3)])
@pytest.mark.parametrize("most", [1, 50, 1000, 2**20])
def test_blocks_cover_an_array_once_and_are_no_larger_than_asked(shape: tuple[int, ...], most: int) -> None:
    kind = np.dtype(np.float32)
    block = block_of(shape, kind, most)
    values = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(in_blocks(of_array(values), block), values)
    assert np.prod(block) * 4 <= max(most, 4)
    # Contiguous: ones, then a part of an axis, then whole axes.
    axis = next((i for i, n in enumerate(block) if n > 1), len(block))
    assert block[axis + 1 :] == shape[axis + 1 :]


@pytest.mark.parametrize("order", [(1, 0), (0, 1), (1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 2, 1), (1, 0, 3, 2)])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_permutation_is_numpys(order: tuple[int, ...], kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 1000)  # a few rows at a time
    array = random(*(37, 18, 5, 33)[: len(order)], kind=kind)
    found = permuted(array, order)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array.transpose(order))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("block", [(2, 3, 4), (1, 1, 1), (5, 4, 7), (9, 9, 9)])
def test_leaves_side_by_side_are_numpys_in_any_blocks(axis: int, block: tuple[int, ...]) -> None:
    shapes = [[4, 5, 6] for _ in range(3)]
    for shape, more in zip(shapes, (0, 3, 1), strict=True):
        shape[axis] += more
    arrays = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    leaf = concatenate([of_array(a) for a in arrays], axis)
    assert leaf.shape == np.concatenate(arrays, axis).shape
    np.testing.assert_array_equal(in_blocks(leaf, block), np.concatenate(arrays, axis))


def test_types_that_differ_meet_in_float32() -> None:
    halves = random(3, 4, kind=np.float16), random(3, 4, seed=1, kind=ml_dtypes.bfloat16)
    both = concatenate([of_array(a) for a in halves], 0)
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both.whole(), np.concatenate([a.astype(np.float32) for a in halves]))
    assert concatenate([of_array(halves[0])] * 2, 0).dtype == np.float16


@pytest.mark.parametrize("block", [(2, 3), (1, 1), (5, 4)])
@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16])
def test_a_mixture_is_the_shares_of_its_leaves_in_any_blocks(
    block: tuple[int, int], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PART", 3)  # parts smaller than a block
    a, b = random(5, 4, kind=kind), random(5, 4, seed=1, kind=kind)
    wide = [x.astype(np.float32) for x in (a, b)]
    np.testing.assert_allclose(
        in_blocks(mix(of_array(a), of_array(b), 0.25), block), 0.25 * wide[0] + 0.75 * wide[1], rtol=1e-6
    )
    rows = np.array([0, 1, 0.5, 0.1, 1], np.float32)
    found = in_blocks(mix(of_array(a), of_array(b), rows), block)
    np.testing.assert_allclose(found, rows[:, None] * wide[0] + (1 - rows)[:, None] * wide[1], rtol=1e-5, atol=1e-7)


def test_what_is_one_leafs_alone_is_its_to_the_bit_whatever_the_other_holds() -> None:
    good, bad = random(2, 3), np.full((2, 3), np.inf, np.float32)
    np.testing.assert_array_equal(mix(of_array(good), of_array(bad), 1).whole(), good)
    np.testing.assert_array_equal(mix(of_array(bad), of_array(good), 0).whole(), good)
    rows = mix(of_array(good), of_array(bad), np.array([1, 0], np.float32)).whole()
    np.testing.assert_array_equal(rows, [good[0], bad[1]])
