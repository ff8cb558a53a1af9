"""The loader: the same blocks in the same order for any number of hosts, workers and any step to start at."""

import itertools

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data.loader import batches
from jam_jax.data.mixture import Blocks
from jam_jax.data.store import write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)
BATCH, STEPS = 6, 5


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    directory = tmp_path_factory.mktemp("stores")
    for name in ("a", "b"):
        records = [(np.array([*[10 + i] * (1 + i % 5), 2]), 0) for i in range(60)]
        write_ids(directory / name, records, SPACE)
    sources = (SourceConfig(str(directory / "a"), 2.0), SourceConfig(str(directory / "b"), 1.0, cut="document"))
    return Blocks(DataConfig(sources=sources, block=16), SPACE, seed=3)


def expected(blocks: Blocks, step: int) -> np.ndarray:
    return np.stack([blocks[n]["tokens"] for n in range(step * BATCH, (step + 1) * BATCH)])


def test_batches_are_the_blocks_in_order(blocks: Blocks) -> None:
    for step, batch in enumerate(itertools.islice(batches(blocks, BATCH), STEPS)):
        assert np.array_equal(batch["tokens"], expected(blocks, step))
        assert batch["weights"].shape == (BATCH, 15)
        assert (batch["tokens"].dtype, batch["weights"].dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("start", [1, 4, 10**9])
def test_reading_starts_at_any_step(blocks: Blocks, start: int) -> None:
    for step, batch in enumerate(itertools.islice(batches(blocks, BATCH, start_step=start), 2), start):
        assert np.array_equal(batch["tokens"], expected(blocks, step))


@pytest.mark.parametrize("shards", [2, 3, 6])
def test_shards_share_every_batch(blocks: Blocks, shards: int) -> None:
    parts = [batches(blocks, BATCH, start_step=2, shard_index=i, shard_count=shards) for i in range(shards)]
    for step in (2, 3):
        rows = [next(part)["tokens"] for part in parts]
        assert all(len(r) == BATCH // shards for r in rows)
        assert np.array_equal(np.concatenate(rows), expected(blocks, step))


def test_workers_change_nothing(blocks: Blocks) -> None:
    stream = batches(blocks, BATCH, start_step=1, workers=2, shard_index=1, shard_count=2)
    for step, batch in enumerate(itertools.islice(stream, STEPS), 1):
        assert np.array_equal(batch["tokens"], expected(blocks, step)[BATCH // 2 :])
    stream.close()


def test_a_batch_that_does_not_divide_is_told(blocks: Blocks) -> None:
    with pytest.raises(ValueError, match="batch=6 does not divide over 4 processes"):
        batches(blocks, BATCH, shard_count=4)
