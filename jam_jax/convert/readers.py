"""Weights in files, read one tensor at a time: safetensors and PyTorch's pickles behind one lazy interface.

`Weights` is all that the rest of `convert` knows of a checkpoint: names, and for each a shape, a dtype and the values.
Opening reads headers only. A name that two files hold is given twice, so that the rules can report it.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from jam_jax.convert import pickles

PICKLES = (".bin", ".pt", ".pth")
# Hugging Face's directories: the index of the shards, and the endings of files that need none.
LAYOUTS = {"model.safetensors.index.json": (".safetensors",), "pytorch_model.bin.index.json": PICKLES}
DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8},
}


class Weights(Protocol):
    """Named arrays, read when asked for."""

    def names(self) -> list[str]:
        """Every name; one that is stored twice comes twice."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def dtype(self, name: str) -> np.dtype:
        """Its type as stored, without reading it."""

    def read(self, name: str) -> np.ndarray:
        """Its values, in the stored type."""


class Safetensors:
    """The tensors of one safetensors file; ValueError if it is damaged."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        try:
            self.file = safe_open(path, framework="numpy")
            self.slices = {name: self.file.get_slice(name) for name in self.file.keys()}  # noqa: SIM118
        except Exception as error:  # SafetensorError and what the operating system adds
            raise ValueError(f"{path} is damaged or no safetensors file: {_first_line(error)}") from error

    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self.slices)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the file's header."""
        return tuple(self.slices[name].get_shape())

    def dtype(self, name: str) -> np.dtype:
        """From the file's header; ValueError for a type that numpy has no word for."""
        kind = self.slices[name].get_dtype()
        if kind not in DTYPES:
            raise ValueError(f"{self.path}: {name} is stored as {kind}, which cannot be read; convert it to float32")
        return np.dtype(DTYPES[kind])

    def read(self, name: str) -> np.ndarray:
        """One tensor; ValueError if the file is damaged."""
        try:
            return self.file.get_tensor(name)
        except Exception as error:
            raise ValueError(f"{self.path}: {name} cannot be read: {_first_line(error)}") from error


class Tensors:
    """The tensors of a dict that `pickles.load` gave; ValueError where a value is none."""

    def __init__(self, tensors: Any, path: Path) -> None:
        if not isinstance(tensors, Mapping) or not tensors:
            raise ValueError(f"{path} holds no dict of tensors")
        if odd := [str(k) for k, v in tensors.items() if not (isinstance(k, str) and pickles.is_tensor(v))]:
            raise ValueError(f"{path}: {', '.join(odd[:5])} should be tensors and are not")
        self.tensors = tensors

    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.tensors[name].shape)

    def dtype(self, name: str) -> np.dtype:
        """The tensor's type."""
        return pickles.dtype(self.tensors[name])

    def read(self, name: str) -> np.ndarray:
        """The tensor as numpy."""
        return pickles.to_numpy(self.tensors[name])


class Files:
    """Several files as one."""

    def __init__(self, files: Iterable[Weights]) -> None:
        self.files = list(files)
        self.owner = {name: file for file in self.files for name in file.names()}

    def names(self) -> list[str]:
        """The files' names one after another."""
        return [name for file in self.files for name in file.names()]

    def shape(self, name: str) -> tuple[int, ...]:
        """Asks the file that holds it."""
        return self.owner[name].shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Asks the file that holds it."""
        return self.owner[name].dtype(name)

    def read(self, name: str) -> np.ndarray:
        """Asks the file that holds it."""
        return self.owner[name].read(name)


def open_file(path: Path) -> Weights:
    """The weights of one file, by the ending of its name; ValueError for another ending or a damaged file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return Safetensors(path)
    if path.suffix in PICKLES:
        return Tensors(pickles.load(path), path)
    raise ValueError(f"{path} is no checkpoint: expected a name that ends in .safetensors, {', '.join(PICKLES)}")


def open_weights(source: Path) -> Weights:
    """The weights of a file, or of a directory in Hugging Face's layout: one file, or shards with an index.

    Where a directory holds both, safetensors are taken and pickles left alone. ValueError if there are none, if a
    shard is missing, or if the index does not say what the shards hold.
    """
    if source.name in LAYOUTS and source.is_file():
        return _open_index(source)
    if not source.is_dir():
        return open_file(source)
    for index, endings in LAYOUTS.items():
        if (source / index).is_file():
            return _open_index(source / index)
        paths = sorted(p for p in source.iterdir() if p.suffix in endings and p.name != "training_args.bin")
        if paths:
            _check_count(paths)
            return Files(open_file(p) for p in paths)
    raise ValueError(f"{source} holds no weights: expected *.safetensors, *.bin, *.pt or *.pth")


def _open_index(index: Path) -> Weights:
    try:
        where = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(where.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged: it has no weight_map from names to files") from error
    # A shard is a neighbour of its index: an index that points elsewhere is not followed.
    if missing := [s for s in shards if Path(s).name != s or not (index.parent / s).is_file()]:
        raise ValueError(f"{index} names {', '.join(missing[:5])}, which {index.parent} does not hold: copy the rest")
    files = Files(open_file(index.parent / s) for s in shards)
    stored = [(name, s) for s, file in zip(shards, files.files, strict=True) for name in file.names()]
    if wrong := sorted({name for name, _ in set(where.items()) ^ set(stored)}):
        raise ValueError(
            f"{index} and its shards disagree about {len(wrong)} tensors ({', '.join(wrong[:5])}): "
            "they come from different checkpoints, or a download is incomplete"
        )
    return files


def _check_count(paths: list[Path]) -> None:
    """`name-00001-of-00003`: all three must be there, also when the index is not."""
    numbers = [re.search(r"-(\d+)-of-(\d+)\.", p.name) for p in paths]
    for total in {int(n[2]) for n in numbers if n}:
        found = {int(n[1]) for n in numbers if n and int(n[2]) == total}
        if missing := sorted(set(range(1, total + 1)) - found):
            raise ValueError(f"{paths[0].parent} lacks shards {missing[:5]} of {total}: copy the rest")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
