"""metaseq's checkpoints in pieces, joined as they are read: model-parallel parts and FSDP's flat shards.

    {stem}.pt   {stem}-model_part-{i}.pt   {stem}-model_part-{i}-shard{j}.pt   {stem}-shard{j}.pt

A model-parallel part holds a slice of every matrix; an FSDP shard holds a slice of each module's parameters laid end
to end (`flat_param_0`), with their names and shapes in `shard_metadata`.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from jam_jax.convert import pickles
from jam_jax.convert.readers import Tensors, Weights

PIECE = re.compile(r"(?P<stem>.+?)(-model_part-(?P<part>\d+))?(-shard(?P<shard>\d+))?\.pt")

# Which axis model parallelism cuts, by name. "fused": rows are K, V, Q, and every part holds a slice of each.
# What no row matches is replicated.
CUT: tuple[tuple[str, int | str], ...] = (
    (r"\.(embed_tokens|output_projection)\.weight$", 0),
    (r"\.qkv_proj\.(weight|bias)$", "fused"),
    (r"\.[qkv]_proj\.(weight|bias)$", 0),
    (r"\.fc1\.(weight|bias)$", 0),
    (r"\.(fc2|out_proj)\.weight$", 1),
)


class Flat:
    """One part whose parameters lie end to end in FSDP shards."""

    def __init__(self, shards: list[dict[str, Any]], paths: list[Path]) -> None:
        self.pieces: dict[str, list[Any]] = {}  # flat parameter → its slices, padding cut off
        self.where: dict[str, tuple[str, int, tuple[int, ...]]] = {}  # name → flat parameter, offset, shape
        self.whole = {k: v for k, v in shards[0]["model"].items() if not k.endswith("flat_param_0")}
        for shard, path in zip(shards, paths, strict=True):
            try:
                self._add(shard)
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{path} is damaged: its shard_metadata does not describe its weights") from error
        for key, pieces in self.pieces.items():
            want = sum(math.prod(shape) for flat, _, shape in self.where.values() if flat == key)
            got = sum(p.shape[0] for p in pieces)
            if got != want:
                raise ValueError(
                    f"{key} should have {want} values and the {len(paths)} shards beside {paths[0]} hold {got}: "
                    "a shard is missing"
                )

    def _add(self, shard: dict[str, Any]) -> None:
        for module in shard["shard_metadata"]["param_metadata"]:
            dot = module["fsdp_path"] + "." if module["fsdp_path"] else ""
            for flat, meta in module["params"].items():
                values = shard["model"][dot + flat]
                self.pieces.setdefault(dot + flat, []).append(values[: len(values) - meta["padding"]])
                starts = np.cumsum([0, *meta["numels"]])[:-1].tolist()
                for name, shape, numel, start in zip(
                    meta["names"], meta["shapes"], meta["numels"], starts, strict=True
                ):
                    if math.prod(shape) != numel:
                        raise ValueError(name)
                    self.where[dot + name] = (dot + flat, start, tuple(shape))

    def names(self) -> list[str]:
        """Parameters, then what is not sharded."""
        return [*self.where, *self.whole]

    def shape(self, name: str) -> tuple[int, ...]:
        """From the metadata."""
        return self.where[name][2] if name in self.where else tuple(self.whole[name].shape)

    def dtype(self, name: str) -> np.dtype:
        """Of the flat parameter."""
        return pickles.dtype(self.pieces[self.where[name][0]][0] if name in self.where else self.whole[name])

    def read(self, name: str) -> np.ndarray:
        """One parameter, from the shards that it lies in."""
        if name in self.whole:
            return pickles.to_numpy(self.whole[name])
        flat, start, shape = self.where[name]
        end, at, found = start + math.prod(shape), 0, []
        for piece in self.pieces[flat]:
            found.append(pickles.to_numpy(piece[max(start - at, 0) : max(end - at, 0)]))
            at += piece.shape[0]
        return np.concatenate(found).reshape(shape)


class Parallel:
    """Model-parallel parts as one model."""

    def __init__(self, parts: list[Weights], source: Path) -> None:
        self.parts = parts
        names = [sorted(p.names()) for p in parts]
        for i, other in enumerate(names):
            if odd := set(other) ^ set(names[0]):
                raise ValueError(f"{source}: model parts 0 and {i} do not hold the same names: {sorted(odd)[:3]}")

    def names(self) -> list[str]:
        """The same in every part."""
        return self.parts[0].names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the joined tensor."""
        shape = list(self.parts[0].shape(name))
        axis = _axis(name)
        if axis is not None and len(shape) > axis:
            shape[axis] = sum(p.shape(name)[axis] for p in self.parts)
        return tuple(shape)

    def dtype(self, name: str) -> np.dtype:
        """Of the first part."""
        return self.parts[0].dtype(name)

    def read(self, name: str) -> np.ndarray:
        """The parts joined; ValueError where replicas differ: the parts are of different checkpoints."""
        arrays = [p.read(name) for p in self.parts]
        axis = _axis(name)
        if axis is None:
            if not all(np.array_equal(a, arrays[0], equal_nan=True) for a in arrays[1:]):
                raise ValueError(f"{name} should be the same in all model parts and is not: parts of different files")
            return arrays[0]
        if _fused(name):  # [K_i; V_i; Q_i] of every part i → K, V, Q
            arrays = [a.reshape(3, -1, *a.shape[1:]) for a in arrays]
            joined = np.concatenate(arrays, axis=1)
            return joined.reshape(-1, *joined.shape[2:])
        return np.concatenate(arrays, axis=axis)


