"""The loader: the same blocks in the same order for any processes, workers and any step to start at."""

import hashlib
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from jam_jax import tokens
from jam_jax.config import DataConfig, SourceConfig
from jam_jax.data import neighbours
from jam_jax.data.loader import batches
from jam_jax.data.mixture import Blocks
from jam_jax.data.store import write_ids

SPACE = tokens.jam(text=300, codes=16, codes_per_image=4)
BATCH, STEPS = 40, 25  # a thousand blocks


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    """A mixture of every cut, with neighbours and masks."""
    directory = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    picture = [SPACE.start_of_image, *SPACE.image_ids[:4]]
    records = [(np.array([*rng.integers(4, 300, 1 + i % 9), *picture, 2]), 0) for i in range(60)]
    store = write_ids(directory / "pairs", records, SPACE)
    found = np.argsort(rng.random((60, 2, 60)), axis=2)[:, :, :4]
    neighbours.write(directory / "table", store, store, [(found, np.full(found.shape, 0.5))])
    path, table = str(directory / "pairs"), str(directory / "table")
    sources = (
        SourceConfig(path, 2.0, neighbours=table),
        SourceConfig(path, 1.0, cut="document", mask_caption=0.2),
        SourceConfig(path, 1.0, cut="picture", within_documents=True),
        SourceConfig(path, 0.7, cut="packed", cm3_segments=0.5, neighbours=table, retrieved=1),
    )
    return Blocks(DataConfig(sources=sources, block=32), SPACE, seed=3)


@pytest.fixture(scope="module")
def whole(blocks: Blocks) -> str:
    """The hash of the first thousand blocks, made one by one from a fresh copy."""
    blocks = pickle.loads(pickle.dumps(blocks))
    return digest(stack([blocks[n] for n in range(s * BATCH, (s + 1) * BATCH)]) for s in range(STEPS))


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def digest(found) -> str:  # type: ignore[no-untyped-def]
    """Of batches, whatever was put together to make them."""
    told = hashlib.sha256()
    for batch in found:
        for name in ("tokens", "weights", "positions"):
            told.update(np.ascontiguousarray(batch[name]).tobytes())
    return told.hexdigest()


def joined(parts: list) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_any_number_of_processes_makes_the_same_thousand_blocks(blocks: Blocks, whole: str, processes: int) -> None:
    slices = np.split(np.arange(BATCH), processes)
    streams = [batches(pickle.loads(pickle.dumps(blocks)), BATCH, rows=rows.tolist()) for rows in slices]
    assert digest(joined([next(stream) for stream in streams]) for _ in range(STEPS)) == whole


@pytest.mark.parametrize("workers", [3])
def test_any_number_of_workers_makes_the_same_thousand_blocks(blocks: Blocks, whole: str, workers: int) -> None:
    stream = batches(blocks, BATCH, workers=workers)
    assert digest(itertools.islice(stream, STEPS)) == whole
    stream.close()


def test_a_thousand_blocks_are_the_same_after_resuming_at_any_step(blocks: Blocks, whole: str) -> None:
    def resumed() -> itertools.chain:
        # Stopped after every step, and gone on with at the next one, by other processes.
        for step in range(STEPS):
            rows = [range(BATCH)] if step % 3 else [range(15), range(15, BATCH)]
            yield joined([next(batches(blocks, BATCH, start_step=step, rows=part)) for part in rows])

    assert digest(resumed()) == whole


def test_reading_starts_far_in_a_run(blocks: Blocks) -> None:
    far = 10**9
    for step, batch in enumerate(itertools.islice(batches(blocks, BATCH, start_step=far), 2), far):
        expected = stack([blocks[n] for n in range(step * BATCH, (step + 1) * BATCH)])
        assert digest([batch]) == digest([expected])
        assert batch["weights"].shape == batch["positions"].shape == (BATCH, 31)
        assert [batch[n].dtype for n in ("tokens", "weights", "positions")] == [np.int32, np.float32, np.int32]


@pytest.mark.parametrize("rows", [[], [40], [0, -1]])
def test_rows_that_no_batch_has_are_told(blocks: Blocks, rows: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one of the rows 0 to 39 of a batch"):
        batches(blocks, BATCH, rows=rows)


def test_a_worker_that_fails_says_why(tmp_path: Path) -> None:
    store = write_ids(tmp_path / "s", [(np.arange(4, 40), 0)] * 9, SPACE)
    blocks = Blocks(DataConfig(sources=(SourceConfig(str(store.directory)),), block=8), SPACE, seed=0)
    (shard,) = store.directory.glob("*.arrayrecord")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(Exception, match=f"{shard.name} is damaged: tokenize again"):
        next(batches(blocks, 4, workers=1))
