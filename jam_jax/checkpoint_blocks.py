"""How Orbax writes and reads leaves block by block: a type handler that stands beside its own for arrays.

What is written is an array like any other to whoever restores it. Every process writes its share of the blocks.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from orbax.checkpoint import type_handlers

from jam_jax import disk, streaming
from jam_jax.streaming import BLOCK_BYTES, Index, Leaf

# Blocks that are read or written at a time, of large ones one is read: more would only take memory. A mixture of two
# bfloat16 parents has their blocks in float32.
IN_FLIGHT = 3
RELEASE = disk.EVERY // BLOCK_BYTES  # blocks after which the files of finished ones are released
DATA_FILE_BYTES = 2**31  # Orbax's own choice


def tree_handler(leaves: "LeafHandler") -> ocp.PyTreeCheckpointHandler:
    """Saves trees of leaves, and restores arrays as leaves."""
    registry = type_handlers.create_type_handler_registry((Leaf, leaves))
    # Trained weights hardly become smaller by compression, and it takes longer than the disk.
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)


class LeafHandler(type_handlers.NumpyHandler):
    """Leaves as Orbax's arrays: its metadata, our writing and reading.

    `advance` hears of each block written; `failure` is what reading a leaf raised.
    """

    def __init__(self, advance: Callable[[], Any] = lambda: None) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self.advance = advance
        self.failure: Exception | None = None
        self.finished = 0  # blocks
        self.released: set[Path] = set()  # files
        self.grown: set[Path] = set()  # files to release the next time
        self.large = asyncio.Lock()

    async def serialize(
        self,
        values: Sequence[Any],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[ocp.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        """One future for all leaves, which are written one after another."""
        return [ocp.future.CommitFutureAwaitingContractedSignals(self._write(values, infos), name="leaves")]

    async def _write(self, leaves: Sequence[Leaf], infos: Sequence[type_handlers.ParamInfo]) -> None:
        pending: deque[asyncio.Task] = deque()
        try:
            for leaf, info in zip(leaves, infos, strict=True):
                await self._write_leaf(leaf, info, pending)
            while pending:
                await pending.popleft()
        finally:  # of a save that failed
            await asyncio.gather(*pending, return_exceptions=True)

    async def _write_leaf(self, leaf: Leaf, info: type_handlers.ParamInfo, pending: deque[asyncio.Task]) -> None:
        process, processes = jax.process_index(), jax.process_count()
        await info.await_path_creation()
        spec = type_handlers.get_json_tspec_write(
            info,
            use_ocdbt=True,
            global_shape=leaf.shape,
            local_shape=leaf.shape,
            dtype=leaf.dtype,
            process_index=process,
            arg=ocp.SaveArgs(),
        )
        spec["metadata"]["chunks"] = leaf.block
        array = await ts.open(ts.Spec(spec), create=True, open=True, context=info.ts_context)
        base = spec["kvstore"]["base"]
        files = Path(base["path"]) / "d" if base["driver"] == "file" else None
        for index in list(streaming.blocks(leaf))[process::processes]:
            pending.append(asyncio.create_task(self._write_block(leaf, index, array, files)))
            while len(pending) >= IN_FLIGHT:
                await pending.popleft()

    async def _write_block(self, leaf: Leaf, index: Index, array: Any, files: Path | None) -> None:
        large = math.prod(i.stop - i.start for i in index) * leaf.dtype.itemsize > 2 * BLOCK_BYTES
        try:
            async with self.large if large else contextlib.nullcontext():
                block = await asyncio.to_thread(leaf.read, index)
        except Exception as error:
            self.failure = self.failure or error
            raise
        await array[index].write(block, can_reference_source_data_indefinitely=True)
        self.advance()
        self.finished += 1
        if files is not None and self.finished % RELEASE == 0:
            self._release(files)

    def _release(self, files: Path) -> None:
        """Release the files that were there the last time, and are finished now."""
        for path in self.grown:
            disk.release(path)
        self.released |= self.grown
        self.grown = set(files.iterdir()) - self.released

    async def deserialize(
        self, infos: Sequence[type_handlers.ParamInfo], args: Sequence[ocp.RestoreArgs] | None = None
    ) -> Sequence[Any]:
        """Leaves whose values are read when asked for, in the type as stored."""
        opened = []
        for info in infos:
            spec = type_handlers.get_json_tspec_read(info, use_ocdbt=bool(info.is_ocdbt_checkpoint))
            opened.append(ts.open(ts.Spec(spec), open=True, context=info.ts_context))
        arrays = await asyncio.gather(*opened)
        return [_stored(array, info) for array, info in zip(arrays, infos, strict=True)]


def _stored(array: Any, info: type_handlers.ParamInfo) -> Leaf:
    def read(index: Index) -> Any:
        try:
            return array[index].read().result()
        except Exception as error:  # TensorStore raises many types with long texts
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"{info.parent_dir} is damaged: {info.name} cannot be read: {reason}") from error

    block = array.chunk_layout.read_chunk.shape or ()  # a single number has none
    return Leaf(tuple(array.shape), array.dtype.numpy_dtype, read, tuple(block))
