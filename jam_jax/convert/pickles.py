"""PyTorch's pickled files, opened as data: nothing that a pickle names is ever run (the one door to torch).

`torch.load(weights_only=True)` rebuilds tensors and plain containers and refuses the rest. What metaseq and
PyTorch Lightning really store beside their weights is let through in a form that can do nothing: `argparse.Namespace`
as itself, omegaconf's containers and those systems' classes as `Inert`, which only keeps the state that was pickled.
"""

import argparse
import collections
import re
import types
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

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

    ValueError in one line for a damaged file, for a class that is not on the list (named, and not run), and where
    torch is missing.
    """
    torch = import_torch(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    known = [*HARMLESS, *((Inert, name) for name in INERT)]
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):
            # Files from before PyTorch 1.6 are no zip archives and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        text = str(error)
        if refused := re.search(r"nsupported.*GLOBAL ([\w.]+)", text):
            raise ValueError(
                f"{path} holds {refused[1]}, which is neither a weight nor a known setting; nothing of it was run. "
                "Save the weights alone (a dict of tensors) and import that"
            ) from error
        # torch puts advice to trust the file before the reason: that is not passed on.
        reason = (text.split("WeightsUnpickler error:")[-1].strip().splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path} is damaged or no PyTorch file: {reason}") from error


def plain(value: Any, depth: int = 0) -> Any:
    """Settings as plain dicts and lists: Namespaces and omegaconf's containers opened, all the way down.

    ValueError for settings nested deeper than any real ones (or holding themselves).
    """
    if depth > 50:
        raise ValueError("the checkpoint's settings are nested without end: the file is damaged")
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        return plain(state.get("_content", state.get("_val")), depth + 1)
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value]
    return value


def is_tensor(value: Any) -> bool:
    """Whether `load` gave a tensor here."""
    return type(value).__module__.startswith("torch") and hasattr(value, "dtype")


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
    tensor = tensor.detach().contiguous()
    if want == ml_dtypes.bfloat16:
        import torch

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
