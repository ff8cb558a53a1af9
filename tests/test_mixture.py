"""The mixture: exact shares, in closed form, and one block per number."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data.mixture import Blocks, given, place, shares
from jam_jax.data.store import write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)


@pytest.mark.parametrize(
    "weights", [(1.0,), (0.5, 0.5), (0.1, 0.2, 0.7), (3.0, 1e-3, 1.0), (0.0, 1.0, 2.0), (1.0, 2.0, 0.0), (1 / 3,) * 7]
)
def test_shares_are_exact_and_every_source_counts_its_own_blocks(weights: tuple[float, ...]) -> None:
    chain = shares(weights)
    counts: Counter[int] = Counter()
    blocks = 100_000 if len(weights) == 3 else 2_000
    for n in range(blocks):
        source, number = place(chain, n)
        assert number == counts[source]  # neither a block twice nor one left out
        counts[source] += 1
        if n % 97 == 0:
            for i, w in enumerate(weights):
                assert abs(counts[i] - (n + 1) * w / sum(weights)) < len(weights)
    for i, w in enumerate(weights):
        assert abs(counts[i] / blocks - w / sum(weights)) < len(weights) / blocks


def test_any_block_of_a_long_run_is_found_at_once() -> None:
    chain = shares((0.1, 0.2, 0.7))
    far = 10**15
    places = [place(chain, far + i) for i in range(1000)]
    counts = Counter(source for source, _ in places)
    assert [counts[i] for i in range(3)] == [100, 200, 700]
    for source in range(3):
        numbers = [number for s, number in places if s == source]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert abs(numbers[0] - far * (0.1, 0.2, 0.7)[source]) < 3


def config(directory: Path) -> DataConfig:
    """Two stores; the ids of the first are below 100, those of the second above."""
    for name, low in (("a", 10), ("b", 200)):
        records = [(np.array([low + i, low + i, 2]), 0) for i in range(50)]
        if not (directory / name).exists():
            write_ids(directory / name, records, SPACE)
    sources = (SourceConfig(str(directory / "a"), 3.0, cm3=0.0), SourceConfig(str(directory / "b"), 1.0, cm3=0.0))
    return DataConfig(sources=sources, block=9)


def test_blocks_come_from_the_sources_in_their_shares(tmp_path: Path) -> None:
    blocks = Blocks(config(tmp_path), SPACE, seed=0)
    from_b = [bool((blocks[n]["tokens"] >= 200).any()) for n in range(100)]
    assert sum(from_b) == 25
    again, other = Blocks(config(tmp_path), SPACE, seed=0), Blocks(config(tmp_path), SPACE, seed=1)
    assert all(np.array_equal(again[n]["tokens"], blocks[n]["tokens"]) for n in reversed(range(50)))
    assert any(not np.array_equal(other[n]["tokens"], blocks[n]["tokens"]) for n in range(5))


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a source with a positive weight"):
        Blocks(DataConfig(), SPACE, 0)
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="a source's weight is a number from 0 on, got"):
            SourceConfig("a", weight)
    with pytest.raises(ValueError, match="is no token store"):
        Blocks(DataConfig(sources=(SourceConfig(str(tmp_path / "nothing")),)), SPACE, 0)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        Blocks(config(tmp_path), tokens.jam(text=301, codes=16, codes_per_image=4), 0)


def test_the_epochs_of_every_store_are_told(tmp_path: Path) -> None:
    found = config(tmp_path)
    blocks = Blocks(found, SPACE, seed=0)
    assert blocks.epochs(0) == {"a": 0, "b": 0}
    # Fifty documents of three tokens a store, in blocks of nine; three blocks of four are of the first.
    assert blocks.epochs(400) == pytest.approx({"a": 300 * 9 / 150, "b": 100 * 9 / 150})
    twice = (*found.sources, dataclasses.replace(found.sources[0], cut="document", weight=4.0))
    blocks = Blocks(dataclasses.replace(found, sources=twice), SPACE, seed=0)
    assert blocks.epochs(800) == pytest.approx(
        {str(tmp_path / "a"): 300 * 9 / 150 + 400 / 50, str(tmp_path / "b"): 100 * 9 / 150}
    )


def test_as_many_blocks_as_an_epoch_has_hold_every_document_once(tmp_path: Path) -> None:
    for cut in ("stream", "picture", "document", "packed"):
        sources = (dataclasses.replace(config(tmp_path).sources[0], cut=cut),)
        blocks = Blocks(DataConfig(sources=sources, block=10), SPACE, seed=0)
        count = next(n for n in range(200) if blocks.epochs(n)["a"] >= 1)
        rows = np.concatenate([blocks[n]["tokens"] for n in range(count)])
        assert np.bincount(rows, minlength=60)[10:60].tolist() == [2] * 50


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (30.0, 30.0, 0.001), (1.0, 1 / 3, 1e-2, 7.0)])
def test_a_hundred_thousand_blocks_have_their_shares_wherever_they_begin(weights: tuple[float, ...]) -> None:
    chain = shares(weights)
    for begin in (0, 12_345, 10**12 + 7):
        before, after = given(chain, begin), given(chain, begin + 100_000)
        for w, a, b in zip(weights, before, after, strict=True):
            assert abs((b - a) / 100_000 - w / sum(weights)) < 0.001
            assert abs(b - (begin + 100_000) * w / sum(weights)) < len(weights)
