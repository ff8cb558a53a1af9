"""A directory as Hugging Face's `transformers` reads it: config.json, safetensors (sharded with an index), tokenizer.

For an image tokenizer, a directory with the two files that taming-transformers and Meta's Chameleon read.
It is written aside and renamed, so a directory of that name is complete or not there.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import checkpoint, progress
from jam_jax.convert import pickles
from jam_jax.convert.readers import Weights

SHARD_BYTES = 5 * 10**9


def check_target(target: Path) -> None:
    """ValueError if `target` exists and is not an empty directory: nothing is overwritten."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty: give another --target, or remove it first")


def write_hugging_face(
    target: Path,
    config: dict[str, Any],
    weights: Weights,
    *,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `weights` with their `config`, and a copy of our tokenizer's directory as `tokenizer/`.

    Files hold at most `shard_bytes` (or one tensor) and are held in memory one at a time. ValueError if `target`
    exists and is not empty, OSError if the disk is full; whatever interrupts it leaves no target behind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    shards = list(_shards(weights, shard_bytes))
    where: dict[str, str] = {}
    with checkpoint.new_directory(target) as aside, progress.bar("export", len(weights.names())) as advance:
        (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for i, names in enumerate(shards):
            one = len(shards) == 1
            file = "model.safetensors" if one else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
            arrays = {name: np.ascontiguousarray(weights.read(name)) for name in names}
            # transformers refuses a file that does not say which framework wrote it.
            try:
                save_file(arrays, aside / file, metadata={"format": "pt"})
            except SafetensorError as error:  # how safetensors reports a full disk
                raise OSError(f"cannot write {target}: {error}") from error
            where |= dict.fromkeys(names, file)
            advance(len(names))
        if len(shards) > 1:
            total = sum([_bytes(weights, name) for name in where])
            index = {"metadata": {"total_size": total}, "weight_map": where}
            (aside / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            shutil.copytree(tokenizer, aside / "tokenizer")


def write_taming(target: Path, settings: dict[str, Any], weights: Weights) -> None:
    """Write `vqgan.yaml` and `vqgan.ckpt`, a pickle of `state_dict`; it is held in memory as a whole.

    ValueError if `target` exists and is not empty, or where PyTorch is missing; OSError if the disk is full.
    """
    import yaml

    torch = pickles.import_torch(target / "vqgan.ckpt")
    with checkpoint.new_directory(target) as aside:
        (aside / "vqgan.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        state = {name: torch.from_numpy(np.ascontiguousarray(weights.read(name))) for name in weights.names()}
        try:
            torch.save({"state_dict": state}, aside / "vqgan.ckpt")
        except RuntimeError as error:  # how torch reports a full disk
            raise OSError(f"cannot write {target}: {str(error).splitlines()[0]}") from error


def _shards(weights: Weights, limit: int) -> Iterator[list[str]]:
    """Names in order, cut where a file would grow beyond the limit."""
    names: list[str] = []
    size = 0
    for name in weights.names():
        if names and size + _bytes(weights, name) > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += _bytes(weights, name)
    yield names


def _bytes(weights: Weights, name: str) -> int:
    return math.prod(weights.shape(name)) * weights.dtype(name).itemsize
