"""Batches on the mesh: each process makes the rows that its devices hold, and says how long the devices waited.

JAX lets the loop run ahead of the devices, so the time that the loop waits for a batch is not lost as long as they
still have work. Lost is what passes between the end of the last step that they were given and the next batch's arrival.
"""

import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from jam_jax.data.loader import BlockSource, batches


def local_rows(placed: Sharding, batch: int, process: int | None = None) -> np.ndarray:
    """Which rows of a batch the devices of a process hold, in order, int64; by default this process."""
    process = jax.process_index() if process is None else process
    held: Any = placed.devices_indices_map((batch,)).items()  # JAX's types leave devices bare
    edges = {index[0].indices(batch)[:2] for device, index in held if device.process_index == process}
    return np.concatenate([np.arange(first, last) for first, last in sorted(edges)])


class Feed:
    """The batches of a run as arrays on the mesh, from a step on; a context that ends its reader processes."""

    def __init__(
        self, blocks: BlockSource, batch: int, placed: Sharding, *, start_step: int = 0, workers: int = 0
    ) -> None:
        """`batch` blocks a step over all processes, laid out as `placed` says; ValueError as from `batches`."""
        self._batch, self._placed = batch, placed
        self._rows = local_rows(placed, batch)
        self._stream: Generator[dict[str, np.ndarray], None, None] = batches(
            blocks, batch, start_step=start_step, workers=workers, rows=self._rows.tolist()
        )
        self._watcher = ThreadPoolExecutor(1, "devices")
        self._ended: Future[float] | None = None
        self._waited = 0.0

    def next(self) -> dict[str, jax.Array]:
        """The next batch: arrays [batch, …] on the mesh."""
        asked = time.monotonic()
        local = next(self._stream)
        arrived = time.monotonic()
        if self._ended and self._ended.done():
            self._waited += max(arrived - max(asked, self._ended.result()), 0)
        return {name: self._spread(rows) for name, rows in local.items()}

    def _spread(self, local: np.ndarray) -> jax.Array:
        shape = (self._batch, *local.shape[1:])

        def part(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(self._batch)
            start = int(np.searchsorted(self._rows, first))
            return local[start : start + last - first]

        return jax.make_array_from_callback(shape, self._placed, part)

    def running(self, result: jax.Array) -> None:
        """Tell which array the devices make from the batch last given: they are busy until it is there."""
        self._ended = self._watcher.submit(_end, result)

    def waited(self) -> float:
        """Seconds that the devices waited for batches since this was last asked; not counting the first batch."""
        waited, self._waited = self._waited, 0.0
        return waited

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        self._watcher.shutdown()


def _end(result: jax.Array) -> float:
    jax.block_until_ready(result)
    return time.monotonic()
