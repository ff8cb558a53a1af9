"""TorchScript archives (`torch.jit.save`, as OpenAI published CLIP), opened as data: tensors alone, without PyTorch.

An archive is a zip: `data.pkl` is the pickle of a module with its attributes, `data/N` the bytes of a tensor, `code/`
the program, which is not looked at. `torch.load(weights_only=True)` refuses such a file, and `torch.jit.load` would
bring the program in. Here the pickle is read with stand-ins for the few names that torch writes into it; any other name
is refused, so nothing that a file names is ever run.
"""

import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from jam_jax.convert.pickles import Inert

STORAGES = {
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}
MOST_MODULES = 100_000  # a file may name a module twice, and in turn again: what unfolds without end is damaged


class _Tensor:
    """Where a tensor's values lie: a record of the archive, and which of its numbers in which order."""

    def __init__(self, stored: tuple[str, str], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.record, self.kind = stored
        self.offset, self.shape, self.strides = offset, tuple(shape), tuple(strides)  # in numbers, not in bytes


def _check(tensor: _Tensor, numbers: int) -> None:
    """ValueError unless all of a tensor lies in a record of so many numbers: outside is the memory of this process.

    Asked when the pickle has been read, and no method of the tensor: a pickle can alter the objects that it makes.
    """
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in (offset, *shape, *strides)):
        raise ValueError(f"it has a tensor of shape {shape} with strides {strides} from {offset}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= numbers:
        raise ValueError(f"its record {tensor.record} is shorter than the tensor {list(shape)} in it")


class _Refused(Exception):
    """A name that is none of torch's for tensors and modules."""


class _Unpickler(pickle.Unpickler):
    """Knows tensors, modules that only keep their attributes, and containers."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        # Made anew for each file, since a pickle may set attributes on what it is given.
        self.module = type("Module", (Inert,), {})
        self.known: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": lambda *parts: _Tensor(*parts[:4]),
            "torch.jit._pickle.restore_type_tag": lambda value, _: value,
            "torch.device": lambda *_: None,
            "collections.OrderedDict": lambda *_: {},
        }
        kinds = ("int", "double", "bool", "tensor")
        self.known |= {f"torch.jit._pickle.build_{kind}list": lambda values: values for kind in kinds}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        if module.split(".")[0] == "__torch__":
            return self.module
        full = f"{module}.{name}"
        if module == "torch" and name.removesuffix("Storage") in STORAGES:
            return name.removesuffix("Storage")
        if full not in self.known:
            raise _Refused(full)
        return self.known[full]

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """The record that holds a tensor's values, and their kind."""
        _, kind, record, *_ = pid
        return f"data/{record}", kind


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive, by the records in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


class Archive:
    """The tensors of a TorchScript archive by the names that `state_dict()` would give them, read one at a time.

    Plain attributes that are tensors come along. ValueError in one line for a file that is damaged or that names
    anything but tensors and modules.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reading = threading.Lock()  # blocks are read in threads, and a ZipFile counts its readers without one
        try:
            self.archive = zipfile.ZipFile(path)
            self.root = self.archive.namelist()[0].split("/")[0]
            with self.archive.open(self._record("data.pkl")) as file:
                self.tensors = _collect(_Unpickler(file).load())
            for name, tensor in self.tensors.items():
                _check(tensor, self._record(tensor.record).file_size // self.dtype(name).itemsize)
        except _Refused as refused:
            raise ValueError(
                f"{path} holds {refused}, which is neither a weight nor a module; nothing of it was run. "
                "Save its state_dict (a dict of tensors) and import that"
            ) from refused
        except Exception as error:  # a damaged pickle can raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"{path} is damaged or no TorchScript archive: {reason}") from error

    def _record(self, name: str) -> zipfile.ZipInfo:
        return self.archive.getinfo(f"{self.root}/{name}")

    def names(self) -> list[str]:
        """Names in the file's order."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """As the pickle says."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Of the tensor's storage."""
        return np.dtype(STORAGES[self.tensors[name].kind])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One tensor or some of its rows; ValueError if its bytes are damaged."""
        tensor, dtype = self.tensors[name], self.dtype(name)
        try:
            with self.reading:
                values = np.frombuffer(self.archive.read(self._record(tensor.record)), dtype)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: {name} cannot be read: {error}") from error
        strides = [s * dtype.itemsize for s in tensor.strides]
        found = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
        return found[start:stop] if tensor.shape else found


def _collect(module: Any) -> dict[str, _Tensor]:
    """A module's tensors by dotted names, its submodules' after its own."""
    if not isinstance(module, Inert):
        raise ValueError("it holds no module")
    found: dict[str, _Tensor] = {}
    modules = [("", module)]
    for prefix, current in modules:  # which grows
        if len(modules) > MOST_MODULES or prefix.count(".") > 100:
            raise ValueError("its modules are nested without end")
        for name, value in (current.state if isinstance(current.state, dict) else {}).items():
            if isinstance(value, _Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Inert):
                modules.append((f"{prefix}{name}.", value))
    return found
