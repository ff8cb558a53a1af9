"""PyTorch's pickled files, opened as data: nothing that a pickle names is ever run (the one door to torch).

`torch.load(weights_only=True)` rebuilds tensors and plain containers and refuses the rest. What metaseq and
PyTorch Lightning really store beside their weights is let through in a form that can do nothing: `argparse.Namespace`
as itself, omegaconf's containers and those systems' classes as `Inert`, which only keeps the state that was pickled.
"""

import argparse
import collections
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jam_jax.convert import archives

# Classes found in published checkpoints that carry settings, or nothing. No code of theirs is imported.
INERT = (
    *(f"omegaconf.{kind}config.{kind.title()}Config" for kind in ("dict", "list")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path")),
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "typing.Any",
    "metaseq.data.document_to_sequence.LockingArray",
    # Keys of the training state beside an image tokenizer's weights.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)
HARMLESS = (argparse.Namespace, collections.defaultdict, dict, list, int)


class Inert:
    """Stands where a pickle names one of the `INERT` classes: keeps what was pickled, does nothing with it."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def import_torch(path: Path) -> types.ModuleType:
    """The torch module; ValueError says what to install, and for which file."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} needs PyTorch, which is not installed: pip install torch (its CPU build is enough), "
            "or use safetensors where the other side has them"
        ) from error
    return torch


def load(path: Path) -> Any:
    """The contents of a `.pt`, `.bin`, `.pth` or `.ckpt` file, tensors mapped from disk rather than read.

    ValueError in one line for a damaged file, for a class that is not on the list (named, and not run), for want of
    memory, and where torch is missing.
    """
    torch = import_torch(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    known = [*HARMLESS, *((Inert, name) for name in INERT)]
    # Files from before PyTorch 1.6 are no archives and cannot be mapped.
    records = archives.check(path) if archives.is_archive(path) else None
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):
            contents = torch.load(path, map_location="cpu", mmap=records is not None, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        text = str(error)
        if refused := re.search(r"nsupported.*GLOBAL ([\w.]+)", text):
            raise ValueError(
                f"{path} holds {refused[1][:200]}, which is neither a weight nor a known setting; nothing of it was "
                "run. Save the weights alone (a dict of tensors) and import that"
            ) from error
        if isinstance(error, MemoryError) or "allocate memory" in text:
            raise ValueError(
                f"{path} asks for more memory than there is: it is damaged, or, being of the format before PyTorch "
                "1.6, must be read at once; load it and save it again elsewhere"
            ) from error
        # torch puts advice to trust the file before the reason, or behind it: that is not passed on.
        reason = (text.split("WeightsUnpickler error:")[-1].strip().splitlines() or [type(error).__name__])[0][:200]
        if "weights_only" in reason:
            reason = "it is TorchScript's or a tar archive, which hold programs"
        raise ValueError(f"{path} is damaged or no PyTorch file: {reason}") from error
    if records is not None and not archives.are_records(_storages(contents), records):
        raise ValueError(f"{path} is damaged: what it says of its tensors does not fit the bytes that it holds")
    return contents


def _storages(contents: Any) -> Iterator[tuple[int, int]]:
    """Address and bytes of what the tensors of a checkpoint lie in: in a dict, or a dict in it."""
    for value in contents.values() if isinstance(contents, dict) else ():
        for tensor in value.values() if isinstance(value, dict) else (value,):
            if is_tensor(tensor):
                storage = tensor.untyped_storage()
                yield storage.data_ptr(), storage.nbytes()


def plain(value: Any) -> Any:
    """Settings as plain dicts, lists, numbers and texts: Namespaces and omegaconf's containers opened, all through.

    ValueError for settings nested deeper than any real ones (or holding themselves).
    """
    return _plain(value, 0, {})


def _plain(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """`done` has what was opened, by its id: a container that is held many times over is opened once."""
    if depth > 50:
        raise ValueError("the checkpoint's settings are nested without end: the file is damaged")
    if id(value) in done:
        return done[id(value)]
    out = value
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        out = _plain(state.get("_content", state.get("_val")), depth + 1, done)
    elif isinstance(value, dict | argparse.Namespace):
        items = value if isinstance(value, dict) else vars(value)
        out = {str(k): _plain(v, depth + 1, done) for k, v in items.items() if isinstance(k, str | int)}
    elif isinstance(value, list | tuple):
        out = [_plain(v, depth + 1, done) for v in value]
    elif not isinstance(value, str | int | float | types.NoneType):
        out = f"<{type(value).__name__}>"  # no setting: a tensor, say, which cannot even be compared with one
    done[id(value)] = out
    return out


def is_tensor(value: Any) -> bool:
    """Whether `load` gave a dense tensor here, with a value of its own for each of its places."""
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is None or not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    if value.device.type != "cpu" or value.is_quantized or value.is_nested:
        return False
    # A few bytes on disk can claim to be a tensor of any size, all of whose places are the same.
    return bool(value.numel() * value.element_size() <= value.untyped_storage().nbytes())


def dtype(tensor: Any) -> np.dtype:
    """A tensor's type as numpy's, `bfloat16` included; ValueError for types that numpy has no word for."""
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except TypeError as error:
        raise ValueError(f"a tensor of type {name} cannot be read; convert the checkpoint to float32") from error


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor as a numpy array of the same bits, without a copy where there need be none."""
    want = dtype(tensor)
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if want == ml_dtypes.bfloat16:
        import torch

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
