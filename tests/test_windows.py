"""Windows count every target once; a plan has a place for every window, whatever processes hold them."""

import numpy as np
import pytest

from jam_jax.evaluate import windows
from jam_jax.evaluate.windows import GRAIN, plan


@pytest.mark.parametrize("size", [1, 2, 7, 24])
@pytest.mark.parametrize("stride", [1, 3, 12, 24])
def test_every_target_counts_once_with_enough_before_it(size: int, stride: int) -> None:
    for length in range(2, 80):
        seen = np.zeros(length, int)
        for number, part in enumerate(windows.cut(length, 0, size, min(stride, size))):
            assert 1 < part.stop - part.start <= size + 1
            assert part.first == (1 + size - min(stride, size) if number else 1)  # the first window counts all
            seen[part.start + part.first : part.stop] += 1
        assert seen.tolist() == [0] + [1] * (length - 1)


def test_what_stands_before_a_document_does_not_count() -> None:
    assert list(windows.cut(10, 4, 12, 6)) == [(0, 10, 5)]


def walked(sizes: list[np.ndarray], devices: list[int], longest: int, batch_tokens: int, multiple: int = 1) -> int:
    """Put the windows of all groups into the batches of a plan, as processes do; gives the padded tokens."""
    counts = np.stack([windows.lengths(each, longest) for each in sizes])
    shapes = plan(counts, devices, longest, batch_tokens, multiple)
    for each, share in zip(sizes, devices, strict=True):
        left = sorted(each.tolist(), reverse=True)
        for shape in shapes:
            assert shape.length % multiple == 0 and (shape.rows == 1 or shape.rows * shape.length <= batch_tokens)
            for _ in range(shape.batches):
                held, left = left[: shape.rows * share], left[shape.rows * share :]
                assert not held or held[0] <= shape.length
        assert not left
    return sum(shape.length * shape.rows * shape.batches for shape in shapes) * sum(devices)


@pytest.mark.parametrize("program", [0, 300, 100_000])
@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_a_plan_has_a_place_for_every_window(monkeypatch, program: int, batch_tokens: int) -> None:
    monkeypatch.setattr(windows, "PROGRAM", program)
    rng = np.random.default_rng(program + batch_tokens)
    for _ in range(20):
        groups = rng.integers(1, 5)
        sizes = [rng.integers(1, rng.integers(2, 201), rng.integers(0, 60)) for _ in range(groups)]
        sizes[0] = np.append(sizes[0], 200)
        walked(sizes, rng.integers(1, 4, groups).tolist(), 200, batch_tokens, int(rng.choice([1, 2, 16])))


def test_documents_of_nearly_one_length_are_hardly_padded() -> None:
    """Captions with a picture of 1,024 codes: batches as long as powers of two would be half empty."""
    sizes = np.random.default_rng(0).normal(1038, 4, 25_000).round().astype(int)
    assert walked([sizes], [1], 4096, 8192) < 1.03 * sizes.sum()


def test_texts_of_all_lengths_are_padded_by_an_eighth_in_few_shapes() -> None:
    sizes = np.clip(np.random.default_rng(0).lognormal(6, 1, 20_000), 1, 4096).astype(int)
    assert walked([sizes[::2], sizes[1::2]], [2, 2], 4096, 8192) < 1.14 * sizes.sum()
    assert len(plan(windows.lengths(sizes, 4096)[None], [1], 4096, 8192)) < 30


def test_few_windows_make_few_rows_of_one_shape() -> None:
    assert plan(windows.lengths([5, 9, 30], 64)[None], [1], 64, 8192) == [windows.Shape(2 * GRAIN, 3, 1)]
