"""PyTorch's zip archives, written a tensor at a time: `torch.save` wants them all in memory.

The layout is that of `torch/serialization.py`: records stored as they are, `data.pkl` with the contents, in which a
tensor is a record's number, its type and its shape, and `data/N` with the values.
"""

import collections
import contextlib
import io
import math
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from jam_jax import disk
from jam_jax.convert import pickles, torchscript
from jam_jax.convert.readers import Weights
from jam_jax.streaming import Leaf

ALIGNMENT = 64  # bytes, from which on torch's own writer lets a record begin
LOCAL, ZIP64, EXTRA = 30, 20, 4  # bytes of a record's header, of its field for large sizes, in front of a field's bytes


def leaf_of(weights: Weights, name: str) -> Leaf:
    """One of the weights, read as a whole when it is written."""
    shape = weights.shape(name)
    return Leaf(shape, weights.dtype(name), lambda _: weights.read(name), shape)


def save(path: Path, contents: Any, advance: Callable[[], Any] = lambda: None) -> None:
    """What `torch.save` would write, with a `Leaf` wherever a tensor is to be; one that is there twice is stored once.

    `advance` hears of each tensor written. ValueError where PyTorch is missing, OSError if the disk is full.
    """
    torch = pickles.import_torch(path)
    file = io.BytesIO()
    pickler = _Pickler(file, torch)
    pickler.dump(contents)
    with zipfile.ZipFile(path, "w") as archive:

        def record(name: str, size: int) -> contextlib.AbstractContextManager[IO[bytes]]:
            info = zipfile.ZipInfo(f"{path.stem}/{name}")
            assert archive.fp is not None
            begin = archive.fp.tell() + LOCAL + len(info.filename.encode()) + ZIP64 + EXTRA
            pad = -begin % ALIGNMENT
            info.extra = b"FB" + pad.to_bytes(2, "little") + bytes(pad)
            info.file_size = size
            return archive.open(info, "w", force_zip64=True)

        def small(name: str, data: bytes) -> None:
            with record(name, len(data)) as out:
                out.write(data)

        small("data.pkl", file.getvalue())
        small("byteorder", sys.byteorder.encode())
        growing = disk.Growing(path)
        for i, leaf in enumerate(pickler.leaves):
            with record(f"data/{i}", leaf.size * leaf.dtype.itemsize) as out:
                out.write(np.ascontiguousarray(leaf.whole()).reshape(-1).view(np.uint8).data)
            growing.wrote(leaf.size * leaf.dtype.itemsize)
            advance()
        small("version", b"3\n")


class _Storage(NamedTuple):
    """What a tensor lies in, all of it: a record."""

    leaf: Leaf
    number: int


class _Pickler(pickle.Pickler):
    """Writes leaves as torch writes tensors."""

    def __init__(self, file: IO[bytes], torch: Any) -> None:
        super().__init__(file, protocol=2)
        self.torch = torch
        self.leaves: list[Leaf] = []

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Leaf):
            return NotImplemented
        self.leaves.append(obj)  # once: the pickle refers back to what it holds already
        strides = tuple(math.prod(obj.shape[i + 1 :]) for i in range(obj.ndim))
        storage = _Storage(obj, len(self.leaves) - 1)
        rebuild = self.torch._utils._rebuild_tensor_v2
        return rebuild, (storage, 0, obj.shape, strides, False, collections.OrderedDict())

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        kind = next(word for word, kind in torchscript.STORAGES.items() if kind == obj.leaf.dtype)
        return "storage", getattr(self.torch, kind + "Storage"), str(obj.number), "cpu", obj.leaf.size
