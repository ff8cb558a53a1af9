"""A directory as Hugging Face's `transformers` reads it: config.json, safetensors (sharded with an index), tokenizer.

For an image tokenizer, a directory with the two files that taming-transformers and Meta's Chameleon read; for metaseq,
one with its single file. It is written aside and renamed, so a directory of that name is complete or not there.
"""

import argparse
import contextlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax import checkpoint, disk, progress
from jam_jax.convert import archive_writer, pickles, vocabulary
from jam_jax.convert.readers import DTYPES, Weights
from jam_jax.streaming import common_dtype, of_array

SHARD_BYTES = 5 * 10**9


def write_hugging_face(
    target: Path,
    config: dict[str, Any],
    weights: Weights,
    *,
    tokenizer: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `weights` with their `config`, and a tokenizer's files where `vocabulary.put_back` puts them.

    Files hold at most `shard_bytes` (or one tensor); one tensor is in memory at a time. ValueError if `target` exists
    and is not empty, OSError if the disk is full; whatever interrupts it leaves no target behind.
    """
    shards = list(_shards(weights, shard_bytes))
    # What transformers and servers load the weights as, unless they are told otherwise.
    config = {"torch_dtype": type_of(weights)} | config
    where: dict[str, str] = {}
    with checkpoint.new_directory(target) as aside, progress.bar("export", len(weights.names())) as advance:
        (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for i, names in enumerate(shards):
            one = len(shards) == 1
            file = "model.safetensors" if one else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
            _write_safetensors(aside / file, weights, names, advance)
            where |= dict.fromkeys(names, file)
        if len(shards) > 1:
            total = sum([_bytes(weights, name) for name in where])
            index = {"metadata": {"total_size": total}, "weight_map": where}
            (aside / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            vocabulary.put_back(tokenizer, aside)


def write_clip(
    target: Path, config: dict[str, Any], preprocessor: dict[str, Any], weights: Weights, tokenizer: Path
) -> None:
    """As `write_hugging_face`, with how pictures are prepared, and the files of `tokenizer`, if there are any.

    They lie beside the weights, where `transformers` looks for those of a CLIP.
    """
    with checkpoint.new_directory(target) as aside:
        write_hugging_face(aside, config, weights)
        (aside / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
        for file in sorted(tokenizer.iterdir()) if tokenizer.is_dir() else ():
            shutil.copyfile(file, aside / file.name)


def write_taming(target: Path, settings: dict[str, Any], weights: Weights) -> None:
    """Write `vqgan.yaml` and `vqgan.ckpt`, a pickle of `state_dict`, one tensor in memory at a time.

    ValueError if `target` exists and is not empty, or where PyTorch is missing; OSError if the disk is full.
    """
    import yaml

    pickles.import_torch(target / "vqgan.ckpt")
    with checkpoint.new_directory(target) as aside:
        (aside / "vqgan.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        state = {name: archive_writer.leaf_of(weights, name) for name in weights.names()}
        _save_pickle({"state_dict": state}, aside / "vqgan.ckpt", len(state))


def write_metaseq(
    target: Path,
    settings: dict[str, Any],
    weights: Weights,
    copies: Mapping[str, str],
    *,
    tokenizer: Path | None = None,
) -> None:
    """Write `reshard.pt`, metaseq's single file of a whole model, one tensor in memory at a time, and our tokenizer.

    `copies` are names under which a table is stored once more. ValueError and OSError as `write_taming`.
    """
    pickles.import_torch(target / "reshard.pt")
    state = {name: archive_writer.leaf_of(weights, name) for name in weights.names()}
    state |= {name: state[of] for name, of in copies.items()}
    contents = {
        "cfg": {
            "common": {"model_parallel_size": 1, "seed": 1, **dict.fromkeys(("fp16", "bf16"), False)},
            "model": argparse.Namespace(**settings),
            "task": {  # of what metaseq trains: the paths are those of its user, who overrides them
                **{"_name": "streaming_language_modeling", "data": "", "end_of_document_symbol": "</s>"},
                **{"hf_tokenizer": "", "vocab_filename": "", "merges_filename": "", "sample_break_mode": "none"},
                **{"tokens_per_sample": settings["tokens_per_sample"], "max_target_positions": None},
                "final_vocab_size": state["decoder.embed_tokens.weight"].shape[0],
            },
        },
        "model": {"decoder.version": of_array(np.array([3.0], np.float32)), **state},
        # metaseq's loader takes no file without these.
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    with checkpoint.new_directory(target) as aside:
        _save_pickle(contents, aside / "reshard.pt", len(weights.names()) + 1)
        if tokenizer is not None:
            vocabulary.put_back(tokenizer, aside)


def _save_pickle(contents: Any, path: Path, tensors: int) -> None:
    with progress.bar("export", tensors) as advance, _named(path):
        archive_writer.save(path, contents, advance)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file in the error of a disk that is full."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path.name}: {error.strerror or error}") from error


def _write_safetensors(path: Path, weights: Weights, names: list[str], advance: Callable[..., None]) -> None:
    """One file, a tensor at a time, which safetensors' own writer cannot: it wants them all in memory.

    The format: eight bytes with the header's length, the header as JSON, and the values in its order.
    """
    kinds = {np.dtype(kind): word for word, kind in DTYPES.items()}
    # transformers refuses a file that does not say which framework wrote it.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + _bytes(weights, name)
        kind, shape = kinds[weights.dtype(name)], weights.shape(name)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of eight
    with _named(path), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        growing = disk.Growing(path)
        for name in names:
            growing.wrote(file.write(np.ascontiguousarray(weights.read(name)).reshape(-1).view(np.uint8).data))
            advance()


def type_of(weights: Weights) -> str:
    """The one type of all weights, or float32."""
    return str(common_dtype(weights.dtype(name) for name in weights.names()))


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
