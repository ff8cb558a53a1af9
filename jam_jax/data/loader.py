"""Batches for training, through Grain: reader threads or processes ahead of the training loop.

Block n is the same whoever makes it, so batch b is blocks [b batch, (b + 1) batch) whatever the number of hosts,
workers or the step at which reading starts.
"""

import atexit
import functools
import weakref
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import numpy as np

AHEAD = 4  # batches that are ready before they are asked for
ENDLESS = 1 << 48  # blocks; Grain wants a number


class BlockSource(Protocol):
    """What `batches` reads: blocks by number, each a dict of arrays; it travels to the workers by pickle."""

    def __getitem__(self, n: int) -> dict[str, np.ndarray]: ...


def batches(
    blocks: BlockSource, batch: int, *, start_step: int = 0, workers: int = 0, rows: Sequence[int] | None = None
) -> Generator[dict[str, np.ndarray], None, None]:
    """The batches of steps start_step, start_step + 1, … without end: of each the `rows` that this process needs.

    `batch` counts the blocks of a step over all processes; `rows` are the numbers of some of them, by default all.
    ValueError if there is no such row. Close the iterator to end the worker processes.
    """
    chosen = tuple(range(batch) if rows is None else map(int, rows))
    if not chosen or not all(0 <= row < batch for row in chosen):
        raise ValueError(f"a process needs at least one of the rows 0 to {batch - 1} of a batch, got {chosen[:8]}")
    stream = _batches(blocks, batch, start_step, workers, chosen)
    atexit.register(_close, weakref.ref(stream))  # else worker processes that still run at exit complain
    return stream


def _batches(
    blocks: BlockSource, batch: int, start_step: int, workers: int, rows: tuple[int, ...]
) -> Generator[dict[str, np.ndarray], None, None]:
    import grain
    from absl import flags

    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask absl's flags, which nobody parses here
    number = functools.partial(_number, batch=batch, start_step=start_step, rows=rows)
    dataset = grain.MapDataset.range(ENDLESS).map(number).map(blocks.__getitem__).batch(len(rows))
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


def _number(k: int, *, batch: int, start_step: int, rows: tuple[int, ...]) -> int:
    """The number, in the whole run, of the k-th block that this process makes."""
    step, row = divmod(k, len(rows))
    return (start_step + step) * batch + rows[row]