def _axis(name: str) -> int | None:
    axes = [axis for pattern, axis in CUT if re.search(pattern, name)]
    return None if not axes else 0 if axes[0] == "fused" else int(axes[0])


def _fused(name: str) -> bool:
    return any(axis == "fused" and re.search(pattern, name) for pattern, axis in CUT)


def find(source: Path) -> dict[int, dict[int, Path]]:
    """Files of one metaseq checkpoint: part → shard → path.

    `source` is a directory with one checkpoint, or one file (any of the pieces names the whole). ValueError if there
    are none, several checkpoints, or gaps in the numbers.
    """
    directory = source if source.is_dir() else source.parent
    if not source.exists():
        raise ValueError(f"there is no checkpoint {source}")
    found: dict[str, dict[int, dict[int, Path]]] = {}
    for path in sorted(directory.glob("*.pt")):
        if piece := PIECE.fullmatch(path.name):
            parts = found.setdefault(piece["stem"], {})
            parts.setdefault(int(piece["part"] or 0), {})[int(piece["shard"] or 0)] = path
    if source.is_file():
        piece = PIECE.fullmatch(source.name)
        found = {stem: parts for stem, parts in found.items() if piece and stem == piece["stem"]}
    if not found:
        raise ValueError(f"{source} holds no metaseq checkpoint: expected *.pt")
    if len(found) > 1:
        raise ValueError(f"{directory} holds several checkpoints ({', '.join(found)}): give --source a file of one")
    parts = next(iter(found.values()))
    shards = max(max(p) for p in parts.values()) + 1
    wanted = {(i, j) for i in range(max(parts) + 1) for j in range(shards)}
    if gaps := sorted(wanted - {(i, j) for i, p in parts.items() for j in p}):
        raise ValueError(f"{directory} lacks {len(gaps)} pieces of the checkpoint, first model part, shard: {gaps[0]}")
    return parts


def open_parts(source: Path) -> tuple[dict[str, Any], Weights]:
    """The settings (plain values) and the weights of a metaseq checkpoint, whole or in pieces.

    ValueError as `find`, and for damaged files or files that are not metaseq's.
    """
    settings: dict[str, Any] | None = None
    parts: list[Weights] = []
    for _, files in sorted(find(source).items()):
        paths = [path for _, path in sorted(files.items())]
        shards = [_open(path) for path in paths]
        if settings is None:
            cfg = pickles.plain(shards[0].get("cfg")) or {}
            settings = cfg.get("model") if isinstance(cfg, dict) else None
            settings = settings or pickles.plain(shards[0].get("args"))  # before metaseq had `cfg`
        if any(k.endswith("flat_param_0") for k in shards[0]["model"]):
            parts.append(Flat(shards, paths))
        elif len(shards) == 1:
            parts.append(Tensors(shards[0]["model"], paths[0]))
        else:
            raise ValueError(f"{paths[0]} is one of {len(paths)} shards and has no flat parameters: unknown layout")
    if not isinstance(settings, dict):
        raise ValueError(f"{source} holds no settings of a metaseq model (cfg['model'] or args)")
    return settings, parts[0] if len(parts) == 1 else Parallel(parts, source)


def is_metaseq(source: Path) -> bool:
    """Whether this looks like a metaseq checkpoint; ValueError if a file is damaged."""
    paths = sorted(source.glob("*.pt")) if source.is_dir() else [source]
    if not paths or paths[0].suffix != ".pt":
        return False
    contents = pickles.load(paths[0])
    return isinstance(contents, dict) and "model" in contents and bool({"cfg", "args"} & set(contents))


def _open(path: Path) -> dict[str, Any]:
    contents = pickles.load(path)
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ValueError(f"{path} is no metaseq checkpoint: it has no `model`")
    return contents
