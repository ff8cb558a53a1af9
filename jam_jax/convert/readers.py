"""Weights in files, read one tensor at a time: safetensors and PyTorch's pickles behind one lazy interface.

`Weights` is all that the rest of `convert` knows of a checkpoint: names, and for each a shape, a dtype and the values.
Opening reads headers only. A name that two files hold is given twice, so that the rules can report it.
"""

import json
import re
import reprlib
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import ml_dtypes
import numpy as np

from jam_jax.convert import archives, pickles

RELEASE_BYTES = 256 * 2**20  # of mapped pickles in memory at once
PICKLES = (".bin", ".pt", ".pth")
INDEX = ".index.json"
# Files of transformers, in the order in which it looks for them; others in the same directory (of a training, an
# adapter, another system) are not its own.
FILES = ("model.safetensors", "model.safetensors" + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)
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

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Its values in the stored type, or those of some rows (of the first axis)."""


def shown(value: Any) -> str:
    """A value from a file as a short text on one line, for messages."""
    short = reprlib.Repr()
    short.maxdict = short.maxlist = short.maxtuple = 8
    short.maxstring = short.maxother = 80
    short.maxlevel = 3
    return short.repr(value)


def refuse_odd_names(names: Iterable[str], path: Path | str) -> None:
    """ValueError for a name that no program writes, and that would not fit into a message of one line."""
    if odd := [name for name in names if not name.isprintable() or len(name) > 300]:
        raise ValueError(f"{path} is damaged: it holds the name {shown(odd[0])}")


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_first_line(error)}") from error


class Safetensors:
    """The tensors of one safetensors file; ValueError if it is damaged."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = path
        try:
            with safe_open(path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                self.found = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        except Exception as error:  # SafetensorError and what the operating system adds
            raise ValueError(f"{path} is damaged or no safetensors file: {_first_line(error)}") from error
        refuse_odd_names(self.found, path)

    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self.found)

    def shape(self, name: str) -> tuple[int, ...]:
        """From the file's header."""
        return self.found[name][0]

    def dtype(self, name: str) -> np.dtype:
        """From the file's header; ValueError for a type that numpy has no word for."""
        kind = self.found[name][1]
        if kind not in DTYPES:
            raise ValueError(f"{self.path}: {name} is stored as {kind}, which cannot be read; convert it to float32")
        return np.dtype(DTYPES[kind])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One tensor or some of its rows; ValueError if the file is damaged."""
        from safetensors import safe_open

        try:
            # What has been read of a mapped file counts as this process's memory until the file is closed.
            with safe_open(self.path, framework="numpy") as file:
                return file.get_slice(name)[start:stop] if self.found[name][0] else file.get_tensor(name)
        except Exception as error:
            raise ValueError(f"{self.path}: {name} cannot be read: {_first_line(error)}") from error


class Tensors:
    """The tensors of a dict in a pickle, which `load` opens; ValueError where a value is none.

    A name that holds None holds nothing (Anole's `rope.freqs`), and is left out.
    """

    # What has been read of a mapped file counts as this process's memory until the file is closed, and a checkpoint may
    # have hundreds: all that are open share one allowance. Files that cannot be mapped are in memory anyway.
    mapped: ClassVar["weakref.WeakSet[Tensors]"] = weakref.WeakSet()
    reading: ClassVar = threading.RLock()  # blocks are read in threads, and none may close what another reads

    def __init__(self, load: Callable[[], Any], path: Path) -> None:
        self.load, self.path = load, path
        self._close()
        self._tensors()  # says what is wrong with the file
        if path.is_file() and archives.is_archive(path):
            self.mapped.add(self)

    def _close(self) -> None:
        self.opened: Mapping[str, Any] = {}
        self.taken = 0  # bytes

    def _tensors(self) -> Mapping[str, Any]:
        with self.reading:
            if not self.opened:
                self.opened = self._open()
            return self.opened

    def _open(self) -> Mapping[str, Any]:
        tensors, path = self.load(), self.path
        if not isinstance(tensors, Mapping) or not tensors:
            raise ValueError(f"{path} holds no dict of tensors")
        tensors = {k: v for k, v in tensors.items() if v is not None}
        if odd := [shown(k) for k, v in tensors.items() if not (isinstance(k, str) and pickles.is_tensor(v))]:
            raise ValueError(f"{path}: {', '.join(odd[:5])} should be dense tensors and are not")
        refuse_odd_names(tensors, path)
        return tensors

    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self._tensors())

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self._tensors()[name].shape)

    def dtype(self, name: str) -> np.dtype:
        """The tensor's type."""
        return pickles.dtype(self._tensors()[name])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The tensor, or some of its rows, as numpy."""
        with self.reading:
            if sum(file.taken for file in self.mapped) > RELEASE_BYTES:
                self._release()
            tensor = self._tensors()[name]
            found = pickles.to_numpy(tensor[start:stop] if tensor.ndim else tensor)
            self.taken += found.nbytes
            return found

    def _release(self) -> None:
        """Close files until half of the allowance is free; the most used first, since those closed are opened anew."""
        left = sum(file.taken for file in self.mapped)
        for file in sorted(self.mapped, key=lambda file: -file.taken):
            if left <= RELEASE_BYTES // 2:
                break
            left -= file.taken
            file._close()


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

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Asks the file that holds it."""
        return self.owner[name].read(name, start, stop)


class Watched:
    """Weights that note, as they are read, which of them hold what is no number."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.found: set[str] = set()

    @property
    def not_finite(self) -> list[str]:
        """Those found so far, in the order of the names."""
        return [name for name in self.names() if name in self.found]

    def names(self) -> list[str]:
        """Those of the weights."""
        return self.weights.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """That of the weights."""
        return self.weights.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """That of the weights."""
        return self.weights.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The values as they are."""
        values = self.weights.read(name, start, stop)
        if not all_finite(values):
            self.found.add(name)
        return values


# Of a float's bits, those of the exponent: all of them set means that it is an infinity or not a number.
EXPONENTS = {"float32": (np.uint32, 0x7F800000), "float16": (np.uint16, 0x7C00), "bfloat16": (np.uint16, 0x7F80)}


def all_finite(values: np.ndarray, chunk: int = 1 << 20) -> bool:
    """Whether an array of floats holds neither infinities nor what is not a number; a chunk of it at a time."""
    kind, mask = EXPONENTS[values.dtype.name]
    bits = np.ascontiguousarray(values).reshape(-1).view(kind)
    return not any(((bits[i : i + chunk] & mask) == mask).any() for i in range(0, bits.size, chunk))


def open_file(path: Path) -> Weights:
    """The weights of one file, by the ending of its name; ValueError for another ending or a damaged file."""
    if not path.is_file():
        raise ValueError(f"{path} is no file" if path.exists() else f"there is no file {path}")
    if path.suffix == ".safetensors":
        return Safetensors(path)
    if path.suffix in PICKLES:
        return Tensors(lambda: pickles.load(path), path)
    raise ValueError(f"{path} is no checkpoint: expected a name that ends in .safetensors, {', '.join(PICKLES)}")


def open_weights(source: Path) -> Weights:
    """The weights of a file, or of a directory in Hugging Face's layout: one file, or shards with an index.

    Where a directory holds files of no such name, all its safetensors are taken, else all its pickles. ValueError if
    there are none, if a shard is missing, or if the index does not say what the shards hold.
    """
    if source.name.endswith(INDEX) and source.is_file():
        return _open_index(source)
    if not source.is_dir():
        return open_file(source)
    for name in FILES:
        if (source / name).is_file():
            return open_weights(source / name)
    for endings in ((".safetensors",), PICKLES):
        paths = sorted(p for p in source.iterdir() if p.suffix in endings and p.name != "training_args.bin")
        if paths:
            _check_count(paths)
            return Files(open_file(p) for p in paths)
    raise ValueError(f"{source} holds no weights: expected *.safetensors, *.bin, *.pt or *.pth")


def _open_index(index: Path) -> Weights:
    values = read_json(index)
    where = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(where, dict) or not all(isinstance(shard, str) for shard in where.values()):
        raise ValueError(f"{index} is damaged: it has no weight_map from names to files")
    refuse_odd_names((*where, *where.values()), index)
    shards = sorted(set(where.values()))
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
