"""Figures of models by measures, each kept in a file with what it was measured from, and measured once.

A figure stands while its command is the same, and so are names, sizes and times of the model's and the data's files.
"""

import dataclasses
import hashlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jam_jax import config
from jam_jax.evaluate.tables.describe import SEED, Row
from jam_jax.evaluate.tables.measures import Drawings, Figure, Measure

MODEL_FILES = ("model.json", "tokenizer", "checkpoints")  # of a model directory: what a figure depends on
REFUSED = 2  # exit code of a command whose options are wrong


@dataclasses.dataclass
class Results:
    """A directory of kept figures, and how new ones are measured."""

    directory: Path
    root: str  # where the measures' paths begin
    run: Callable[[list[str]], None]  # `python -m jam_jax.evaluate` with these arguments
    fresh: bool = False  # whether what was kept before is measured again
    _new: set[str] = dataclasses.field(default_factory=set)  # measured by this run
    _failed: dict[str, str] = dataclasses.field(default_factory=dict)  # by this run: why, for the next such column

    def figure(self, row: Row, measure: Measure) -> Figure:
        """The figure of a model, kept or measured now; a measure that fails is told of in one line, and in the figure.

        What is the user's to mend fails alone: missing or damaged files, another tokenizer, a model that gives what is
        no number or is too large for the devices.
        """
        try:
            return self._figure(row, measure)
        except _failures() as error:
            fault = (str(error).strip() or type(error).__name__).splitlines()[0]
        print(f"{_of(row)}, {measure.label}: {fault}", file=sys.stderr, flush=True)
        return Figure(None, fault=fault)

    def _figure(self, row: Row, measure: Measure) -> Figure:
        sources = tuple(self._path(source, row) for source in measure.sources())
        command = measure.command(row.model, sources)
        if not command:
            return measure.figure(Path(sources[0]))
        if not (Path(row.model) / "model.json").is_file():
            raise ValueError(f"{row.model} is no model directory: it has no model.json")
        name = f"{_slug(row.model)}-{command[0]}-{_digest(command)[:10]}"
        # Columns may share what a command leaves; which figure is read of it is the column's.
        kept = self.directory / f"{name}.json"
        left = self.directory / name if isinstance(measure, Drawings) else kept
        measured_from = {"command": command, "files": _state(row.model, (*sources, *_named(measure.typed)))}
        as_it_was = left.exists() and _was_measured_from(kept) == measured_from
        if as_it_was and (name in self._new or not self.fresh):
            return measure.figure(left)
        if name in self._failed:
            raise ValueError(self._failed[name])
        print(f"$ python -m jam_jax.evaluate {shlex.join(command)}", flush=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        shutil.rmtree(self.directory / name, ignore_errors=True)
        try:
            self._measure(command, left)
        except _failures() as error:
            self._failed[name] = str(error)
            raise
        values = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
        config.write_whole(kept, json.dumps({"measured_from": measured_from, **values}, indent=1) + "\n")
        self._new.add(name)
        return measure.figure(left)

    def _measure(self, command: list[str], out: Path) -> None:
        try:
            self.run([*command, "--out", str(out)])
        except SystemExit as stop:
            if stop.code != REFUSED:
                raise
            raise ValueError(f"its command was refused (above it says why): {' '.join(command)}") from stop

    def _path(self, source: str, row: Row) -> str:
        named = source.replace("{model}", row.model).replace(SEED, row.group)
        return named if "{model}" in source else str(Path(self.root) / named)


def _failures() -> tuple[type[Exception], ...]:
    """What ends one figure and no other: a user's mistake, a full disk, a device that is too small."""
    from jax.errors import JaxRuntimeError

    return ValueError, OSError, JaxRuntimeError


def _of(row: Row) -> str:
    return f"{row.label} ({row.group})" if row.group else row.label


def _slug(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", path).strip("-")[-60:]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _state(model: str, sources: tuple[str, ...]) -> str:
    """A digest of names, sizes and times of the files that a figure depends on."""
    places = [*(Path(model) / name for name in MODEL_FILES), *map(Path, sources)]
    return _digest([(str(p), p.stat().st_size, p.stat().st_mtime_ns) for place in places for p in _files(place)])


def _named(typed: tuple[str, ...]) -> list[str]:
    """The files and directories of a command line: `--neighbours DIR`, `--neighbours=DIR`."""
    values = (part.partition("=")[2] if part.startswith("--") else part for part in typed)
    return [value for value in values if value and Path(value).exists()]


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(path for path in place.rglob("*") if path.is_file())
    elif place.is_file():
        yield place


def _was_measured_from(kept: Path) -> Any:
    """What a kept figure says of itself; None where there is none, or none that can be read: it is measured again."""
    try:
        return json.loads(kept.read_text(encoding="utf-8"))["measured_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
