"""Checkpoints in pieces, joined as they are read: model-parallel parts, and metaseq's with FSDP's flat shards.

    {stem}.pt   {stem}-model_part-{i}.pt   {stem}-model_part-{i}-shard{j}.pt   {stem}-shard{j}.pt

A model-parallel part holds a slice of every matrix; an FSDP shard holds a slice of each module's parameters laid end
to end (`flat_param_0`), with their names and shapes in `shard_metadata`.
"""

import functools
import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jam_jax.convert import pickles
from jam_jax.convert.readers import Tensors, Weights

PIECE = re.compile(r"(?P<stem>.+?)(-model_part-(?P<part>\d+))?(-shard(?P<shard>\d+))?\.pt")

# How model parallelism cuts a tensor, by name: along an axis; "fused": rows are K, V, Q, and every part holds a slice
# of each; "own": every part has one for itself, stacked in front; "first" and "drifted": the same in all parts but for
# rounding, of which the first is taken or the mean. What no row matches is the same in all parts.
How = int | Literal["fused", "own", "first", "drifted"]
Cuts = tuple[tuple[str, How], ...]
CUTS: Cuts = (  # metaseq's
    (r"\.(embed_tokens|output_projection)\.weight$", 0),
    (r"\.qkv_proj\.(weight|bias)$", "fused"),
    (r"\.[qkv]_proj\.(weight|bias)$", 0),
    (r"\.fc1\.(weight|bias)$", 0),
    (r"\.(fc2|out_proj)\.weight$", 1),
    # Each part trains its own copy; metaseq's consolidation takes the first and logs by how much the others differ.
    (r"layer_norm\.(weight|bias)$|\.(fc2|out_proj)\.bias$|\.embed_positions\w*\.weight$", "first"),
)
FLAT = "flat_param_0"
# Ours: tells rounding from another model's weights. Of "first" a share of the largest value, of "drifted" relative and
# absolute, from the mean.
DRIFT = 0.05


class Piece(NamedTuple):
    """What one shard holds of a flat parameter."""

    shard: Tensors
    name: str
    length: int  # without padding


class Flat:
    """One part whose parameters lie end to end in FSDP shards."""

    def __init__(self, paths: list[Path]) -> None:
        self.shards = [Tensors(functools.partial(_model, path), path) for path in paths]
        self.pieces: dict[str, list[Piece]] = {}  # by flat parameter
        self.where: dict[str, tuple[str, int, tuple[int, ...]]] = {}  # name → flat parameter, offset, shape
        self.whole = self.shards[0]
        for shard, path in zip(self.shards, paths, strict=True):
            try:
                self._add(shard, _open(path)["shard_metadata"]["param_metadata"])
            except (KeyError, TypeError, AttributeError, ValueError) as error:
                raise ValueError(f"{path} is damaged: its shard_metadata does not describe its weights") from error
        for key, pieces in self.pieces.items():
            want = sum(math.prod(shape) for flat, _, shape in self.where.values() if flat == key)
            got = sum(piece.length for piece in pieces)
            if got != want:
                raise ValueError(
                    f"{key} should have {want} values and the {len(paths)} shards beside {paths[0]} hold {got}: "
                    "a shard is missing"
                )

    def _add(self, shard: Tensors, metadata: Any) -> None:
        for module in metadata:
            dot = module["fsdp_path"] + "." if module["fsdp_path"] else ""
            for flat, meta in module["params"].items():
                (length,) = shard.shape(dot + flat)
                used = range(length)[: length - meta["padding"]]
                self.pieces.setdefault(dot + flat, []).append(Piece(shard, dot + flat, len(used)))
                starts = np.cumsum([0, *meta["numels"]])[:-1].tolist()
                for name, shape, numel, start in zip(
                    meta["names"], meta["shapes"], meta["numels"], starts, strict=True
                ):
                    if math.prod(shape) != numel or {type(n) for n in (*shape, numel)} != {int} or min(shape) < 0:
                        raise ValueError(name)
                    self.where[dot + name] = (dot + flat, start, tuple(shape))

    def names(self) -> list[str]:
        """Parameters, then what is not sharded."""
        return [*self.where, *(name for name in self.whole.names() if not name.endswith(FLAT))]

    def shape(self, name: str) -> tuple[int, ...]:
        """From the metadata."""
        return self.where[name][2] if name in self.where else self.whole.shape(name)

    def dtype(self, name: str) -> np.dtype:
        """Of the flat parameter."""
        if name not in self.where:
            return self.whole.dtype(name)
        return _one_type(name, [piece.shard.dtype(piece.name) for piece in self.pieces[self.where[name][0]]])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """One parameter or some of its rows, from the shards that they lie in."""
        if name not in self.where:
            return self.whole.read(name, start, stop)
        flat, first, shape = self.where[name]
        row, rows = math.prod(shape[1:]), range(shape[0])[start:stop]
        begin, end, at, found = first + rows.start * row, first + rows.stop * row, 0, []
        for piece in self.pieces[flat]:
            low, high = max(begin - at, 0), min(end - at, piece.length)
            if low < high:
                found.append(piece.shard.read(piece.name, low, high))
            at += piece.length
        return np.concatenate(found).reshape(len(rows), *shape[1:])


