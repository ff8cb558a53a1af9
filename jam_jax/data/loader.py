"""Batches for training, through Grain: reader threads or processes ahead of the training loop.

Block n is the same whoever makes it, so batch b is blocks [b batch, (b + 1) batch) whatever the number of hosts,
workers or the step at which reading starts.
"""

import atexit
import functools
import weakref
from collections.abc import Generator
from typing import Any, Protocol

import numpy as np

AHEAD = 4  # batches that are ready before they are asked for
ENDLESS = 1 << 48  # blocks; Grain wants a number


class BlockSource(Protocol):
    """What `batches` reads: blocks by number, each a dict of arrays; it travels to the workers by pickle."""

    def __getitem__(self, n: int) -> dict[str, np.ndarray]: ...


def batches(
    blocks: BlockSource,
    batch: int,
    *,
    start_step: int = 0,
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> Generator[dict[str, np.ndarray], None, None]:
    """The batches of steps start_step, start_step + 1, … without end: this shard's batch / shard_count rows of each.

    `batch` counts the blocks of a step over all shards. ValueError if it does not divide by their number. Close the
    iterator to end the worker processes.
    """
    if batch % shard_count or not 0 <= shard_index < shard_count:
        raise ValueError(f"batch={batch} does not divide over {shard_count} processes (this is number {shard_index})")
    stream = _batches(blocks, batch, start_step, workers, shard_index, batch // shard_count)
    atexit.register(_close, weakref.ref(stream))  # else worker processes that still run at exit complain
    return stream


def _batches(
    blocks: BlockSource, batch: int, start_step: int, workers: int, shard_index: int, rows: int
) -> Generator[dict[str, np.ndarray], None, None]:
    import grain
    from absl import flags

    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask absl's flags, which nobody parses here
    number = functools.partial(_number, batch=batch, start_step=start_step, first=shard_index * rows, rows=rows)
    dataset = grain.MapDataset.range(ENDLESS).map(number).map(blocks.__getitem__).batch(rows)
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))
    if workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=AHEAD))
    iterator = iter(stream)
    try:
        yield from iterator
    finally:
        iterator.close()


def _close(stream: "weakref.ref[Generator[Any, None, None]]") -> None:
    if (alive := stream()) is not None:
        alive.close()


def _number(k: int, *, batch: int, start_step: int, first: int, rows: int) -> int:
    """The global number of this shard's k-th block."""
    step, row = divmod(k, rows)
    return (start_step + step) * batch + first + row