class Parallel:
    """Model-parallel parts as one model; ValueError where they do not fit each other."""

    def __init__(self, parts: list[Weights], source: Path, cuts: Cuts = CUTS) -> None:
        self.parts = parts
        self.source = source
        self.cuts = cuts
        names = [sorted(p.names()) for p in parts]
        for i, other in enumerate(names):
            if odd := set(other) ^ set(names[0]):
                raise ValueError(f"{source}: model parts 0 and {i} do not hold the same names: {sorted(odd)[:3]}")

    def names(self) -> list[str]:
        """The same in every part."""
        return self.parts[0].names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the joined tensor."""
        how, shapes = self._how(name), [p.shape(name) for p in self.parts]
        axis = 0 if how == "fused" else how if isinstance(how, int) else None
        if axis is None or axis >= len(shapes[0]):
            if len(set(shapes)) > 1:
                raise ValueError(f"{self.source}: {name} should have one shape in all model parts, got {shapes}")
            return (len(shapes), *shapes[0]) if how == "own" else shapes[0]
        if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) > 1 or (how == "fused" and any(s[0] % 3 for s in shapes)):
            raise ValueError(f"{self.source}: {name}: the model parts' shapes cannot be joined, got {shapes}")
        return (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])

    def dtype(self, name: str) -> np.dtype:
        """The same in every part."""
        return _one_type(f"{self.source}: {name}", [p.dtype(name) for p in self.parts])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of the parts joined; ValueError where replicas differ: the parts are of different checkpoints."""
        how = self._how(name)
        if how == "own":
            return np.stack([p.read(name) for p in self.parts[start:stop]])
        if how in (0, "fused"):
            return self._rows(name, range(self.shape(name)[0])[start:stop], 3 if how == "fused" else 1)
        arrays = [p.read(name, start, stop) for p in self.parts]
        if isinstance(how, int):
            return np.concatenate(arrays, axis=how)
        if all(np.array_equal(a, arrays[0], equal_nan=True) for a in arrays[1:]):
            return arrays[0]
        if how == "first":
            first = arrays[0].astype(np.float32)
            most = DRIFT * np.abs(first).max(initial=0)
            if all(np.allclose(a.astype(np.float32), first, rtol=0, atol=most) for a in arrays[1:]):
                return arrays[0]
        if how == "drifted":
            mean = np.mean([a.astype(np.float32) for a in arrays], axis=0)
            if all(np.allclose(a.astype(np.float32), mean, rtol=DRIFT, atol=DRIFT) for a in arrays):
                return mean.astype(arrays[0].dtype)
        raise ValueError(
            f"{self.source}: {name} should be the same in all model parts and is not: parts of different checkpoints"
        )

    def _how(self, name: str) -> How | None:
        return next((how for pattern, how in self.cuts if re.search(pattern, name)), None)

    def _rows(self, name: str, wanted: range, fused: int) -> np.ndarray:
        """Rows of a tensor that is cut along them; of `fused` ones, [K_i; V_i; Q_i] of every part i, K, V, Q."""
        found, at = [], 0
        for third in range(fused):
            for part in self.parts:
                rows = part.shape(name)[0] // fused
                low, high = max(wanted.start - at, 0), min(wanted.stop - at, rows)
                if low < high:
                    found.append(part.read(name, third * rows + low, third * rows + high))
                at += rows
        return np.concatenate(found)


def _one_type(name: str, kinds: list[np.dtype]) -> np.dtype:
    if len(set(kinds)) > 1:
        raise ValueError(f"{name} should be of one type in all pieces, got {', '.join(map(str, kinds))}")
    return kinds[0]


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
            shards = found.setdefault(piece["stem"], {}).setdefault(int(piece["part"] or 0), {})
            other = shards.setdefault(int(piece["shard"] or 0), path)
            if other != path:  # a whole beside its parts, say
                raise ValueError(f"{other} and {path.name} are the same piece of a checkpoint: move one of them away")
    if source.is_file():
        piece = PIECE.fullmatch(source.name)
        found = {stem: parts for stem, parts in found.items() if piece and stem == piece["stem"]}
    if not found:
        raise ValueError(f"{source} holds no metaseq checkpoint: expected *.pt")
    if len(found) > 1:
        raise ValueError(f"{directory} holds several checkpoints ({', '.join(found)}): give --source a file of one")
    parts = next(iter(found.values()))
    count = max(max(p) for p in parts.values()) + 1
    wanted = {(i, j) for i in range(max(parts) + 1) for j in range(count)}
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
        first = _open(paths[0])
        if settings is None:
            cfg = pickles.plain(first.get("cfg")) or {}
            settings = cfg.get("model") if isinstance(cfg, dict) else None
            settings = settings or pickles.plain(first.get("args"))  # before metaseq had `cfg`
        if any(str(name).endswith(FLAT) for name in first["model"]):
            parts.append(Flat(paths))
        elif len(paths) == 1:
            parts.append(Tensors(functools.partial(_model, paths[0]), paths[0]))
        else:
            raise ValueError(f"{paths[0]} is one of {len(paths)} shards and has no flat parameters: unknown layout")
    if not isinstance(settings, dict):
        raise ValueError(f"{source} holds no settings of a metaseq model (cfg['model'] or args)")
    return settings, parts[0] if len(parts) == 1 else Parallel(parts, source)


def is_metaseq(source: Path) -> bool:
    """Whether this looks like a metaseq checkpoint; ValueError if a file is damaged."""
    paths = sorted(source.glob("*.pt")) if source.is_dir() else [source]
    if not paths or paths[0].suffix != ".pt" or not paths[0].is_file():
        return False
    contents = pickles.load(paths[0])
    return isinstance(contents, dict) and "model" in contents and bool({"cfg", "args"} & set(contents))


def _open(path: Path) -> dict[str, Any]:
    contents = pickles.load(path)
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ValueError(f"{path} is no metaseq checkpoint: it has no `model`")
    return contents


def _model(path: Path) -> dict[str, Any]:
    return dict(_open(path)["model"])
